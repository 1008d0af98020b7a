# SPDX-License-Identifier: MIT
"""What all TLS connections of one configuration share.

Files are read once, when a context is made; connections that exist keep the one that
they began with. What cannot be had raises ``ConfigError``, which names the setting, the
file and OpenSSL's reason.

Source: OpenSSL man pages SSL_CTX_new(3), SSL_CTX_use_certificate(3),
SSL_CTX_set_verify(3); RFC 5929, "The tls-server-end-point Channel Binding Type".
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize

from pooler.io.openssl cimport (
    ASN1_STRING, ASN1_STRING_to_UTF8, ERR_clear_error, ERR_peek_last_error,
    ERR_reason_error_string, EVP_MAX_MD_SIZE, EVP_MD, EVP_get_digestbynid,
    EVP_sha256, NID_commonName, NID_md5, NID_sha1, NID_undef, OBJ_find_sigid_algs,
    OPENSSL_free, SSL, SSL_CTX, SSL_CTX_check_private_key, SSL_CTX_free,
    SSL_CTX_get0_certificate, SSL_CTX_load_verify_locations, SSL_CTX_new,
    SSL_CTX_set1_groups_list, SSL_CTX_set_alpn_select_cb, SSL_CTX_set_cipher_list,
    SSL_CTX_set_ciphersuites, SSL_CTX_set_client_CA_list,
    SSL_CTX_set_default_verify_paths, SSL_CTX_set_dh_auto,
    SSL_CTX_set_min_proto_version, SSL_CTX_set_mode, SSL_CTX_set_num_tickets,
    SSL_CTX_set_options, SSL_CTX_set_session_cache_mode,
    SSL_CTX_set_session_id_context, SSL_CTX_set_tlsext_ticket_keys,
    SSL_CTX_set_verify, SSL_CTX_use_PrivateKey_file,
    SSL_CTX_use_certificate_chain_file, SSL_FILETYPE_PEM, SSL_MODE_RELEASE_BUFFERS,
    SSL_OP_CIPHER_SERVER_PREFERENCE, SSL_OP_NO_COMPRESSION, SSL_OP_NO_RENEGOTIATION,
    SSL_OP_NO_TICKET, SSL_OP_NO_TLSv1, SSL_OP_NO_TLSv1_1, SSL_OP_NO_TLSv1_2,
    SSL_OP_NO_TLSv1_3, SSL_SESS_CACHE_OFF, SSL_TLSEXT_ERR_ALERT_FATAL,
    SSL_TLSEXT_ERR_OK, SSL_VERIFY_FAIL_IF_NO_PEER_CERT, SSL_VERIFY_NONE,
    SSL_VERIFY_PEER, SSL_get0_param, SSL_get_peer_certificate,
    SSL_get_verify_result, SSL_load_client_CA_file, SSL_new, SSL_set_accept_state,
    SSL_set_alpn_protos, SSL_set_connect_state, SSL_set_tlsext_host_name,
    TLS1_VERSION, TLS_client_method, TLS_server_method, X509,
    X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, X509_NAME, X509_NAME_ENTRY_get_data,
    X509_NAME_get_entry, X509_NAME_get_index_by_NID, X509_VERIFY_PARAM,
    X509_VERIFY_PARAM_set1_host, X509_VERIFY_PARAM_set1_ip_asc,
    X509_VERIFY_PARAM_set_hostflags, X509_V_OK, X509_digest, X509_free,
    X509_get_signature_nid, X509_get_subject_name,
)
from pooler.io.tls cimport tls_of

import ipaddress
import os

from pooler.errors import ConfigError

TICKET_KEY_BYTES = 80

_VERSIONS = {
    "tlsv1.0": SSL_OP_NO_TLSv1,
    "tlsv1.1": SSL_OP_NO_TLSv1_1,
    "tlsv1.2": SSL_OP_NO_TLSv1_2,
    "tlsv1.3": SSL_OP_NO_TLSv1_3,
}
cdef const unsigned char *PROTOCOL = b"\x0apostgresql"
cdef enum:
    PROTOCOL_BYTES = 11


cdef int choose_protocol(
    SSL *ssl, const unsigned char **chosen, unsigned char *chosen_n,
    const unsigned char *offered, unsigned n, void *data,
) noexcept nogil:
    """A client that offers protocols must offer PostgreSQL's ("ALPN")."""
    cdef unsigned at = 0
    cdef int i
    while at < n and at + 1 + offered[at] <= n:
        if offered[at] == PROTOCOL[0]:
            for i in range(1, PROTOCOL_BYTES):
                if offered[at + i] != PROTOCOL[i]:
                    break
            else:
                chosen[0] = PROTOCOL + 1
                chosen_n[0] = PROTOCOL[0]
                return SSL_TLSEXT_ERR_OK
        at += 1 + offered[at]
    return SSL_TLSEXT_ERR_ALERT_FATAL


