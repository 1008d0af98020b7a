# SPDX-License-Identifier: MIT
"""TLS as a transport: what travels on the socket is not what the session sees.

IO layer, hot. OpenSSL never sees a socket. It reads what one receive has brought from
the loop's buffer and leaves records in the loop's output, which goes out in one send;
only what is cut, or what the kernel does not take, is stored with the connection. So an
idle connection has an ``SSL`` without buffers, and nothing else.

Records are as big as suits who reads them: such that one TCP segment holds at the
beginning and after a pause, of 16 KiB where much is sent.

What is readable is more than epoll knows of: plain bytes that did not fit into the
caller's room wait in OpenSSL. Such a connection is on the loop's list of those that
have ``more`` and is served in the next turn.

Source: OpenSSL man pages SSL_read(3), SSL_write(3), BIO_meth_new(3); PostgreSQL
documentation, "SSL Session Encryption".
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from pooler.io.conn cimport Conn, Loop, Transport
from pooler.io.openssl cimport SSL
from pooler.io.syscalls cimport ssize_t
from pooler.wire.buffers cimport Queue

cdef struct Tls:  # own of a connection
    SSL *ssl  # own
    Loop *loop  # borrow
    const uint8_t *came  # borrow for one receive: what has come, came_n bytes
    size_t came_n
    Queue held  # came, and OpenSSL has not asked for it
    Queue out  # records that the kernel has not taken
    uint64_t sent_us  # when something was sent last
    uint32_t run_bytes  # sent without a pause, as far as it matters for their records
    bint wipes  # what comes may be a password, which OpenSSL would keep a copy of
    bint more  # plain bytes wait in OpenSSL
    bint established  # the handshake is over
    bint ended  # the peer has said that nothing follows
    bint failed  # nothing can be read or sent any more
    const char *error  # why, static; NULL: nothing has failed

cdef Transport TLS

cdef int tls_begin(Loop *L, Conn *conn, SSL *ssl) noexcept nogil
cdef bint tls_is_established(const Conn *conn) noexcept nogil
cdef void tls_has_come(Conn *conn, Queue *held) noexcept nogil
cdef const char *tls_error(const Conn *conn) noexcept nogil
cdef object tls_facts(const Conn *conn)
cdef void tls_free(Tls *t) noexcept nogil


cdef inline Tls *tls_of(const Conn *conn) noexcept nogil:
    """NULL: a plain connection."""
    return <Tls *> conn.tls
