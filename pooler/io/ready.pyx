# SPDX-License-Identifier: MIT
"""Ready connections; see ``ready.pxd``."""

from libc.stdint cimport uint32_t

from pooler.io.accept cimport accept_clients, login_readable
from pooler.io.carry_out cimport carry_out
from pooler.io.conn cimport (
    ClientConn, KIND_CLIENT, KIND_LINK, KIND_PARTING, KIND_SERVER, LinkConn,
    ListenerConn, NOTICE_LINK, ServerConn, conn_handle, notice,
)
from pooler.io.part cimport parting_ready
from pooler.io.poll cimport (
    READY_END, READY_READ, READY_WRITE, WATCH_END, WATCH_READ, WATCH_WRITE, watch,
    watch_no_more,
)
from pooler.io.syscalls cimport EAGAIN, EMSGSIZE, ssize_t
from pooler.io.tls cimport tls_is_established
from pooler.io.transport cimport stream_flush, stream_receive
from pooler.relay.step cimport (
    client_held_back, client_may_vanish, server_held_back, step_client_bytes,
    step_client_end, step_client_overflow, step_client_sent, step_client_vanished,
    step_deadline, step_server_bytes, step_server_end, step_server_overflow,
    step_server_sent,
)
from pooler.session.records cimport CLIENT_LOGIN, CLIENT_WAITING
from pooler.wire.buffers cimport queue_add, queue_reset, queue_size, queues_bytes

cdef enum:
    SHORT_BYTES = 4096  # that a client may send ahead of its turn in any case


# ---------------------------------------------------------------- clients

cdef void client_ready(Loop *L, ClientConn *cc, uint32_t ready) noexcept nogil:
    if ready & READY_WRITE:
        client_writable(L, cc)
    if cc.conn.fd < 0 or not ready & (READY_READ | READY_END):
        return
    if cc.session.state == CLIENT_LOGIN:
        login_readable(L, cc)
    elif client_held_back(&cc.session):
        held_client_readable(L, cc, ready)
    else:
        client_readable(L, cc)
    carry_out(L)


cdef inline bint memory_is_short(const Loop *L) noexcept nogil:
    """Whether ``max_buffer_memory`` is used up: clients are read a little at a time.

    Who waits for a server holds what one read has brought, and is not read on. So no
    client is lost: the rest waits in the kernel.
    """
    return L.buffer_limit != 0 and queues_bytes() > <ssize_t> L.buffer_limit


cdef void client_readable(Loop *L, ClientConn *cc) noexcept nogil:
    cdef size_t most = SHORT_BYTES if memory_is_short(L) else L.recv_bytes
    cdef ssize_t n = stream_receive(L, &cc.conn, &cc.session.stream.held, most)
    if n > 0:
        step_client_bytes(&L.relay, &cc.session, L.recv_buffer, <size_t> n)
    elif n == -EMSGSIZE:
        step_client_overflow(&L.relay, &cc.session)
    elif n != -EAGAIN:
        step_client_end(&L.relay, &cc.session)


cdef void held_client_readable(Loop *L, ClientConn *cc, uint32_t ready) noexcept nogil:
    """Something has come from a client that is not read now: look for its end only."""
    cdef uint32_t writes = cc.conn.watched & WATCH_WRITE
    if not client_may_vanish(&cc.session):
        watch(L, &cc.conn, writes)
    elif not ready & READY_END:
        watch(L, &cc.conn, WATCH_END | writes)
    else:
        watch(L, &cc.conn, 0)
        if cc.session.state == CLIENT_WAITING:
            hear_out(L, cc)
        step_client_vanished(&L.relay, &cc.session)


cdef void hear_out(Loop *L, ClientConn *cc) noexcept nogil:
    """Keep the last that a client has sent, at most one buffer of it."""
    cdef ssize_t n
    while queue_size(&cc.session.stream.held) < L.recv_bytes:
        n = cc.conn.transport.receive(
            &cc.conn, L.recv_buffer,
            L.recv_bytes - queue_size(&cc.session.stream.held),
        )
        L.counters.recvs += 1
        if n <= 0 or queue_add(&cc.session.stream.held, L.recv_buffer, n) < 0:
            return


