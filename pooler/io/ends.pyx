# SPDX-License-Identifier: MIT
"""Releases and ends of connections; see ``_ends.pxd``."""

from libc.stdint cimport int32_t, uint8_t
from libc.string cimport memcpy

from pooler.wire.buffers cimport output_clear, queue_reset
from pooler.io.conn cimport (
    ClientConn, Loop, NOTICE_CANCEL, NOTICE_CLIENT_CLOSED, NOTICE_LAUNCH,
    NOTICE_SERVER_CLOSED, NoticeRow, ServerConn, conn_flush, conn_handle, conn_interest,
    conn_leave, conn_swallow_input, conn_write, notice,
)
from pooler.statements.effects cimport session_statements_free
from pooler.tables.params cimport params_unref
from pooler.session.pool cimport (
    pool_abandon, pool_detach, pool_drained, pool_remove_client, pool_remove_server,
    pool_servers_wanted, pool_tested,
)
from pooler.relay.common cimport relay_abandon, relay_script
from pooler.session.records cimport (
    CLIENT_ACTIVE, CLIENT_CLOSED, CLIENT_LOGIN, CLOSE_CLIENT_IN_PROGRESS,
    CLOSE_CLIENT_NOT_READY, CLOSE_CLIENT_REQUEST, CLOSE_NO_MEMORY, CLOSE_REPLICATION,
    CLOSE_SERVER_OBSOLETE, COPY_IN_OPEN, ClientSession, CloseReason, MODE_SESSION, Pool,
    SERVER_ACTIVE, SERVER_TESTED, Script, ServerSession, requests_count, requests_free,
    server_is_free, server_is_quiet, set_client_state,
)
from pooler.tables.statements cimport client_statements_free
from pooler.io.syscalls cimport ENOMEM, EPOLLIN, EPOLLOUT, SHUT_RDWR, shutdown
from pooler._wire cimport error_response_bytes, put_error_response

cdef enum:
    REASON_TEXT_BYTES = 80

cdef struct ReasonText:
    char text[REASON_TEXT_BYTES]
    char sqlstate[6]

cdef ReasonText REASON_TEXTS[64]


cdef int fill_close_reasons(object rows) except -1:
    """Copy ``errors.CLOSE_REASON_ROWS`` to where the engine can read it."""
    cdef bytes text
    cdef bytes sqlstate
    for i, (_, message, code) in enumerate(rows):
        text = message.encode()
        sqlstate = (code or "08P01").encode()
        if len(text) >= REASON_TEXT_BYTES or len(sqlstate) != 5 or i >= 64:
            raise ImportError(f"close reason does not fit: {message!r}")
        memcpy(REASON_TEXTS[<int> i].text, <const char *> text, len(text) + 1)
        memcpy(REASON_TEXTS[<int> i].sqlstate, <const char *> sqlstate, 6)
    return 0


cdef void send_to_server(Loop *L, ServerConn *sc) noexcept nogil:
    """Send what the relay has for a server.

    A failed send is not the end yet: what the server said last is still to be read,
    and then its end of file closes both sides. What can neither be sent nor queued is
    lost, so that server is brought to its end of file.
    """
    if conn_write(
        L, &sc.conn, &sc.session.stream.out,
        L.relay.to_server.data, L.relay.to_server.n,
    ) == -ENOMEM:
        shutdown(sc.conn.fd, SHUT_RDWR)


# ---------------------------------------------------------------- releasing

cdef inline bint server_is_surplus(const ServerSession *s) noexcept nogil:
    """To be closed rather than used again."""
    return s.obsolete or s.pool.server_count > s.pool.max_servers


cdef void settle(Loop *L, ServerSession *s) noexcept nogil:
    """Give a server back to its pool if nothing of its client is left in it."""
    if s.state == SERVER_TESTED:
        clean_server(L, s)
        return
    if (
        s.state != SERVER_ACTIVE
        or s.pool.mode == MODE_SESSION
        or not server_is_free(s)
    ):
        return
    if server_is_surplus(s):
        close_server(L, <ServerConn *> s.io, CLOSE_SERVER_OBSOLETE)
        return
    if s.pool.reset_always or s.stray_statements:
        pool_abandon(s.pool, s)
        s.since_us = L.now_us
        s.reset_wanted = s.pool.reset_always
        clean_server(L, s)
        return
    s.since_us = L.now_us
    pool_detach(s.pool, s)
    if s.pool.waiting_head != NULL:
        wake_pool(L, s.pool)


