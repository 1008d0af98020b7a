# SPDX-License-Identifier: MIT
"""The step; see ``step.pxd``."""

from libc.stdint cimport uint32_t, uint8_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from pooler.relay.align cimport client_params_begin, server_params_begin
from pooler.relay.cancels cimport cancel_begins, cancel_ended, cancel_when_aligned
from pooler.relay.clean cimport (
    cancel_again, clean_kept, close_server, close_surplus, make_fit, note_unwanted,
    settle,
    tested_too_long,
)
from pooler.relay.ends cimport (
    close_client, let_leave, lose_server, note_goodbye, say_goodbye,
)
from pooler.relay.from_client cimport relay_client_bytes
from pooler.relay.from_server cimport relay_server_bytes
from pooler.relay.injected cimport answer_cancelled
from pooler.relay.inquire cimport (
    inquiry_begin, inquiry_bytes, inquiry_forget, words_forget,
)
from pooler.relay.moves cimport join_pool, leave_pool
from pooler.relay.offers cimport note_uneven, offer_elsewhere, server_stays
from pooler.relay.orders cimport (
    order_read_client, order_read_server, order_send_to_client, order_send_to_server,
)
from pooler.relay.shared cimport (
    RELAY_ALIGN, RELAY_ALIGN_FAILED, RELAY_CLIENT_PROTO, RELAY_CLIENT_QUERY,
    RELAY_NO_MEMORY, RELAY_OK,
    RELAY_SERVER_DEAD, RELAY_SERVER_PROTO, RELAY_STATEMENT_XACT, RELAY_STATUSES,
    RELAY_TERMINATE, RELAY_TEST_FAILED, RELAY_WAIT, RelayStatus,
)
from pooler.statements.absorbed cimport absorbed_waits
from pooler.relay.timeouts cimport (
    client_idle_long, login_too_long, query_too_long, server_aged, server_idle_long,
    waits_long, xact_idle_long, xact_too_long,
)
from pooler.relay.wakes cimport no_wake, wake_pool, want_servers
from pooler.session.deadlines cimport (
    CLIENT_DEADLINES, DEADLINE_CANCEL_AGAIN, DEADLINE_CLIENT_IDLE,
    DEADLINE_IDLE_XACT, DEADLINE_LIFETIME, DEADLINE_LOGIN, DEADLINE_QUERY,
    DEADLINE_QUERY_WAIT, DEADLINE_SERVER_IDLE, DEADLINE_TESTED, DEADLINE_XACT,
    SERVER_DEADLINES, Timer, wheel_pop,
)
from pooler.session.pool cimport (
    pool_add_client, pool_add_server, pool_begin, pool_connected, pool_free,
    pool_first_for, pool_give_up, server_fits,
)
from pooler.session.records cimport (
    CLOSE_CLIENT_EOF, CLOSE_CLIENT_PARAMETER, CLOSE_CLIENT_PROTO, CLOSE_CLIENT_QUERY,
    CLOSE_CLIENT_REQUEST,
    CLOSE_INTERNAL, CLOSE_NO_MEMORY,
    CLOSE_CONFIG_CHANGED, CLOSE_SERVER_CHECK, CLOSE_SERVER_DIRTY, CLOSE_SERVER_EOF,
    CLOSE_SERVER_LIFETIME, CLOSE_SERVER_OBSOLETE, CLOSE_SERVER_PAUSED,
    CLOSE_SERVER_PROTO, CLOSE_SERVER_RESET, CLOSE_SHUTDOWN, CLOSE_STATEMENT_XACT,
    SERVER_ACTIVE, SERVER_IDLE, SERVER_TESTED, script_fill, server_is_free,
)
from pooler.session.requests cimport REQUEST_ALIGN, requests_at
from pooler.wire.buffers cimport (
    Queue, output_clear, queue_keep, queue_reset, queue_size,
)
from pooler._wire cimport (
    ACTION_TERMINATE, Found, LONE_CLIENT_RULES, SCAN_MESSAGE, ScanState, scan_next,
)
from pooler.session.fate cimport mark_obsolete, mark_over, note_fatal
from pooler.session.sequences cimport sequences_begin
from pooler.session.time_limits cimport (
    client_limits_changed, client_spoke, server_limits_changed, server_times_begin,
)
from pooler.session.tracking cimport tracking_begin

