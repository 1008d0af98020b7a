# SPDX-License-Identifier: MIT
"""Ready connections and the ends of connections; see ``_traffic.pxd``."""

from libc.stdint cimport uint32_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from pooler.wire.buffers cimport (
    Queue, output_clear, queue_add, queue_drop, queue_keep, queue_reset, queue_size,
)
from pooler.io.conn cimport (
    ClientConn, Conn, KIND_CLIENT, KIND_SERVER, LOGIN_HELD_MAX_BYTES, Loop,
    NOTICE_ACCEPT_PAUSED, NOTICE_LOGIN, ServerConn, conn_enter, conn_flush, conn_handle,
    conn_interest, conn_receive, conn_write, notice,
)
from pooler.io.ends cimport (
    cancel_abandoned, close_client, close_server, send_script, send_to_server, settle,
    want_servers,
)
from pooler.session.pool cimport pool_give_up, pool_head_stale, pool_test
from pooler.relay.common cimport (
    RELAY_ALIGN, RELAY_ALIGN_FAILED, RELAY_CLIENT_PROTO, RELAY_NO_MEMORY, RELAY_OK,
    RELAY_SERVER_DEAD, RELAY_SERVER_PROTO, RELAY_STATEMENT_XACT, RELAY_TERMINATE,
    RELAY_TEST_FAILED, RELAY_WAIT, RelayStatus, relay_cancel_waiting,
)
from pooler.relay.from_server cimport relay_server_bytes
from pooler.relay.from_client cimport relay_client_bytes
from pooler.session.records cimport (
    CLIENT_LOGIN, CLIENT_WAITING, CLOSE_CLIENT_EOF, CLOSE_CLIENT_PARAMETER,
    CLOSE_CLIENT_PROTO, CLOSE_CLIENT_REQUEST, CLOSE_INTERNAL, CLOSE_NO_MEMORY,
    CLOSE_SERVER_CHECK, CLOSE_SERVER_CRASHED, CLOSE_SERVER_DIRTY, CLOSE_SERVER_EOF,
    CLOSE_SERVER_PROTO, CLOSE_SERVER_RESET, CLOSE_SHUTDOWN, CLOSE_STATEMENT_XACT,
    ClientSession, CloseReason, Pool, SERVER_IDLE, SERVER_TESTED, ServerSession,
    requests_count, server_is_quiet, set_client_state,
)
from pooler.io.syscalls cimport (
    AF_INET, AF_INET6, EAGAIN, ECONNABORTED, EINTR, EMFILE, EMSGSIZE, ENFILE, ENOBUFS,
    ENOMEM, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, SOCK_CLOEXEC,
    SOCK_NONBLOCK, c_accept4, c_close, errno, ntohs, sockaddr, sockaddr_in,
    sockaddr_in6, sockaddr_storage, socklen_t, ssize_t, sys_recv,
)

cdef enum:
    ACCEPTS_PER_EVENT = 64
    UNWANTED_MAX_BYTES = 262144


# ---------------------------------------------------------------- accepting

cdef void note_peer(ClientConn *cc, const sockaddr_storage *peer) noexcept nogil:
    cdef const sockaddr_in *v4 = <const sockaddr_in *> peer
    cdef const sockaddr_in6 *v6 = <const sockaddr_in6 *> peer
    cc.peer.family = peer.ss_family
    if peer.ss_family == AF_INET:
        cc.peer.port = ntohs(v4.sin_port)
        memcpy(cc.peer.address, &v4.sin_addr, 4)
    elif peer.ss_family == AF_INET6:
        cc.peer.port = ntohs(v6.sin6_port)
        memcpy(cc.peer.address, &v6.sin6_addr, 16)


cdef void accept_clients(Loop *L, Conn *listener) noexcept nogil:
    cdef sockaddr_storage peer
    cdef socklen_t peer_n
    cdef ClientConn *cc
    cdef int fd
    cdef int _accept
    for _accept in range(ACCEPTS_PER_EVENT):
        peer_n = sizeof(peer)
        fd = c_accept4(
            listener.fd, <sockaddr *> &peer, &peer_n, SOCK_NONBLOCK | SOCK_CLOEXEC
        )
        if fd < 0:
            if errno == EINTR or errno == ECONNABORTED:
                continue
            if errno in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
                # ours to solve: stop asking until Python starts the listener again
                notice(
                    L, NOTICE_ACCEPT_PAUSED, conn_handle(L, listener), <int> errno
                )
                conn_interest(L, listener, 0)
            return
        cc = <ClientConn *> calloc(1, sizeof(ClientConn))
        if cc == NULL:
            c_close(fd)
            return
        cc.conn.fd = fd
        cc.conn.kind = KIND_CLIENT
        cc.session.io = cc
        cc.session.since_us = L.now_us
        cc.opened_us = L.now_us
        set_client_state(&cc.session, CLIENT_LOGIN)
        note_peer(cc, &peer)
        if conn_enter(L, &cc.conn) < 0:
            c_close(fd)
            free(cc)
            return
        L.accept_count += 1
        L.client_count += 1
        L.login_count += 1
        if conn_interest(L, &cc.conn, EPOLLIN) < 0:
            close_client(L, cc, CLOSE_NO_MEMORY, False)