cdef void send_script(Loop *L, ServerSession *s, const Script *q) noexcept nogil:
    """Send a query of ours to a server that has no client."""
    cdef ServerConn *sc = <ServerConn *> s.io
    output_clear(&L.relay.to_server)
    if relay_script(&L.relay, s, q) < 0:
        close_server(L, sc, CLOSE_NO_MEMORY)
        return
    send_to_server(L, sc)


cdef void abandon_work(Loop *L, ServerSession *s) noexcept nogil:
    """End what a client that is gone has begun on a server."""
    cdef ServerConn *sc = <ServerConn *> s.io
    output_clear(&L.relay.to_server)
    if relay_abandon(&L.relay, s) < 0:
        close_server(L, sc, CLOSE_NO_MEMORY)
    else:
        send_to_server(L, sc)


cdef inline const Script *reset_script(const Loop *L, const Pool *p) noexcept nogil:
    """What clears a session; without it, others would see what a lost client has set.

    In session mode a pool without a reset query wants none.
    """
    if p.reset_query.n or p.mode == MODE_SESSION:
        return &p.reset_query
    return &L.discard


cdef void clean_server(Loop *L, ServerSession *s) noexcept nogil:
    """Bring a server without a client one step nearer to its pool.

    Called each time it may have become quiet: first an open transaction is rolled
    back, then the reset query runs if it is due, then statements go that SQL has
    prepared behind our back.
    """
    cdef ServerConn *sc = <ServerConn *> s.io
    cdef Pool *p = s.pool
    if s.copy_in == COPY_IN_OPEN:  # opened after its client had gone
        abandon_work(L, s)
        return
    if not server_is_quiet(s):
        return
    pool_drained(p, s)
    if server_is_surplus(s):
        close_server(L, sc, CLOSE_SERVER_OBSOLETE)
    elif s.xact_status != c"I":
        if s.rolling_back:
            close_server(L, sc, CLOSE_CLIENT_NOT_READY)
        else:
            s.rolling_back = True
            send_script(L, s, &L.rollback)
    elif s.reset_wanted and reset_script(L, p).n:
        s.reset_wanted = False
        send_script(L, s, reset_script(L, p))
    elif s.stray_statements:
        s.stray_statements = False
        send_script(L, s, &L.deallocate)
    else:
        s.checked = s.checking
        s.rolling_back = s.reset_wanted = s.checking = False
        s.since_us = L.now_us
        s.abandoned = False
        pool_tested(p, s)
        if p.waiting_head != NULL:
            wake_pool(L, p)


cdef void wake_pool(Loop *L, Pool *p) noexcept nogil:
    """Let the waiting clients of a pool try again when the current event is over."""
    if not L.wake_listed[p.id]:
        L.wake_listed[p.id] = True
        L.wakes[L.wake_count] = p
        L.wake_count += 1


cdef void want_servers(Loop *L, Pool *p) noexcept nogil:
    """Ask Python, once, to open servers for those who wait."""
    if p.idle_head != NULL:
        wake_pool(L, p)  # to be checked first
    if not p.launch_wanted and pool_servers_wanted(p):
        p.launch_wanted = True
        notice(L, NOTICE_LAUNCH, 0, 0).pool_id = <int32_t> p.id


# ---------------------------------------------------------------- ends

cdef void cancel_abandoned(Loop *L, ServerSession *s) noexcept nogil:
    """Have what a server is at work on cancelled; it is not reused meanwhile."""
    cdef ServerConn *sc = <ServerConn *> s.io
    if sc.conn.fd < 0:
        return
    s.cancels += 1
    s.abandoned = True
    s.since_us = L.now_us
    notice(L, NOTICE_CANCEL, conn_handle(L, &sc.conn), 0)