cdef const char *NOTHING = b""


# ---------------------------------------------------------------- begin and end

cdef int relay_init(Relay *r) except -1:
    """A relay without connections and pools; parameters and statements are added."""
    memset(r, 0, sizeof(Relay))
    script_fill(&r.rollback, b"ROLLBACK")
    script_fill(&r.deallocate, b"DEALLOCATE ALL")
    script_fill(&r.discard, b"DISCARD ALL")
    return 0


cdef void relay_free(Relay *r) noexcept nogil:
    """Free what the relay owns; its sessions are closed already."""
    cdef uint32_t i
    for i in range(r.pool_count):
        if r.pools[i] != NULL:
            free_pool(r.pools[i])
    free(r.pools)
    free(r.spare_ids)
    queue_reset(&r.pending.block)
    free(r.rollback.message)
    free(r.deallocate.message)
    free(r.discard.message)
    free(r.to_client.scratch)
    free(r.to_server.scratch)


cdef Pool *relay_add_pool(Relay *r, uint32_t max_servers) noexcept nogil:
    """A new, empty pool, which lives until it is dropped; NULL without memory."""
    cdef Pool *p = <Pool *> calloc(1, sizeof(Pool))
    if p == NULL or (r.spare_count == 0 and not grow_pools(r)):
        free(p)
        return NULL
    r.spare_count -= 1
    pool_begin(p, r.spare_ids[r.spare_count], max_servers)
    r.pools[p.id] = p
    return p


cdef bint grow_pools(Relay *r) noexcept nogil:
    """Room for one pool more, as a spare id; False without memory."""
    cdef size_t count = r.pool_count + 1
    cdef void *pools = realloc(r.pools, count * sizeof(Pool *))
    cdef void *ids
    if pools == NULL:
        return False
    r.pools = <Pool **> pools
    ids = realloc(r.spare_ids, count * sizeof(uint32_t))
    if ids == NULL:
        return False
    r.spare_ids = <uint32_t *> ids
    r.pools[r.pool_count] = NULL
    r.spare_ids[0] = r.pool_count
    r.spare_count = 1
    r.pool_count += 1
    return True


cdef void relay_drop_pool(Relay *r, Pool *p) noexcept nogil:
    """Free an empty pool (``pool_is_empty``); another one may have its id."""
    r.pools[p.id] = NULL
    r.spare_ids[r.spare_count] = p.id
    r.spare_count += 1
    free_pool(p)


cdef void free_pool(Pool *p) noexcept nogil:
    inquiry_forget(p)
    words_forget(p)
    pool_free(p)


# ---------------------------------------------------------------- what is left to do

cdef bint step_more(Relay *r) noexcept nogil:
    """Decide the next thing that had to wait until all orders were carried out.

    False: nothing is left. Otherwise there may be orders again.
    """
    cdef ClientSession *c
    cdef ServerSession *s
    if r.pending.block.cap:
        queue_reset(&r.pending.block)
    if r.pending.resume != NULL:
        c = r.pending.resume
        r.pending.resume = NULL
        resume_client(r, c)
        return True
    if r.pending.settle != NULL:
        s = r.pending.settle
        r.pending.settle = NULL
        settle(r, s)
        if s.fate.obsolete and goes_fast(s):
            lose_server(r, s, CLOSE_CONFIG_CHANGED)
        return True
    if r.pending.leave != NULL:
        c = r.pending.leave
        r.pending.leave = NULL
        let_leave(r, c)
        return True
    return serve_waiting(r)


cdef bint serve_waiting(Relay *r) noexcept nogil:
    """Serve one waiting client, or look at one idle server; False: there is none."""
    cdef Pool *p
    cdef ServerSession *s
    while r.wakes != NULL:
        p = r.wakes
        if p.waiting_head != NULL and p.idle_head != NULL and not p.paused:
            s = pool_first_for(p, p.waiting_head)
            if server_fits(s, p.waiting_head, r.now_us):
                serve_first(r, p)
                return True
            if make_fit(r, p, s):
                return True
        no_wake(r)
    return False


