# SPDX-License-Identifier: MIT
"""Transports, and streams over them; see ``transport.pxd``."""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from pooler.io.poll cimport WATCH_WRITE, watch_also, watch_no_more
from pooler.io.syscalls cimport (
    EAGAIN, EMSGSIZE, ENOMEM, SHUT_RDWR, SHUT_WR, c_close, shutdown, sys_recv, sys_send,
    sys_socket_error,
)
from pooler.wire.buffers cimport queue_add, queue_drop, queue_reset, queue_size

cdef enum:
    SWALLOW_BYTES = 16384
    SWALLOW_ROUNDS = 32


# ---------------------------------------------------------------- a plain socket

cdef ssize_t plain_receive(Conn *conn, uint8_t *into, size_t n) noexcept nogil:
    return sys_recv(conn.fd, into, n)


cdef ssize_t plain_send(Conn *conn, const uint8_t *src, size_t n) noexcept nogil:
    return sys_send(conn.fd, src, n)


cdef int plain_connected(Conn *conn) noexcept nogil:
    return sys_socket_error(conn.fd)


cdef void plain_abort(Conn *conn) noexcept nogil:
    shutdown(conn.fd, SHUT_RDWR)


cdef void plain_part(Conn *conn) noexcept nogil:
    shutdown(conn.fd, SHUT_WR)


cdef void plain_close(Conn *conn) noexcept nogil:
    """Idempotent."""
    if conn.fd >= 0:
        c_close(conn.fd)
    conn.fd = -1

PLAIN.receive = plain_receive
PLAIN.send = plain_send
PLAIN.connected = plain_connected
PLAIN.abort = plain_abort
PLAIN.part = plain_part
PLAIN.close = plain_close


# ---------------------------------------------------------------- streams

cdef ssize_t stream_receive(
    Loop *L, Conn *conn, Queue *held, size_t most
) noexcept nogil:
    """One receive behind what is held, which it empties into the receive buffer.

    At most ``most`` bytes, which is not more than the buffer takes.

    Returns how many bytes are in the buffer, 0 at end of file, or -errno: -EAGAIN
    when nothing has come, -EMSGSIZE when what is held fills the buffer already.
    """
    cdef size_t n = queue_size(held)
    cdef ssize_t got
    if n >= L.recv_bytes:
        return -EMSGSIZE
    if most > L.recv_bytes - n:
        most = L.recv_bytes - n
    got = conn.transport.receive(conn, L.recv_buffer + n, most)
    L.counters.recvs += 1
    if got <= 0 or n == 0:
        return got
    memcpy(L.recv_buffer, held.data + held.start, n)
    queue_reset(held)
    return <ssize_t> n + got


cdef int stream_write(
    Loop *L, Conn *conn, Queue *out, const uint8_t *src, size_t n
) noexcept nogil:
    """Send in order; what is not taken is queued and tried again.

    Returns 0, -ENOMEM when the rest cannot be queued, else -errno: the peer is gone.
    """
    cdef ssize_t sent = 0
    if n == 0:
        return 0
    if out.cap == 0:
        sent = conn.transport.send(conn, src, n)
        L.counters.sends += 1
        if sent < 0:
            if sent != -EAGAIN:
                return <int> sent
            sent = 0
        if <size_t> sent == n:
            return 0
        if watch_also(L, conn, WATCH_WRITE) < 0:
            return -ENOMEM
    return 0 if queue_add(out, src + sent, n - <size_t> sent) == 0 else -ENOMEM


cdef int stream_flush(Loop *L, Conn *conn, Queue *out) noexcept nogil:
    """Send what is queued; 0 (maybe with a rest), or -errno when the peer is gone."""
    cdef ssize_t sent
    cdef int code
    if out.cap:
        sent = conn.transport.send(conn, out.data + out.start, queue_size(out))
        L.counters.sends += 1
        if sent < 0:
            return 0 if sent == -EAGAIN else <int> sent
        queue_drop(out, <size_t> sent)
    if out.cap:
        return 0
    code = conn.transport.flush(conn) if conn.transport.flush != NULL else 0
    if code == 0:
        return watch_no_more(L, conn, WATCH_WRITE)
    return 0 if code == -EAGAIN else code


cdef void stream_swallow(Loop *L, Conn *conn) noexcept nogil:
    """Read and forget what has arrived, a bounded amount.

    Closing a socket with unread input resets it: the reset overtakes the last message
    that we sent, and a client that has said farewell itself takes it for a failure.
    """
    cdef uint8_t rest[SWALLOW_BYTES]
    cdef int _round
    for _round in range(SWALLOW_ROUNDS):
        if conn.transport.receive(conn, rest, SWALLOW_BYTES) <= 0:
            break