cdef void end_server_of(
    Loop *L, ServerSession *s, ClientSession *c, CloseReason reason
) noexcept nogil:
    """A client leaves its server, which is made fit for others or closed.

    What the client had running is cancelled when it vanished. When it said goodbye
    PostgreSQL would go on until it fails to send, so it may go on here too, until it
    has sent too much that nobody wants.
    """
    cdef ServerConn *sc = <ServerConn *> s.io
    cdef Pool *p = s.pool
    cdef bint cut = c.scan.body_left != 0  # the server waits for the rest of a message
    cdef bint running
    queue_reset(&c.stream.out)
    c.aligning = False
    if p.dedicated:
        close_server(L, sc, CLOSE_REPLICATION)
        return
    if p.mode != MODE_SESSION and server_is_free(s):
        settle(L, s)
        return
    running = requests_count(&s.requests) != 0 or s.copy_in == COPY_IN_OPEN
    if cut or s.obsolete or (
        not p.cancel_abandoned and (running or not server_is_free(s))
    ):
        close_server(
            L, sc, CLOSE_CLIENT_IN_PROGRESS if running else CLOSE_CLIENT_NOT_READY
        )
        return
    pool_abandon(p, s)
    s.reset_wanted = True  # nobody knows what a client without an end has set
    s.since_us = L.now_us
    s.unwanted_bytes = 0
    conn_interest(L, &sc.conn, EPOLLIN | (sc.conn.interest & EPOLLOUT))
    abandon_work(L, s)
    if running and reason != CLOSE_CLIENT_REQUEST:
        cancel_abandoned(L, s)
    clean_server(L, s)


cdef void tell_client(Loop *L, ClientConn *cc, CloseReason reason) noexcept nogil:
    """Send FATAL with the reason, as far as the socket takes it."""
    cdef uint8_t message[256]
    cdef size_t n
    cdef const ReasonText *row = &REASON_TEXTS[<int> reason]
    if error_response_bytes(row.text) > sizeof(message):
        return
    n = put_error_response(message, b"FATAL", row.sqlstate, row.text)
    conn_flush(L, &cc.conn, &cc.session.stream.out)
    conn_write(L, &cc.conn, &cc.session.stream.out, message, n)
    conn_swallow_input(L, &cc.conn)


cdef void close_client(
    Loop *L, ClientConn *cc, CloseReason reason, bint tell
) noexcept nogil:
    """Close a client in whatever state; idempotent.

    With ``tell`` it gets FATAL and the reason first, unless it is in the middle of a
    message from its server.
    """
    cdef ClientSession *c = &cc.session
    cdef NoticeRow *row
    if cc.conn.fd < 0:
        return
    if tell and (c.server == NULL or c.server.scan.body_left == 0):
        tell_client(L, cc, reason)
    row = notice(L, NOTICE_CLIENT_CLOSED, conn_handle(L, &cc.conn), reason)
    row.peer = cc.peer
    row.age_us = L.now_us - cc.opened_us
    if c.pool != NULL:
        row.pool_id = <int32_t> c.pool.id
    if c.state == CLIENT_ACTIVE:
        end_server_of(L, c.server, c, reason)
    if c.state == CLIENT_LOGIN:
        set_client_state(c, CLIENT_CLOSED)
        L.login_count -= 1
    else:
        pool_remove_client(c.pool, c)
    queue_reset(&c.stream.held)
    queue_reset(&c.stream.out)
    client_statements_free(&L.relay.statements, c.statements)
    c.statements = NULL
    params_unref(&L.relay.params, c.params)
    c.params = NULL
    L.client_count -= 1
    conn_leave(L, &cc.conn)


cdef void close_server(Loop *L, ServerConn *sc, CloseReason reason) noexcept nogil:
    """Close a server in whatever state; idempotent. Its client stays, idle."""
    cdef ServerSession *s = &sc.session
    cdef Pool *p = s.pool
    cdef NoticeRow *row
    if sc.conn.fd < 0:
        return
    row = notice(L, NOTICE_SERVER_CLOSED, conn_handle(L, &sc.conn), reason)
    row.pool_id = <int32_t> p.id
    row.age_us = L.now_us - s.opened_us
    session_statements_free(&L.relay.statements, s)
    pool_remove_server(p, s)
    queue_reset(&s.stream.held)
    queue_reset(&s.stream.out)
    requests_free(&s.requests)
    params_unref(&L.relay.params, s.params)
    s.params = NULL
    L.server_count -= 1
    conn_leave(L, &sc.conn)
    want_servers(L, p)