# ---------------------------------------------------------------- client side

cdef void login_readable(Loop *L, ClientConn *cc) noexcept nogil:
    """Keep what a client says before it is logged in; Python reads it.

    A client that says much more than a login takes is not read before Python has
    consumed some of it.
    """
    cdef size_t room = LOGIN_HELD_MAX_BYTES - queue_size(&cc.session.stream.held)
    cdef ssize_t n
    if room == 0:
        conn_interest(L, &cc.conn, 0)
        return
    n = sys_recv(cc.conn.fd, L.recv_buffer, min(room, L.recv_bytes))
    L.recv_count += 1
    if n == -EAGAIN:
        return
    if n <= 0:
        close_client(L, cc, CLOSE_CLIENT_EOF, False)
        return
    if queue_add(&cc.session.stream.held, L.recv_buffer, n) < 0:
        close_client(L, cc, CLOSE_NO_MEMORY, True)
        return
    if not cc.login_noticed:
        cc.login_noticed = True
        notice(L, NOTICE_LOGIN, conn_handle(L, &cc.conn), 0)


cdef void client_bytes(
    Loop *L, ClientConn *cc, const uint8_t *src, size_t n
) noexcept nogil:
    """Relay what a client sent; src may be the client's own held bytes."""
    cdef ClientSession *c = &cc.session
    cdef size_t consumed = 0
    cdef RelayStatus status
    output_clear(&L.relay.to_client)
    output_clear(&L.relay.to_server)
    status = relay_client_bytes(&L.relay, c, src, n, &consumed)
    if c.server != NULL and L.relay.to_server.n:
        send_to_server(L, <ServerConn *> c.server.io)
    if L.relay.to_client.n and conn_write(
        L, &cc.conn, &c.stream.out, L.relay.to_client.data, L.relay.to_client.n
    ) < 0:
        close_client(L, cc, CLOSE_CLIENT_EOF, False)
        return
    if queue_keep(&c.stream.held, src + consumed, n - consumed) < 0:
        status = RELAY_NO_MEMORY
    if status == RELAY_OK or status == RELAY_ALIGN:
        if c.server != NULL:  # a late CopyDone can free a server
            settle(L, c.server)
    elif status == RELAY_WAIT:
        if c.pool.closing:
            close_client(L, cc, CLOSE_SHUTDOWN, True)
        else:
            want_servers(L, c.pool)
    elif status == RELAY_TERMINATE:
        c.leaving = True
        queue_reset(&c.stream.held)
        let_leave(L, cc)
    elif status == RELAY_CLIENT_PROTO:
        close_client(L, cc, CLOSE_CLIENT_PROTO, True)
    else:
        close_client(L, cc, CLOSE_NO_MEMORY, True)


cdef void let_leave(Loop *L, ClientConn *cc) noexcept nogil:
    """Close a client that has said goodbye, once it has its answers.

    PostgreSQL reads Terminate behind the requests before it, so these are answered.
    """
    cdef ClientSession *c = &cc.session
    if c.server != NULL and not server_is_quiet(c.server):
        conn_interest(L, &cc.conn, EPOLLRDHUP | (cc.conn.interest & EPOLLOUT))
    else:
        close_client(L, cc, CLOSE_CLIENT_REQUEST, False)


cdef inline bint client_held_back(const ClientSession *c) noexcept nogil:
    return (
        c.state == CLIENT_WAITING
        or c.aligning
        or c.settling
        or c.leaving
        or (c.server != NULL and c.server.stream.out.cap != 0)
    )


cdef void client_readable(Loop *L, ClientConn *cc, uint32_t events) noexcept nogil:
    cdef ClientSession *c = &cc.session
    cdef ssize_t n
    if client_held_back(c):
        if c.state == CLIENT_WAITING or c.leaving:
            if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
                close_client(
                    L, cc, CLOSE_CLIENT_REQUEST if c.leaving else CLOSE_CLIENT_EOF,
                    False,
                )
            else:
                conn_interest(L, &cc.conn, EPOLLRDHUP | (cc.conn.interest & EPOLLOUT))
        else:
            conn_interest(L, &cc.conn, cc.conn.interest & EPOLLOUT)
        return
    n = conn_receive(L, &cc.conn, &c.stream.held)
    if n > 0:
        client_bytes(L, cc, L.recv_buffer, <size_t> n)
    elif n == -EMSGSIZE:
        close_client(L, cc, CLOSE_CLIENT_PROTO, True)
    elif n != -EAGAIN:
        close_client(L, cc, CLOSE_CLIENT_EOF, False)


