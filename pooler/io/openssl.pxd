# SPDX-License-Identifier: MIT
"""What is used of OpenSSL, 1.1.1 or newer.

Source: OpenSSL man pages ssl(7), bio(7), SSL_read(3), BIO_meth_new(3), X509_digest(3).
"""

from libc.stdint cimport uint64_t

cdef extern from "<openssl/bio.h>" nogil:
    ctypedef struct BIO
    ctypedef struct BIO_METHOD
    enum:
        BIO_CTRL_FLUSH
        BIO_TYPE_SOURCE_SINK
    int BIO_get_new_index()
    BIO_METHOD *BIO_meth_new(int type, const char *name)
    int BIO_meth_set_read(BIO_METHOD *m, int (*read)(BIO *, char *, int) noexcept nogil)
    int BIO_meth_set_write(
        BIO_METHOD *m, int (*write)(BIO *, const char *, int) noexcept nogil
    )
    int BIO_meth_set_ctrl(
        BIO_METHOD *m, long (*ctrl)(BIO *, int, long, void *) noexcept nogil
    )
    BIO *BIO_new(const BIO_METHOD *m)
    int BIO_free(BIO *bio)
    void BIO_set_data(BIO *bio, void *data)
    void *BIO_get_data(BIO *bio)
    void BIO_set_init(BIO *bio, int init)
    void BIO_clear_retry_flags(BIO *bio)
    void BIO_set_retry_read(BIO *bio)

cdef extern from "<openssl/x509.h>" nogil:
    ctypedef struct X509
    ctypedef struct EVP_MD
    enum:
        X509_V_OK
    int X509_digest(const X509 *x, const EVP_MD *md, unsigned char *out, unsigned *n)
    int X509_get_signature_nid(const X509 *x)
    void X509_free(X509 *x)
    ctypedef struct X509_NAME
    ctypedef struct X509_NAME_ENTRY
    ctypedef struct ASN1_STRING
    X509_NAME *X509_get_subject_name(const X509 *x)
    int X509_NAME_get_index_by_NID(X509_NAME *name, int nid, int last)
    X509_NAME_ENTRY *X509_NAME_get_entry(X509_NAME *name, int at)
    ASN1_STRING *X509_NAME_ENTRY_get_data(X509_NAME_ENTRY *entry)
    int ASN1_STRING_to_UTF8(unsigned char **out, const ASN1_STRING *text)
    ctypedef struct X509_VERIFY_PARAM
    int X509_VERIFY_PARAM_set1_host(X509_VERIFY_PARAM *p, const char *name, size_t n)
    int X509_VERIFY_PARAM_set1_ip_asc(X509_VERIFY_PARAM *p, const char *address)
    void X509_VERIFY_PARAM_set_hostflags(X509_VERIFY_PARAM *p, unsigned flags)
    const char *X509_verify_cert_error_string(long n)

cdef extern from "<openssl/x509v3.h>" nogil:
    enum:
        X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS

cdef extern from "<openssl/evp.h>" nogil:
    enum:
        EVP_MAX_MD_SIZE
    const EVP_MD *EVP_sha256()
    const EVP_MD *EVP_get_digestbynid(int nid)

cdef extern from "<openssl/objects.h>" nogil:
    enum:
        NID_md5
        NID_sha1
        NID_undef
        NID_commonName
    int OBJ_find_sigid_algs(int signature, int *digest, int *key)

cdef extern from "<openssl/crypto.h>" nogil:
    void OPENSSL_free(void *p)

cdef extern from "<openssl/err.h>" nogil:
    unsigned long ERR_peek_last_error()
    void ERR_clear_error()
    void ERR_error_string_n(unsigned long code, char *text, size_t n)
    const char *ERR_reason_error_string(unsigned long code)

cdef extern from *:
    """
    #include <openssl/ssl.h>
    #ifndef SSL_OP_CLEANSE_PLAINTEXT /* OpenSSL 3.0 and newer */
    #define SSL_OP_CLEANSE_PLAINTEXT 0
    #endif
    """
    enum:
        SSL_OP_CLEANSE_PLAINTEXT

cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct SSL
    ctypedef struct SSL_CTX
    ctypedef struct SSL_METHOD
    ctypedef struct SSL_CIPHER
    enum:
        SSL_ERROR_NONE
        SSL_ERROR_WANT_READ
        SSL_ERROR_ZERO_RETURN
        SSL_FILETYPE_PEM
        SSL_MODE_RELEASE_BUFFERS
        SSL_MODE_ENABLE_PARTIAL_WRITE
        SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
        SSL_OP_NO_RENEGOTIATION
        SSL_OP_NO_COMPRESSION
        SSL_OP_NO_TICKET
        SSL_OP_CIPHER_SERVER_PREFERENCE
        SSL_OP_NO_TLSv1
        SSL_OP_NO_TLSv1_1
        SSL_OP_NO_TLSv1_2
        SSL_OP_NO_TLSv1_3
        SSL_SESS_CACHE_OFF
        SSL_VERIFY_NONE
        SSL_VERIFY_PEER
        SSL_VERIFY_FAIL_IF_NO_PEER_CERT
        SSL_TLSEXT_ERR_OK
        SSL_TLSEXT_ERR_ALERT_FATAL
        TLS1_VERSION
    const SSL_METHOD *TLS_server_method()
    const SSL_METHOD *TLS_client_method()
    SSL_CTX *SSL_CTX_new(const SSL_METHOD *method)
    void SSL_CTX_free(SSL_CTX *ctx)
    uint64_t SSL_CTX_set_options(SSL_CTX *ctx, uint64_t options)
    long SSL_CTX_set_mode(SSL_CTX *ctx, long mode)
    long SSL_CTX_set_session_cache_mode(SSL_CTX *ctx, long mode)
    int SSL_CTX_set_min_proto_version(SSL_CTX *ctx, int version)
    int SSL_CTX_use_certificate_chain_file(SSL_CTX *ctx, const char *path)
    int SSL_CTX_use_PrivateKey_file(SSL_CTX *ctx, const char *path, int type)
    int SSL_CTX_check_private_key(const SSL_CTX *ctx)
    int SSL_CTX_load_verify_locations(
        SSL_CTX *ctx, const char *file, const char *folder
    )
    int SSL_CTX_set_default_verify_paths(SSL_CTX *ctx)
    ctypedef struct STACK_OF_X509_NAME "STACK_OF(X509_NAME)"
    STACK_OF_X509_NAME *SSL_load_client_CA_file(const char *path)
    void SSL_CTX_set_client_CA_list(SSL_CTX *ctx, STACK_OF_X509_NAME *names)
    void SSL_CTX_set_verify(SSL_CTX *ctx, int mode, void *callback)
    int SSL_CTX_set_cipher_list(SSL_CTX *ctx, const char *names)
    int SSL_CTX_set_ciphersuites(SSL_CTX *ctx, const char *names)
    int SSL_CTX_set1_groups_list(SSL_CTX *ctx, const char *names)
    long SSL_CTX_set_dh_auto(SSL_CTX *ctx, int on)
    int SSL_CTX_set_num_tickets(SSL_CTX *ctx, size_t n)
    long SSL_CTX_set_tlsext_ticket_keys(SSL_CTX *ctx, void *keys, long n)
    int SSL_CTX_set_session_id_context(
        SSL_CTX *ctx, const unsigned char *name, unsigned n
    )
    void SSL_CTX_set_alpn_select_cb(
        SSL_CTX *ctx,
        int (*select)(
            SSL *, const unsigned char **, unsigned char *, const unsigned char *,
            unsigned, void *
        ) noexcept nogil,
        void *data,
    )
    X509 *SSL_CTX_get0_certificate(const SSL_CTX *ctx)
    SSL *SSL_new(SSL_CTX *ctx)
    void SSL_free(SSL *ssl)
    uint64_t SSL_set_options(SSL *ssl, uint64_t options)
    uint64_t SSL_clear_options(SSL *ssl, uint64_t options)
    void SSL_set_bio(SSL *ssl, BIO *into, BIO *out)
    void SSL_set_accept_state(SSL *ssl)
    void SSL_set_connect_state(SSL *ssl)
    long SSL_set_tlsext_host_name(SSL *ssl, const char *name)
    int SSL_set_alpn_protos(SSL *ssl, const unsigned char *names, unsigned n)
    X509_VERIFY_PARAM *SSL_get0_param(SSL *ssl)
    X509 *SSL_get_peer_certificate(const SSL *ssl)
    int SSL_do_handshake(SSL *ssl)
    int SSL_is_init_finished(const SSL *ssl)
    int SSL_is_server(const SSL *ssl)
    int SSL_read(SSL *ssl, void *into, int n)
    int SSL_write(SSL *ssl, const void *src, int n)
    int SSL_pending(const SSL *ssl)
    int SSL_shutdown(SSL *ssl)
    int SSL_get_error(const SSL *ssl, int code)
    long SSL_get_verify_result(const SSL *ssl)
    const char *SSL_get_version(const SSL *ssl)
    const SSL_CIPHER *SSL_get_current_cipher(const SSL *ssl)
    const char *SSL_CIPHER_get_name(const SSL_CIPHER *cipher)
    void SSL_get0_alpn_selected(
        const SSL *ssl, const unsigned char **data, unsigned *n
    )
