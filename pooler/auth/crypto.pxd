# SPDX-License-Identifier: MIT
"""What proofs use of libcrypto, 1.1.1 or newer.

Source: OpenSSL man pages EVP_DigestInit(3), EVP_EncodeBlock(3), CRYPTO_memcmp(3),
OPENSSL_cleanse(3), RAND_bytes(3).
"""

cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_MD
    const EVP_MD *EVP_sha256()
    const EVP_MD *EVP_md5()
    int EVP_Digest(
        const void *src, size_t n, unsigned char *out, unsigned *out_n,
        const EVP_MD *md, void *engine,
    )
    ctypedef struct EVP_MD_CTX
    EVP_MD_CTX *EVP_MD_CTX_new()
    void EVP_MD_CTX_free(EVP_MD_CTX *ctx)
    int EVP_DigestInit_ex(EVP_MD_CTX *ctx, const EVP_MD *md, void *engine)
    int EVP_DigestUpdate(EVP_MD_CTX *ctx, const void *src, size_t n)
    int EVP_DigestFinal_ex(EVP_MD_CTX *ctx, unsigned char *out, unsigned *out_n)
    int EVP_EncodeBlock(unsigned char *out, const unsigned char *src, int n)

cdef extern from "<openssl/crypto.h>" nogil:
    int CRYPTO_memcmp(const void *a, const void *b, size_t n)
    void OPENSSL_cleanse(void *p, size_t n)

cdef extern from "<openssl/rand.h>" nogil:
    int RAND_bytes(unsigned char *out, int n)
