# SPDX-License-Identifier: MIT
"""Links; see ``link.pxd``."""

from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free

from pooler.io.conn cimport KIND_LINK, KIND_SERVER, conn_enter, conn_leave, conn_replace
from pooler.io.part cimport part
from pooler.io.poll cimport WATCH_READ, WATCH_WRITE, watch, watch_also
from pooler.io.transport cimport PLAIN, stream_write
from pooler.session.records cimport server_begin
from pooler.wire.buffers cimport queue_reset


cdef LinkConn *open_link(Loop *L, int fd) noexcept nogil:
    """A socket that is being connected; NULL without memory: it is still the caller's.

    Python hears of it when it is connected, or cannot be.
    """
    cdef LinkConn *link = <LinkConn *> calloc(1, sizeof(LinkConn))
    if link == NULL or conn_enter(L, &link.conn) < 0:
        free(link)
        return NULL
    link.conn.transport = &PLAIN
    link.conn.fd = fd
    link.conn.kind = KIND_LINK
    link.connecting = True
    L.link_count += 1
    if watch(L, &link.conn, WATCH_WRITE) < 0:
        link.conn.fd = -1  # the caller's
        close_link(L, link)
        return NULL
    return link


cdef void close_link(Loop *L, LinkConn *link) noexcept nogil:
    queue_reset(&link.stream.held)
    queue_reset(&link.stream.out)
    L.link_count -= 1
    conn_leave(L, &link.conn)


cdef void part_link(Loop *L, LinkConn *link) noexcept nogil:
    """A link to PostgreSQL, whose backend counts until it has ended."""
    if link.connecting:
        close_link(L, link)
        return
    queue_reset(&link.stream.held)
    queue_reset(&link.stream.out)
    L.link_count -= 1
    part(L, &link.conn, True)


cdef int link_send(
    Loop *L, LinkConn *link, const uint8_t *src, size_t n
) noexcept nogil:
    """0, or -errno: the peer is gone, though it may have said why."""
    return stream_write(L, &link.conn, &link.stream.out, src, n)


cdef int link_listen(Loop *L, LinkConn *link) noexcept nogil:
    """Python has taken what there was: read on. -errno when it cannot be watched."""
    link.noticed = False
    if link.ended or link.connecting:
        return 0
    return watch_also(L, &link.conn, WATCH_READ)


cdef ServerConn *link_becomes_server(Loop *L, LinkConn *link) noexcept nogil:
    """The server behind a link has logged in; NULL without memory: nothing has changed.

    The link must hold nothing and have nothing to send. Its handle is the server's. If
    it is not watched, it cannot be, and is to be closed once a pool has it.
    """
    cdef ServerConn *sc = <ServerConn *> calloc(1, sizeof(ServerConn))
    if sc == NULL or watch(L, &link.conn, 0) < 0:
        free(sc)
        return NULL
    sc.conn.kind = KIND_SERVER
    conn_replace(L, &link.conn, &sc.conn)
    sc.conn.suspended = L.suspended
    watch(L, &sc.conn, WATCH_READ)
    server_begin(&sc.session, &L.relay.wheel, sc)
    L.link_count -= 1
    L.server_count += 1
    return sc
