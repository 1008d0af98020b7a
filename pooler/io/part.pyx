# SPDX-License-Identifier: MIT
"""Connections that are closed here and not yet in PostgreSQL; see ``part.pxd``."""

from libc.errno cimport ECONNRESET, EPIPE
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free

from pooler.io.conn cimport (
    KIND_PARTING, NOTICE_GONE, NOTICE_PARTED, conn_enter, conn_handle, conn_leave,
    conn_replace, notice,
)
from pooler.io.poll cimport WATCH_READ, watch
from pooler.io.syscalls cimport EAGAIN, ENOMEM, ssize_t, sys_recv
from pooler.io.transport cimport PLAIN

cdef enum:
    TERMINATE_BYTES = 5

cdef uint8_t TERMINATE[TERMINATE_BYTES]
TERMINATE[0] = c"X"
TERMINATE[4] = TERMINATE_BYTES - 1


cdef void part(Loop *L, Conn *old, bint at_work) noexcept nogil:
    """Say that nothing follows, and wait for PostgreSQL's end; frees ``old``.

    Terminate is sent only to a server that is not ``at_work``: behind a part of a
    message it would be read as the rest of that. Without memory the connection is given
    up at once.
    """
    cdef Conn *conn = <Conn *> calloc(1, sizeof(Conn))
    if not at_work:
        old.transport.send(old, TERMINATE, TERMINATE_BYTES)
    old.transport.part(old)
    old.transport = &PLAIN
    watch(L, old, 0)
    if conn == NULL:
        notice(L, NOTICE_GONE, conn_handle(L, old), ENOMEM)
        conn_leave(L, old)
        return
    conn.kind = KIND_PARTING
    conn_replace(L, old, conn)
    L.parting_count += 1
    notice(L, NOTICE_PARTED, conn_handle(L, conn), at_work)
    if watch(L, conn, WATCH_READ) < 0:
        parting_gone(L, conn, ENOMEM)


cdef Conn *part_open(Loop *L, int fd) noexcept nogil:
    """The same for a socket of somebody else's; NULL: it is still the caller's."""
    cdef Conn *conn = <Conn *> calloc(1, sizeof(Conn))
    if conn == NULL or conn_enter(L, conn) < 0:
        free(conn)
        return NULL
    conn.transport = &PLAIN
    conn.kind = KIND_PARTING
    conn.fd = fd
    L.parting_count += 1
    PLAIN.part(conn)
    if watch(L, conn, WATCH_READ) < 0:
        conn.fd = -1  # the caller's
        parting_close(L, conn)
        return NULL
    return conn


cdef void parting_ready(Loop *L, Conn *conn) noexcept nogil:
    """Drop what has come. A backend that cannot send could not be cancelled either."""
    cdef ssize_t n = sys_recv(conn.fd, L.recv_buffer, L.recv_bytes)
    L.counters.recvs += 1
    if n > 0 or n == -EAGAIN:
        return
    # a backend that ends without having read everything resets the connection
    parting_gone(L, conn, 0 if n in (0, -ECONNRESET, -EPIPE) else <int> -n)


cdef void parting_gone(Loop *L, Conn *conn, int error) noexcept nogil:
    notice(L, NOTICE_GONE, conn_handle(L, conn), error)
    parting_close(L, conn)


cdef void parting_close(Loop *L, Conn *conn) noexcept nogil:
    """Nobody waits for it any more. Python is not told."""
    L.parting_count -= 1
    if conn.fd >= 0:
        conn.transport.abort(conn)
        watch(L, conn, 0)
    conn_leave(L, conn)