cdef void serve_first(Relay *r, Pool *p) noexcept nogil:
    cdef ClientSession *c = p.waiting_head
    resume_client(r, c)
    if p.waiting_head == c:
        # it holds no request that needs a server: cannot be, but must not spin
        close_client(r, c, CLOSE_INTERNAL, True)


cdef void resume_client(Relay *r, ClientSession *c) noexcept nogil:
    """Go on with a client's held bytes, then read it again."""
    cdef Queue *held = &c.stream.held
    cdef const Queue *block = &r.pending.block
    if held.cap:
        r.pending.block = held[0]
        memset(held, 0, sizeof(Queue))
        step_client_bytes(r, c, block.data + block.start, queue_size(block))
    elif absorbed_waits(c):
        step_client_bytes(r, c, <const uint8_t *> NOTHING, 0)
    order_read_client(&r.orders, c)


cdef bint step_deadline(Relay *r) noexcept nogil:
    """Decide what follows from a deadline that has passed; False: there is none."""
    cdef uint8_t kind = 0
    cdef Timer *t = wheel_pop(&r.wheel, &kind)
    if t == NULL:
        return False
    if t.is_server:
        SERVER_DUE[kind](r, <ServerSession *> t.session)
    else:
        CLIENT_DUE[kind](r, <ClientSession *> t.session)
    return True


ctypedef void (*ClientDue)(Relay *r, ClientSession *c) noexcept nogil
ctypedef void (*ServerDue)(Relay *r, ServerSession *s) noexcept nogil

cdef ClientDue CLIENT_DUE[<int> CLIENT_DEADLINES]
CLIENT_DUE[<int> DEADLINE_LOGIN] = login_too_long
CLIENT_DUE[<int> DEADLINE_QUERY_WAIT] = waits_long
CLIENT_DUE[<int> DEADLINE_CLIENT_IDLE] = client_idle_long
cdef ServerDue SERVER_DUE[<int> SERVER_DEADLINES]
SERVER_DUE[<int> DEADLINE_TESTED] = tested_too_long
SERVER_DUE[<int> DEADLINE_CANCEL_AGAIN] = cancel_again
SERVER_DUE[<int> DEADLINE_QUERY] = query_too_long
SERVER_DUE[<int> DEADLINE_XACT] = xact_too_long
SERVER_DUE[<int> DEADLINE_IDLE_XACT] = xact_idle_long
SERVER_DUE[<int> DEADLINE_SERVER_IDLE] = server_idle_long
SERVER_DUE[<int> DEADLINE_LIFETIME] = server_aged


cdef int check_deadlines() except -1:
    cdef int kind
    for kind in range(CLIENT_DEADLINES):
        if CLIENT_DUE[kind] == NULL:
            raise ImportError(f"nothing follows from client deadline {kind}")
    for kind in range(SERVER_DEADLINES):
        if SERVER_DUE[kind] == NULL:
            raise ImportError(f"nothing follows from server deadline {kind}")
    return 0

check_deadlines()


# ---------------------------------------------------------------- clients

cdef void step_client_admit(
    Relay *r, ClientSession *c, Pool *p, ParamSet *values
) noexcept nogil:
    """A client has logged in and was told so; takes the reference to ``values``.

    What it has sent behind its login is held and goes on.
    """
    r.client_total += 1
    sequences_begin(c, r.client_total)
    client_params_begin(c, values)
    pool_add_client(p, c)
    if p.config.timed:
        client_spoke(c)
    r.pending.resume = c