cdef void client_writable(Loop *L, ClientConn *cc) noexcept nogil:
    if stream_flush(L, &cc.conn, &cc.session.stream.out) < 0:
        step_client_end(&L.relay, &cc.session)
    elif cc.session.stream.out.cap == 0:
        step_client_sent(&L.relay, &cc.session)
    carry_out(L)


# ---------------------------------------------------------------- servers

cdef void server_ready(Loop *L, ServerConn *sc, uint32_t ready) noexcept nogil:
    if ready & READY_WRITE:
        server_writable(L, sc)
    if sc.conn.fd < 0 or not ready & (READY_READ | READY_END):
        return
    if server_held_back(&sc.session):
        watch_no_more(L, &sc.conn, WATCH_READ)
        return
    server_readable(L, sc)
    carry_out(L)


cdef void server_readable(Loop *L, ServerConn *sc) noexcept nogil:
    cdef ssize_t n = stream_receive(
        L, &sc.conn, &sc.session.stream.held, L.recv_bytes
    )
    if n > 0:
        step_server_bytes(&L.relay, &sc.session, L.recv_buffer, <size_t> n)
    elif n == -EMSGSIZE:
        step_server_overflow(&L.relay, &sc.session)
    elif n != -EAGAIN:
        step_server_end(&L.relay, &sc.session)


cdef void server_writable(Loop *L, ServerConn *sc) noexcept nogil:
    if stream_flush(L, &sc.conn, &sc.session.stream.out) < 0:
        # as in carry_out: its last words may still be there to read
        queue_reset(&sc.session.stream.out)
        watch(L, &sc.conn, WATCH_READ)
    if sc.session.stream.out.cap == 0:
        step_server_sent(&L.relay, &sc.session)
    carry_out(L)


# ---------------------------------------------------------------- links

cdef void link_ready(Loop *L, LinkConn *link, uint32_t ready) noexcept nogil:
    """Python is told of what has come; nothing more is read before it looks."""
    cdef ssize_t n
    if link.connecting:
        link.connecting = False
        link.error = link.conn.transport.connected(&link.conn)
        link.ended = link.error != 0
        watch(L, &link.conn, 0 if link.ended else WATCH_READ)
        tell_python(L, link)
        return
    if ready & READY_WRITE and stream_flush(L, &link.conn, &link.stream.out) < 0:
        queue_reset(&link.stream.out)
        watch_no_more(L, &link.conn, WATCH_WRITE)
    if not ready & (READY_READ | READY_END):
        return
    n = stream_receive(L, &link.conn, &link.stream.held, L.recv_bytes)
    if link.handshaking and tls_is_established(&link.conn):
        link.handshaking = False
        tell_python(L, link)
    if n == -EAGAIN:
        return
    if n > 0 and queue_add(&link.stream.held, L.recv_buffer, <size_t> n) == 0:
        watch_no_more(L, &link.conn, WATCH_READ)
    else:
        link.ended = True
        link.error = <int> -n if n < 0 else 0
        watch(L, &link.conn, 0)
    tell_python(L, link)


cdef void tell_python(Loop *L, LinkConn *link) noexcept nogil:
    if not link.noticed:
        link.noticed = True
        notice(L, NOTICE_LINK, conn_handle(L, &link.conn), 0)


# ---------------------------------------------------------------- dispatch

cdef void conn_ready(Loop *L, const Event *event) noexcept nogil:
    """Serve one readiness event; the connection may be closed by an earlier one."""
    if event.conn.fd < 0:
        return
    if event.conn.kind == KIND_SERVER:
        server_ready(L, <ServerConn *> event.conn, event.ready)
    elif event.conn.kind == KIND_CLIENT:
        client_ready(L, <ClientConn *> event.conn, event.ready)
    elif event.conn.kind == KIND_LINK:
        link_ready(L, <LinkConn *> event.conn, event.ready)
    elif event.conn.kind == KIND_PARTING:
        parting_ready(L, event.conn)
    else:
        accept_clients(L, <ListenerConn *> event.conn)
        carry_out(L)


cdef void deadlines_ready(Loop *L) noexcept nogil:
    while step_deadline(&L.relay):
        carry_out(L)
