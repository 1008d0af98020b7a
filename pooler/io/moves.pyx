# SPDX-License-Identifier: MIT
"""Servers that move; see ``moves.pxd``."""

from libc.stdlib cimport calloc, free

from pooler.io.conn cimport KIND_SERVER, conn_enter, conn_leave
from pooler.io.poll cimport WATCH_READ, watch
from pooler.io.transport cimport PLAIN
from pooler.relay.moves cimport freeze
from pooler.relay.offers cimport server_may_move
from pooler.relay.step cimport step_server_give, step_server_receive
from pooler.session.records cimport server_begin
from pooler.wire.buffers cimport queue_reset


cdef int give_server(Loop *L, ServerConn *sc, Queue *record) noexcept nogil:
    """Let go of a server, if it may move: its descriptor is the caller's.

    Out:     the descriptor, and its record in ``record``, which is the caller's, too
    Errors:  -1: it stays as it is
    """
    cdef int fd = sc.conn.fd
    if (
        sc.conn.transport != &PLAIN
        or not server_may_move(&sc.session)
        or freeze(&L.relay, &sc.session, record) < 0
        # Others keep the socket open, so closing it would not end the watch.
        or watch(L, &sc.conn, 0) < 0
    ):
        queue_reset(record)
        return -1
    step_server_give(&L.relay, &sc.session)
    L.server_count -= 1
    sc.conn.fd = -1
    conn_leave(L, &sc.conn)
    return fd


cdef ServerConn *receive_server(
    Loop *L, int fd, Pool *p, Thawed *t
) noexcept nogil:
    """Take over the descriptor of a server that another worker has let go.

    NULL without memory, or if it cannot be watched: it is the caller's still, and so
    is ``t``.
    """
    cdef ServerConn *sc = <ServerConn *> calloc(1, sizeof(ServerConn))
    if sc == NULL or conn_enter(L, &sc.conn) < 0:
        free(sc)
        return NULL
    sc.conn.transport = &PLAIN
    sc.conn.kind = KIND_SERVER
    sc.conn.fd = fd
    sc.conn.suspended = L.suspended
    if watch(L, &sc.conn, WATCH_READ) < 0:
        sc.conn.fd = -1
        conn_leave(L, &sc.conn)
        return NULL
    server_begin(&sc.session, &L.relay.wheel, sc)
    L.server_count += 1
    step_server_receive(&L.relay, &sc.session, p, t)
    return sc