cdef void step_client_bytes(
    Relay *r, ClientSession *c, const uint8_t *src, size_t n
) noexcept nogil:
    """A client that is not held back has sent src[0:n), behind what it holds.

    The bytes begin with what was held, which is empty now.
    """
    cdef size_t consumed = 0
    cdef RelayStatus status
    output_clear(&r.to_client)
    output_clear(&r.to_server)
    status = relay_client_bytes(r, c, src, n, &consumed)
    if c.server != NULL:
        order_send_to_server(
            &r.orders, c.server, r.to_server.data, r.to_server.n
        )
    if r.to_client.n:
        order_send_to_client(&r.orders, c, r.to_client.data, r.to_client.n)
    if queue_keep(&c.stream.held, src + consumed, n - consumed) < 0:
        status = RELAY_NO_MEMORY
    if status == RELAY_OK or status == RELAY_ALIGN:
        if c.server != NULL:  # a late CopyDone can free a server
            r.pending.settle = c.server
        if c.pool.config.timed:
            client_spoke(c)
    elif status == RELAY_WAIT:
        if c.pool.closing:
            close_client(r, c, CLOSE_SHUTDOWN, True)
        else:
            want_servers(r, c.pool)
            note_uneven(r, c.pool)
    elif status == RELAY_TERMINATE:
        say_goodbye(r, c)
    elif status == RELAY_CLIENT_PROTO:
        close_client(r, c, CLOSE_CLIENT_PROTO, True)
    elif status == RELAY_CLIENT_QUERY:
        close_client(r, c, CLOSE_CLIENT_QUERY, True)
    else:
        close_client(r, c, CLOSE_NO_MEMORY, True)


cdef void step_client_end(Relay *r, ClientSession *c) noexcept nogil:
    """A client's connection has ended: end of file, or an error of read or send."""
    close_client(r, c, CLOSE_CLIENT_REQUEST if c.leaving else CLOSE_CLIENT_EOF, False)


cdef void step_client_overflow(Relay *r, ClientSession *c) noexcept nogil:
    """A client holds more than one read can complete: no message of its is so long."""
    close_client(r, c, CLOSE_CLIENT_PROTO, True)


cdef bint says_goodbye(const ClientSession *c) noexcept nogil:
    """Whether there is a Terminate in what a client holds."""
    cdef const Queue *held = &c.stream.held
    cdef ScanState scan = c.scan
    cdef Found found
    cdef size_t pos = 0
    while scan_next(
        &scan, LONE_CLIENT_RULES, held.data + held.start, queue_size(held), &pos, &found
    ) == SCAN_MESSAGE:
        if found.action == ACTION_TERMINATE:
            return True
    return False


cdef void step_client_vanished(Relay *r, ClientSession *c) noexcept nogil:
    """The connection of a client that is not read has ended; it holds all it has said.

    PostgreSQL carries out what came before a Terminate, whether or not somebody is
    there to read the answers.
    """
    if c.state == CLIENT_WAITING and not c.leaving and says_goodbye(c):
        note_goodbye(c)
    else:
        step_client_end(r, c)


cdef void step_client_sent(Relay *r, ClientSession *c) noexcept nogil:
    """A client has taken everything that was queued for it."""
    if c.server != NULL:
        order_read_server(&r.orders, c.server)
        r.pending.settle = c.server
    if c.leaving:
        r.pending.leave = c


cdef void step_client_close(
    Relay *r, ClientSession *c, CloseReason reason, bint tell
) noexcept nogil:
    """Python wants a client to go."""
    close_client(r, c, reason, tell)


# ---------------------------------------------------------------- servers

# What becomes of a server after a walk that did not end well.
cdef CloseReason SERVER_REASONS[<int> RELAY_STATUSES]
SERVER_REASONS[<int> RELAY_SERVER_PROTO] = CLOSE_SERVER_PROTO
SERVER_REASONS[<int> RELAY_SERVER_DEAD] = CLOSE_SERVER_EOF
SERVER_REASONS[<int> RELAY_STATEMENT_XACT] = CLOSE_STATEMENT_XACT
SERVER_REASONS[<int> RELAY_ALIGN_FAILED] = CLOSE_CLIENT_PARAMETER
SERVER_REASONS[<int> RELAY_NO_MEMORY] = CLOSE_NO_MEMORY