cdef bytes hash_of(const X509 *certificate):
    """What ``tls-server-end-point`` binds to: the hash that its signature is made of.

    SHA-256 in the place of MD5 and SHA-1, and where there is none.
    """
    cdef unsigned char digest[EVP_MAX_MD_SIZE]
    cdef unsigned n = 0
    cdef int hash_nid = NID_undef
    cdef const EVP_MD *md = NULL
    OBJ_find_sigid_algs(X509_get_signature_nid(certificate), &hash_nid, NULL)
    if hash_nid not in (NID_undef, NID_md5, NID_sha1):
        md = EVP_get_digestbynid(hash_nid)
    if md == NULL:
        md = EVP_sha256()
    if not X509_digest(certificate, md, digest, &n):
        raise MemoryError
    return PyBytes_FromStringAndSize(<const char *> digest, n)


def _reason():
    """What OpenSSL has met last."""
    cdef unsigned long code = ERR_peek_last_error()
    cdef const char *text = ERR_reason_error_string(code) if code else NULL
    ERR_clear_error()
    return text.decode() if text != NULL else "reason unknown"


def _check(ok, setting, value):
    if ok <= 0:
        raise ConfigError(f"{value}: {_reason()}", setting=setting)


def _readable(setting, path):
    """Say why a file cannot be read in the system's words, which are better."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", setting=setting) from None


cdef int set_versions(SSL_CTX *context, bint accepts, versions) except -1:
    cdef unsigned long refused = 0
    for name, bit in _VERSIONS.items():
        if name not in versions:
            refused |= bit
    SSL_CTX_set_min_proto_version(context, TLS1_VERSION)
    SSL_CTX_set_options(
        context,
        refused | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION
        | SSL_OP_CIPHER_SERVER_PREFERENCE,
    )
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS)
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF)
    if accepts:
        SSL_CTX_set_alpn_select_cb(context, choose_protocol, NULL)
    return 0


cdef int set_certificate(
    SSL_CTX *context, str prefix, str cert_file, str key_file
) except -1:
    _readable(f"{prefix}_cert_file", cert_file)
    _check(
        SSL_CTX_use_certificate_chain_file(context, os.fsencode(cert_file)),
        f"{prefix}_cert_file", cert_file,
    )
    _readable(f"{prefix}_key_file", key_file)
    _check(
        SSL_CTX_use_PrivateKey_file(
            context, os.fsencode(key_file), SSL_FILETYPE_PEM
        ),
        f"{prefix}_key_file", key_file,
    )
    _check(
        SSL_CTX_check_private_key(context), f"{prefix}_key_file", key_file
    )
    return 0


cdef int set_verify(
    SSL_CTX *context, bint accepts, str prefix, str ca_file, int mode
) except -1:
    SSL_CTX_set_verify(context, mode, NULL)
    if not ca_file:
        if mode != SSL_VERIFY_NONE:
            SSL_CTX_set_default_verify_paths(context)
        return 0
    _readable(f"{prefix}_ca_file", ca_file)
    path = os.fsencode(ca_file)
    _check(
        SSL_CTX_load_verify_locations(context, path, NULL),
        f"{prefix}_ca_file", ca_file,
    )
    if accepts:
        SSL_CTX_set_client_CA_list(context, SSL_load_client_CA_file(path))
    return 0


cdef int set_ciphers(
    SSL_CTX *context, str prefix, str ciphers, str suites, str groups, bint dh_auto
) except -1:
    if ciphers:
        _check(
            SSL_CTX_set_cipher_list(context, ciphers.encode()),
            f"{prefix}_ciphers", ciphers,
        )
    if suites:
        _check(
            SSL_CTX_set_ciphersuites(context, suites.encode()),
            f"{prefix.removesuffix('_tls')}_tls13_ciphers", suites,
        )
    if groups:
        _check(
            SSL_CTX_set1_groups_list(context, groups.encode()),
            f"{prefix}_ecdhcurve", groups,
        )
    SSL_CTX_set_dh_auto(context, dh_auto)
    return 0


cdef int set_tickets(SSL_CTX *context, bytes keys) except -1:
    """A client that comes again needs no new handshake, whichever worker it meets."""
    SSL_CTX_set_session_id_context(context, b"pooler", 6)
    if not keys:
        SSL_CTX_set_num_tickets(context, 0)
        SSL_CTX_set_options(context, SSL_OP_NO_TICKET)
        return 0
    if len(keys) != TICKET_KEY_BYTES:
        raise ValueError(f"ticket keys of {len(keys)} bytes")
    SSL_CTX_set_num_tickets(context, 1)
    SSL_CTX_set_tlsext_ticket_keys(context, <char *> keys, len(keys))
    return 0


@cython.final
cdef class TlsContext:
    """An SSL_CTX.

    ``accepts``: for connections that clients open; else for those that we open.
    ``prefix``: what the names of the settings begin with, for errors. ``verify``: the
    peer must show a certificate that ``ca_file`` vouches for, or for servers the
    system's authorities; ``verify_if_shown``: or none. ``checks_host``: and it must
    be the one of that host.
    ``ciphers``, ``suites``, ``groups``: as OpenSSL writes them, empty for its defaults.
    ``ticket_keys``: TICKET_KEY_BYTES that all workers share, or empty: no tickets.
    """

    def __cinit__(
        self, *, bint accepts, str prefix, versions, str cert_file="", str key_file="",
        str ca_file="", bint verify=False, bint verify_if_shown=False,
        bint checks_host=False, str ciphers="", str suites="", str groups="",
        bint dh_auto=False, bytes ticket_keys=b"",
    ):
        self.context = SSL_CTX_new(
            TLS_server_method() if accepts else TLS_client_method()
        )
        if self.context == NULL:
            raise MemoryError
        self.accepts = accepts
        self.checks_host = checks_host
        self.certificate_hash = b""
        ERR_clear_error()
        set_versions(self.context, accepts, versions)
        if cert_file:
            set_certificate(self.context, prefix, cert_file, key_file)
            self.certificate_hash = hash_of(SSL_CTX_get0_certificate(self.context))
        set_verify(
            self.context, accepts, prefix, ca_file,
            SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT if verify
            else SSL_VERIFY_PEER if verify_if_shown
            else SSL_VERIFY_NONE,
        )
        set_ciphers(self.context, prefix, ciphers, suites, groups, dh_auto)
        if accepts:
            set_tickets(self.context, ticket_keys)

    def __dealloc__(self):
        if self.context != NULL:
            SSL_CTX_free(self.context)


# ---------------------------------------------------------------- connections

cdef SSL *accepting(TlsContext context):
    """For a client that begins; NULL without memory."""
    return accepting_by(context.context)


cdef SSL *accepting_by(SSL_CTX *context) noexcept nogil:
    """The same; the connection keeps the context as long as it needs it."""
    cdef SSL *ssl = SSL_new(context)
    if ssl != NULL:
        SSL_set_accept_state(ssl)
    return ssl


cdef SSL *connecting(TlsContext context, str host, bint direct) except *:
    """For a server at ``host``; NULL without memory.

    ``direct``: nothing was asked before, so the protocol is named (ALPN).
    """
    cdef SSL *ssl = SSL_new(context.context)
    cdef X509_VERIFY_PARAM *wanted
    if ssl == NULL:
        return NULL
    SSL_set_connect_state(ssl)
    name = host.encode("idna") if not host.isascii() else host.encode()
    if context.checks_host:
        wanted = SSL_get0_param(ssl)
        X509_VERIFY_PARAM_set_hostflags(wanted, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS)
        if not X509_VERIFY_PARAM_set1_ip_asc(wanted, name):
            X509_VERIFY_PARAM_set1_host(wanted, name, len(name))
    if not _is_address(host):
        SSL_set_tlsext_host_name(ssl, name)
    if direct:
        SSL_set_alpn_protos(ssl, PROTOCOL, PROTOCOL_BYTES)
    ERR_clear_error()
    return ssl


def _is_address(host):
    """Whether a host is written as an address: such a one is no name to ask for."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