cdef void allow_client(Loop *L, ClientConn *cc) noexcept nogil:
    """The client may be read again, if nothing else holds it back."""
    if cc.conn.fd >= 0 and not client_held_back(&cc.session):
        conn_interest(L, &cc.conn, EPOLLIN | (cc.conn.interest & EPOLLOUT))


cdef void resume_client(Loop *L, ClientConn *cc) noexcept nogil:
    """Go on with a client's held bytes, then read it again."""
    cdef ClientSession *c = &cc.session
    if c.stream.held.cap:
        client_bytes(
            L, cc, c.stream.held.data + c.stream.held.start, queue_size(&c.stream.held)
        )
    allow_client(L, cc)


cdef bint cancel_waiting(Loop *L, ClientConn *cc) noexcept nogil:
    """Cancel the request that a client waits with; False if it cannot be told apart."""
    cdef ClientSession *c = &cc.session
    cdef Queue *held = &c.stream.held
    cdef size_t consumed = 0
    output_clear(&L.relay.to_client)
    if c.state != CLIENT_WAITING or relay_cancel_waiting(
        &L.relay, c, held.data + held.start, queue_size(held), &consumed
    ) != RELAY_OK:
        return False
    queue_drop(held, consumed)
    pool_give_up(c.pool, c)
    if conn_write(
        L, &cc.conn, &c.stream.out, L.relay.to_client.data, L.relay.to_client.n
    ) < 0:
        close_client(L, cc, CLOSE_CLIENT_EOF, False)
        return True
    resume_client(L, cc)
    return True


cdef void client_writable(Loop *L, ClientConn *cc) noexcept nogil:
    cdef ClientSession *c = &cc.session
    cdef ServerConn *sc
    if conn_flush(L, &cc.conn, &c.stream.out) < 0:
        close_client(L, cc, CLOSE_CLIENT_EOF, False)
        return
    if c.stream.out.cap == 0 and c.server != NULL:
        sc = <ServerConn *> c.server.io
        conn_interest(L, &sc.conn, EPOLLIN | (sc.conn.interest & EPOLLOUT))
        settle(L, &sc.session)
    if c.leaving:
        let_leave(L, cc)


# ---------------------------------------------------------------- server side

cdef void server_lost(Loop *L, ServerConn *sc, CloseReason reason) noexcept nogil:
    """Close a server for its own fault; its client goes with it, and is told why.

    A client that already has the server's own FATAL message is told nothing more,
    nor one that is in the middle of a message.
    """
    cdef ClientSession *c = sc.session.client
    cdef bint tell = not sc.session.fatal_seen and sc.session.scan.body_left == 0
    close_server(L, sc, reason)
    if c != NULL:
        close_client(
            L, <ClientConn *> c.io,
            CLOSE_SERVER_CRASHED if reason == CLOSE_SERVER_EOF else reason, tell,
        )


cdef void server_bytes(
    Loop *L, ServerConn *sc, const uint8_t *src, size_t n
) noexcept nogil:
    cdef ServerSession *s = &sc.session
    cdef ClientConn *cc = <ClientConn *> s.client.io if s.client != NULL else NULL
    cdef size_t consumed = 0
    cdef RelayStatus status
    output_clear(&L.relay.to_client)
    output_clear(&L.relay.to_server)
    L.relay.resume = False
    status = relay_server_bytes(&L.relay, s, src, n, &consumed)
    if cc != NULL and L.relay.to_client.n and conn_write(
        L, &cc.conn, &cc.session.stream.out,
        L.relay.to_client.data, L.relay.to_client.n,
    ) < 0:
        close_client(L, cc, CLOSE_CLIENT_EOF, False)
        return
    if L.relay.to_server.n:
        send_to_server(L, sc)
    if queue_keep(&s.stream.held, src + consumed, n - consumed) < 0:
        status = RELAY_NO_MEMORY
    if status == RELAY_OK:
        if s.state == SERVER_TESTED and not s.abandoned and requests_count(&s.requests):
            s.unwanted_bytes += <uint32_t> n
            if s.unwanted_bytes > UNWANTED_MAX_BYTES:
                cancel_abandoned(L, s)
        if L.relay.resume:
            resume_client(L, cc)
        settle(L, s)
        if cc != NULL and cc.session.leaving:
            let_leave(L, cc)
    elif status == RELAY_SERVER_PROTO:
        server_lost(
            L, sc, CLOSE_SERVER_DIRTY if s.state == SERVER_IDLE else CLOSE_SERVER_PROTO
        )
    elif status == RELAY_SERVER_DEAD:
        server_lost(L, sc, CLOSE_SERVER_EOF)
    elif status == RELAY_TEST_FAILED:
        close_server(L, sc, CLOSE_SERVER_CHECK if s.checking else CLOSE_SERVER_RESET)
    elif status == RELAY_STATEMENT_XACT:
        server_lost(L, sc, CLOSE_STATEMENT_XACT)
    elif status == RELAY_ALIGN_FAILED:
        s.fatal_seen = True
        server_lost(L, sc, CLOSE_CLIENT_PARAMETER)
    else:
        server_lost(L, sc, CLOSE_NO_MEMORY)