cdef void step_server_begin(
    Relay *r, ServerSession *s, Pool *p, ParamSet *values,
    const uint8_t *early, size_t n,
) noexcept nogil:
    """A server has logged in: it becomes idle and serves who waits.

    Takes the reference to ``values``. early[0:n) came behind its ReadyForQuery.
    """
    server_params_begin(s, values)
    tracking_begin(s, p.config.max_prepared_statements != 0)
    pool_connected(p)
    pool_add_server(p, s, r.now_us)
    if p.config.single_use:
        mark_over(s, CLOSE_SERVER_LIFETIME)
    server_times_begin(s)
    if n:
        step_server_bytes(r, s, early, n)
    wake_pool(r, p)


cdef void step_server_bytes(
    Relay *r, ServerSession *s, const uint8_t *src, size_t n
) noexcept nogil:
    """A server that is not held back has sent src[0:n), behind what it holds."""
    cdef ClientSession *c = s.client
    cdef size_t consumed = 0
    cdef RelayStatus status
    output_clear(&r.to_client)
    output_clear(&r.to_server)
    r.resume = False
    status = relay_server_bytes(r, s, src, n, &consumed)
    if c != NULL:
        order_send_to_client(&r.orders, c, r.to_client.data, r.to_client.n)
    if r.to_server.n:
        order_send_to_server(&r.orders, s, r.to_server.data, r.to_server.n)
    if c == NULL:
        inquiry_bytes(r, s, src, consumed)
    if queue_keep(&s.stream.held, src + consumed, n - consumed) < 0:
        status = RELAY_NO_MEMORY
    if status != RELAY_OK:
        fail_server(r, s, status)
        return
    if c == NULL:
        note_unwanted(r, s, n)
    if r.resume:
        r.pending.resume = c
    r.pending.settle = s
    if c != NULL and c.leaving:
        r.pending.leave = c


cdef void fail_server(Relay *r, ServerSession *s, RelayStatus status) noexcept nogil:
    if status == RELAY_TEST_FAILED:
        close_server(
            r, s, CLOSE_SERVER_CHECK if s.cleaning.checking else CLOSE_SERVER_RESET
        )
        return
    if status == RELAY_ALIGN_FAILED:
        note_fatal(s, True)
    if status == RELAY_SERVER_PROTO and s.state == SERVER_IDLE:
        lose_server(r, s, CLOSE_SERVER_DIRTY)
    else:
        lose_server(r, s, SERVER_REASONS[<int> status])


cdef void step_server_end(Relay *r, ServerSession *s) noexcept nogil:
    """A server's connection has ended: end of file, or an error of read."""
    lose_server(r, s, CLOSE_SERVER_EOF)


cdef void step_server_overflow(Relay *r, ServerSession *s) noexcept nogil:
    """A server holds more than one read can complete: no message of its is so long."""
    lose_server(r, s, CLOSE_SERVER_PROTO)


cdef void step_server_sent(Relay *r, ServerSession *s) noexcept nogil:
    """A server has taken everything that was queued for it."""
    if s.client != NULL:
        order_read_client(&r.orders, s.client)
    r.pending.settle = s


cdef void step_server_close(
    Relay *r, ServerSession *s, CloseReason reason
) noexcept nogil:
    """Python wants a server to go; its client, if any, is left without one."""
    close_server(r, s, reason)


cdef void step_server_retire(Relay *r, ServerSession *s) noexcept nogil:
    """Close a server now if it is idle, else when it is free."""
    mark_obsolete(s)
    retire(r, s)


cdef void step_server_pause(Relay *r, ServerSession *s) noexcept nogil:
    """As ``step_server_retire``, for a pause: no client is sent away for that."""
    mark_over(s, CLOSE_SERVER_PAUSED)
    retire(r, s)


cdef void retire(Relay *r, ServerSession *s) noexcept nogil:
    if s.state == SERVER_IDLE:
        close_surplus(r, s)
    elif s.state == SERVER_TESTED:
        r.pending.settle = s
    elif goes_fast(s):
        lose_server(r, s, CLOSE_CONFIG_CHANGED)


cdef bint goes_fast(const ServerSession *s) noexcept nogil:
    """``server_fast_close``: whether a server goes before its session ends."""
    return (
        s.state == SERVER_ACTIVE and s.fate.obsolete == CLOSE_SERVER_OBSOLETE
        and s.pool.config.fast_close and not s.pool.paused and server_is_free(s)
    )


