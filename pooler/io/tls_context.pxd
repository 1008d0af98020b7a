# SPDX-License-Identifier: MIT
"""What all TLS connections of one configuration share. IO layer, cold."""

from pooler.io.conn cimport Conn
from pooler.io.openssl cimport SSL, SSL_CTX


cdef class TlsContext:
    cdef SSL_CTX *context  # own
    cdef bint accepts  # for peers that begin: clients
    cdef bint checks_host
    cdef readonly bytes certificate_hash  # ours, for channel binding; b"": none

cdef SSL *accepting(TlsContext context)
cdef SSL *accepting_by(SSL_CTX *context) noexcept nogil
cdef SSL *connecting(TlsContext context, str host, bint direct) except *
cdef bytes peer_hash(const Conn *conn)
cdef bytes peer_name(const Conn *conn)