cdef bytes peer_hash(const Conn *conn):
    """Of the certificate that the peer has shown, for channel binding; b"": none."""
    cdef X509 *certificate
    if conn.tls == NULL:
        return b""
    certificate = SSL_get_peer_certificate(tls_of(conn).ssl)
    if certificate == NULL:
        return b""
    try:
        return hash_of(certificate)
    finally:
        X509_free(certificate)


cdef bytes peer_name(const Conn *conn):
    """The common name in the certificate that the peer has shown and we have verified.

    b"": it has shown none, or one with no name, with two, or with a zero byte in it.
    """
    cdef X509 *certificate = NULL
    cdef X509_NAME *subject
    cdef int at
    if conn.tls != NULL and SSL_get_verify_result(tls_of(conn).ssl) == X509_V_OK:
        certificate = SSL_get_peer_certificate(tls_of(conn).ssl)
    if certificate == NULL:
        return b""
    try:
        subject = X509_get_subject_name(certificate)
        at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1)
        if at < 0 or X509_NAME_get_index_by_NID(subject, NID_commonName, at) >= 0:
            return b""
        name = utf8_of(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)))
        return b"" if b"\0" in name else name
    finally:
        X509_free(certificate)


cdef bytes utf8_of(const ASN1_STRING *text):
    cdef unsigned char *out = NULL
    cdef int n = ASN1_STRING_to_UTF8(&out, text)
    if n < 0:
        return b""
    try:
        return PyBytes_FromStringAndSize(<const char *> out, n)
    finally:
        OPENSSL_free(out)