cdef void step_client_limits(ClientSession *c) noexcept nogil:
    """The pool of a client has other time limits."""
    client_limits_changed(c)


cdef void step_server_limits(ServerSession *s) noexcept nogil:
    """The pool of a server has other time limits."""
    if s.pool.config.single_use:
        mark_over(s, CLOSE_SERVER_LIFETIME)
    server_limits_changed(s)


cdef void step_server_give(Relay *r, ServerSession *s) noexcept nogil:
    """A server that may move goes to another worker; its record is written already."""
    leave_pool(r, s)


cdef void step_server_receive(
    Relay *r, ServerSession *s, Pool *p, Thawed *t
) noexcept nogil:
    """A server comes from another worker to a pool that accepts it; takes ``t``."""
    join_pool(r, s, p, t)


cdef void step_server_stay(Relay *r, ServerSession *s) noexcept nogil:
    """A server that was put aside for another worker is not sent there."""
    server_stays(r, s)


cdef void step_pool_lets_go(Relay *r, Pool *p) noexcept nogil:
    """Somebody waits elsewhere: an idle server that is kept for its client is cleaned.
    """
    cdef ServerSession *s = p.idle_tail
    if s != NULL and s.kept_for == NULL and s.changes.left == 0:
        s = p.idle_head  # where they are used in turn
    if s == NULL or (s.kept_for == NULL and s.changes.left == 0):
        return
    clean_kept(r, s)
    if s.state == SERVER_IDLE:
        offer_elsewhere(r, s)


cdef void step_pool_wants(Relay *r, Pool *p) noexcept nogil:
    """How many servers a pool may have, or whether it hands them out, has changed."""
    want_servers(r, p)


cdef void step_pool_waits(Relay *r, Pool *p) noexcept nogil:
    """Servers that were wanted do not come, or not yet: make do with what is there."""
    wake_pool(r, p)


cdef bint step_pool_inquire(
    Relay *r, Pool *p, const uint8_t *message, size_t n
) noexcept nogil:
    """Python wants to know what a server answers to a Query that changes nothing.

    False: no server is free. The message is borrowed until orders are carried out.
    """
    return inquiry_begin(r, p, message, n)


# ---------------------------------------------------------------- cancel

cdef bint align_is_outstanding(ServerSession *s) noexcept nogil:
    cdef uint32_t at
    for at in range(s.requests.tail - s.requests.head):
        if requests_at(&s.requests, s.requests.head + at)[0] == REQUEST_ALIGN:
            return True
    return False


cdef ServerSession *step_cancel(Relay *r, ClientSession *c) noexcept nogil:
    """Somebody asks for a client's request to be cancelled.

    Returns the server to ask, which is not used again until ``step_cancelled``; NULL
    when nothing is left to do. A request that waits here is answered here; one that
    runs behind our SET is cancelled once that is done.
    """
    cdef Queue *held = &c.stream.held
    cdef size_t consumed = 0
    if c.state == CLIENT_WAITING or c.aligning:
        if queue_size(held) == 0:  # was cancelled before, while it is aligned
            return NULL
        output_clear(&r.to_client)
        if answer_cancelled(
            r, c, held.data + held.start, queue_size(held), &consumed
        ) != RELAY_OK:
            return NULL
        order_send_to_client(&r.orders, c, r.to_client.data, r.to_client.n)
        queue_keep(held, held.data + held.start + consumed, queue_size(held) - consumed)
        if c.state == CLIENT_WAITING:
            pool_give_up(c.pool, c)
            client_limits_changed(c)
            r.pending.resume = c
        return NULL
    if c.state != CLIENT_ACTIVE:
        return NULL
    if align_is_outstanding(c.server):
        cancel_when_aligned(c.server)
        return NULL
    cancel_begins(c.server)
    return c.server


cdef void step_cancelled(Relay *r, ServerSession *s, bint uncertain) noexcept nogil:
    """The cancel request to a server is over; ``uncertain``: it may still strike."""
    cancel_ended(s)
    if uncertain:
        mark_obsolete(s)
    r.pending.settle = s