cdef void idle_server_bytes(Loop *L, ServerConn *sc) noexcept nogil:
    """Relay bytes that were held since the login of a server."""
    cdef Queue early = sc.session.stream.held
    if early.cap == 0:
        return
    sc.session.stream.held.data = NULL
    sc.session.stream.held.start = sc.session.stream.held.end = 0
    sc.session.stream.held.cap = 0
    server_bytes(L, sc, early.data + early.start, queue_size(&early))
    queue_reset(&early)


cdef void server_readable(Loop *L, ServerConn *sc, uint32_t events) noexcept nogil:
    cdef ServerSession *s = &sc.session
    cdef ssize_t n
    if s.client != NULL and s.client.stream.out.cap:
        conn_interest(L, &sc.conn, sc.conn.interest & EPOLLOUT)
        return
    n = conn_receive(L, &sc.conn, &s.stream.held)
    if n > 0:
        server_bytes(L, sc, L.recv_buffer, <size_t> n)
    elif n == -EMSGSIZE:
        server_lost(L, sc, CLOSE_SERVER_PROTO)
    elif n != -EAGAIN:
        server_lost(L, sc, CLOSE_SERVER_EOF)


cdef void server_writable(Loop *L, ServerConn *sc) noexcept nogil:
    cdef ServerSession *s = &sc.session
    if conn_flush(L, &sc.conn, &s.stream.out) < 0:
        # as in client_bytes: its last words may still be there to read
        queue_reset(&s.stream.out)
        conn_interest(L, &sc.conn, EPOLLIN)
    if s.stream.out.cap == 0 and s.client != NULL:
        allow_client(L, <ClientConn *> s.client.io)
        settle(L, s)


cdef bint check_idle_server(Loop *L, Pool *p) noexcept nogil:
    """Run the check query on a server that has been idle too long to be trusted.

    Returns whether another one may be usable, or may be checked as well.
    """
    cdef ServerSession *s = p.idle_head
    if not pool_head_stale(p, L.now_us):
        return True
    if p.tested_count >= p.waiting_count:
        return False
    pool_test(p, s)
    s.since_us = L.now_us
    s.checking = True
    send_script(L, s, &p.check_query)
    return True


cdef void run_wakes(Loop *L) noexcept nogil:
    """Serve waiting clients, oldest first, as long as servers are idle."""
    cdef Pool *p
    cdef ClientSession *c
    while L.wake_count:
        L.wake_count -= 1
        p = L.wakes[L.wake_count]
        L.wake_listed[p.id] = False
        while p.waiting_head != NULL and p.idle_head != NULL and not p.paused:
            c = p.waiting_head
            if pool_head_stale(p, L.now_us):
                if not check_idle_server(L, p):
                    break
                continue
            resume_client(L, <ClientConn *> c.io)
            if p.waiting_head == c:
                # it holds no request that needs a server: cannot be, but must not spin
                close_client(L, <ClientConn *> c.io, CLOSE_INTERNAL, True)


# ---------------------------------------------------------------- dispatch

cdef void conn_ready(Loop *L, Conn *conn, uint32_t events) noexcept nogil:
    """Serve one readiness event; the connection may be closed by an earlier one."""
    cdef ClientConn *cc
    cdef ServerConn *sc
    if conn.fd < 0:
        return
    if conn.kind == KIND_SERVER:
        sc = <ServerConn *> conn
        if events & EPOLLOUT:
            server_writable(L, sc)
        if conn.fd >= 0 and events & (EPOLLIN | EPOLLHUP | EPOLLERR):
            server_readable(L, sc, events)
    elif conn.kind == KIND_CLIENT:
        cc = <ClientConn *> conn
        if events & EPOLLOUT:
            client_writable(L, cc)
        if conn.fd >= 0 and events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            if cc.session.state == CLIENT_LOGIN:
                login_readable(L, cc)
            else:
                client_readable(L, cc, events)
    else:
        accept_clients(L, conn)
    run_wakes(L)
