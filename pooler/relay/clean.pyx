# SPDX-License-Identifier: MIT
"""How a server comes back to its pool; see ``clean.pxd``."""

from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memset

from pooler.relay.align cimport server_params_end, stop_aligning
from pooler.relay.cancels cimport cancel_work
from pooler.relay.inquire cimport inquiry_lost
from pooler.relay.injected cimport inject_end, inject_query
from pooler.relay.offers cimport offer_elsewhere
from pooler.relay.orders cimport (
    order_close_server, order_read_server, order_tell_changed,
)
from pooler.relay.wakes cimport wake_pool, want_servers
from pooler.session.deadlines cimport (
    DEADLINE_CANCEL_AGAIN, DEADLINE_TESTED, deadline_start, deadline_stop, timer_end,
)
from pooler.session.pool cimport (
    pool_abandon, pool_detach, pool_drained, pool_keep, pool_let_go,
    pool_remove_server, pool_test, pool_tested,
)
from pooler.session.records cimport (
    CHANGE_FOR_GOOD, CLOSE_CLIENT_IN_PROGRESS, CLOSE_CLIENT_NOT_READY,
    CLOSE_CLIENT_REQUEST, CLOSE_NO_MEMORY, CLOSE_REPLICATION, CLOSE_SERVER_ABANDONED,
    CLOSE_QUERY_TIMEOUT, CLOSE_SERVER_CHANGED, CLOSE_SERVER_LIFETIME,
    CLOSE_SERVER_OBSOLETE, CLOSE_SERVER_PAUSED, CLOSE_XACT_TIMEOUT, COPY_IN_OPEN,
    MODE_SESSION, PoolConfig,
    SERVER_ACTIVE, SERVER_CLOSED, SERVER_TESTED, Script, server_is_free,
    server_is_quiet, server_side_is_quiet,
)
from pooler.session.requests cimport (
    REQUEST_SKIP, batch_answered, requests_count, requests_first, requests_free,
)
from pooler.statements.effects cimport session_statements_free
from pooler.wire.buffers cimport queue_reset
from pooler.session.changes cimport changes_cleaned, resets_over
from pooler.session.counters cimport count_changed, count_cleaned
from pooler.session.custom cimport custom_fits
from pooler.session.fate cimport why_over
from pooler.session.time_limits cimport client_times_over
from pooler.session.tracking cimport no_strays
from pooler.tables.server_statements cimport server_statements_sure

cdef enum:
    UNWANTED_MAX_BYTES = 262144  # of answers that nobody reads, before it is cancelled
    CANCEL_AGAIN_US = 333333


# ---------------------------------------------------------------- the end of one

cdef void close_server(Relay *r, ServerSession *s, CloseReason reason) noexcept nogil:
    """Close a server in whatever state; idempotent. Its client stays, idle."""
    cdef Pool *p = s.pool
    cdef bint at_work = not server_side_is_quiet(s)
    cdef bint answered = batch_answered(&s.requests) > 1
    if s.state == SERVER_CLOSED:
        return
    if s.client != NULL:
        stop_aligning(s.client)
    if r.pending.settle == s:
        r.pending.settle = NULL
    if p.inquiry.server == s:
        inquiry_lost(r, p)
    session_statements_free(&r.statements, s)
    pool_remove_server(p, s)
    timer_end(&s.timer)
    queue_reset(&s.stream.held)
    requests_free(&s.requests)
    server_params_end(r, s)
    order_close_server(&r.orders, s, reason, at_work, answered)
    want_servers(r, p)


cdef inline bint server_is_surplus(const ServerSession *s) noexcept nogil:
    """To be closed rather than used again."""
    return s.fate.obsolete or s.pool.server_count > s.pool.max_servers


cdef inline bint has_to_go(const ServerSession *s) noexcept nogil:
    """Whether a server goes whatever its client has left in it.

    Not for its age: it is kept as long as its client may want that back.
    """
    return server_is_surplus(s) and (
        s.fate.obsolete != CLOSE_SERVER_LIFETIME or s.pool.config.single_use
        or s.pool.server_count > s.pool.max_servers
    )


cdef void close_surplus(Relay *r, ServerSession *s) noexcept nogil:
    close_server(
        r, s,
        CLOSE_SERVER_PAUSED if s.pool.paused and not s.pool.closing else why_over(s),
    )


# ---------------------------------------------------------------- releasing

cdef void settle(Relay *r, ServerSession *s) noexcept nogil:
    """Give a server back to its pool if nothing of its client is left in it."""
    if s.state == SERVER_TESTED:
        clean_server(r, s)
        return
    if (
        s.state == SERVER_ACTIVE
        and s.pool.config.mode != MODE_SESSION
        and server_is_free(s)
    ):
        release(r, s)


cdef void release(Relay *r, ServerSession *s) noexcept nogil:
    """A server of which its client needs nothing more."""
    if s.changes.left and not has_to_go(s):
        keep_changed(r, s)
        return
    if server_is_surplus(s):
        close_surplus(r, s)
        return
    if s.pool.config.reset_always or s.tracking.stray:
        pool_abandon(s.pool, s)
        s.cleaning.reset_wanted = s.pool.config.reset_always
        clean_server(r, s)
        return
    if s.client.asks_sequences and s.pool.waiting_head == NULL:
        pool_keep(s.pool, s, r.now_us)
        return
    pool_detach(s.pool, s, r.now_us)
    if not offer_elsewhere(r, s) and s.pool.waiting_head != NULL:
        wake_pool(r, s.pool)


cdef void keep_changed(Relay *r, ServerSession *s) noexcept nogil:
    """A client has left something in its server: it is offered that one again, until
    somebody else needs it, who gets it clean.
    """
    if s.changes.left & ~s.pool.counters.left:
        order_tell_changed(&r.orders, s.pool)
    count_changed(s.pool, s.changes.left)
    if s.pool.waiting_head != NULL or s.pool.config.reset_always:
        pool_abandon(s.pool, s)
        s.cleaning.reset_wanted = True
        clean_server(r, s)
    else:
        pool_keep(s.pool, s, r.now_us)


cdef void clean_kept(Relay *r, ServerSession *s) noexcept nogil:
    """Nobody may have an idle server back as it was left.

    Sequences are forgotten when another client gets it.
    """
    if s.changes.left == 0:
        pool_let_go(s.pool, s)
        return
    pool_test(s.pool, s)
    s.cleaning.reset_wanted = True
    clean_server(r, s)


cdef void limit_test(ServerSession *s) noexcept nogil:
    """What a server without a client is at now has its time from here."""
    cdef int kind = DEADLINE_TESTED
    deadline_start(&s.timer, <uint8_t> kind, s.pool.config.server_limit_us[kind])


cdef void run_script(Relay *r, ServerSession *s, const Script *q) noexcept nogil:
    """Send a query of ours to a server that has no client; it must answer in time."""
    if inject_query(r, s, q) < 0:
        close_server(r, s, CLOSE_NO_MEMORY)
        return
    limit_test(s)


cdef inline const Script *reset_script(
    const Relay *r, const ServerSession *s
) noexcept nogil:
    """What clears a session; without it, others would see what a client has set.

    In session mode a pool without a reset query wants none. One that was made for
    session mode may clear too little of what is known to be left.
    """
    cdef const PoolConfig *config = &s.pool.config
    if config.mode == MODE_SESSION or (config.reset_query.n and s.changes.left == 0):
        return &config.reset_query
    return &r.discard


cdef void clean_server(Relay *r, ServerSession *s) noexcept nogil:
    """Bring a server without a client one step nearer to its pool.

    Called each time it may have become quiet: first an open transaction is rolled
    back, then the reset query runs if it is due, then statements go that SQL has
    prepared behind our back.
    """
    if s.state != SERVER_TESTED:
        return
    if s.copy.state == COPY_IN_OPEN:  # opened after its client had gone
        end_work(r, s)
        return
    if not server_is_quiet(s):
        return
    pool_drained(s.pool, s)
    if server_is_surplus(s):
        close_surplus(r, s)
    elif s.xact_status != c"I":
        if s.cleaning.rolling_back:
            close_server(r, s, CLOSE_CLIENT_NOT_READY)
        else:
            s.cleaning.rolling_back = True
            run_script(r, s, &r.rollback)
    elif s.changes.left & CHANGE_FOR_GOOD:
        close_server(r, s, CLOSE_SERVER_CHANGED)
    elif s.cleaning.reset_wanted and reset_script(r, s).n:
        s.cleaning.reset_wanted = False
        s.cleaning.resetting = True
        run_script(r, s, reset_script(r, s))
    elif s.tracking.stray:
        no_strays(s)
        run_script(r, s, &r.deallocate)
    else:
        cleaned(r, s)


cdef void cleaned(Relay *r, ServerSession *s) noexcept nogil:
    """Nothing is left in a server: it may have the next client."""
    deadline_stop(&s.timer, DEADLINE_CANCEL_AGAIN)
    resets_over(s)
    if s.cleaning.resetting:
        if s.changes.left:
            count_cleaned(s.pool)
        changes_cleaned(s)
        server_statements_sure(&s.statements)
    pool_tested(s.pool, s, s.cleaning.checking, r.now_us)
    memset(&s.cleaning, 0, sizeof(s.cleaning))
    if not offer_elsewhere(r, s) and s.pool.waiting_head != NULL:
        wake_pool(r, s.pool)


cdef void clean_moved(Relay *r, ServerSession *s) noexcept nogil:
    """An idle server comes from another worker, whose names are not known here."""
    pool_test(s.pool, s)
    clean_server(r, s)


cdef bint make_fit(Relay *r, Pool *p, ServerSession *s) noexcept nogil:
    """Clean an idle server that somebody has changed, or run the check query on one
    that has been idle too long to be trusted.

    A client keeps what it has left as long as another server can be opened. Returns
    whether another one may be usable, or may be made so as well.
    """
    if p.tested_count >= p.waiting_count:
        return False
    if s.changes.left or s.kept_for != NULL:
        if p.launch_wanted or p.connecting_count:
            return False
        clean_kept(r, s)
        return True
    if not custom_fits(s, p.waiting_head):
        if p.launch_wanted or p.connecting_count:
            return False
        close_server(r, s, CLOSE_SERVER_CHANGED)
        return True
    pool_test(p, s)
    s.cleaning.checking = True
    run_script(r, s, &p.config.check_query)
    return True


# ---------------------------------------------------------------- after a client

cdef void end_work(Relay *r, ServerSession *s) noexcept nogil:
    """End what a client that is gone has begun on a server."""
    if inject_end(r, s) < 0:
        close_server(r, s, CLOSE_NO_MEMORY)


cdef void abandon_work(Relay *r, ServerSession *s) noexcept nogil:
    """Have what a server is at work on cancelled; it is not reused meanwhile."""
    s.cleaning.abandoned = True
    limit_test(s)
    deadline_start(&s.timer, DEADLINE_CANCEL_AGAIN, CANCEL_AGAIN_US)
    cancel_work(r, s)


cdef void cancel_again(Relay *r, ServerSession *s) noexcept nogil:
    """A request that comes before PostgreSQL has begun is ignored there."""
    if s.state != SERVER_TESTED or not s.cleaning.abandoned:
        return
    deadline_start(&s.timer, DEADLINE_CANCEL_AGAIN, CANCEL_AGAIN_US)
    if s.cancels == 0 and requests_count(&s.requests):
        cancel_work(r, s)


cdef void tested_too_long(Relay *r, ServerSession *s) noexcept nogil:
    """A query of ours, or one that was cancelled, has not ended in time."""
    if s.cleaning.abandoned or requests_first(&s.requests) & REQUEST_SKIP:
        close_server(r, s, CLOSE_SERVER_ABANDONED)
    else:  # at work for a client that has said goodbye
        limit_test(s)


cdef void note_unwanted(Relay *r, ServerSession *s, size_t n) noexcept nogil:
    """A server has sent n bytes that nobody gets; more of that is not worth it."""
    if s.state != SERVER_TESTED or s.cleaning.abandoned:
        return
    if requests_count(&s.requests) == 0:
        return
    s.cleaning.unwanted_bytes += <uint32_t> n
    if s.cleaning.unwanted_bytes > UNWANTED_MAX_BYTES:
        abandon_work(r, s)


cdef inline bint is_cancelled(CloseReason reason) noexcept nogil:
    """Whether what runs is cancelled whatever ``cancel_abandoned`` says."""
    return reason == CLOSE_QUERY_TIMEOUT or reason == CLOSE_XACT_TIMEOUT


cdef CloseReason why_left(
    const ServerSession *s, bint running, bint free
) noexcept nogil:
    """Why a server goes with its client."""
    if free or s.fate.obsolete not in (
        0, CLOSE_SERVER_OBSOLETE, CLOSE_SERVER_LIFETIME, CLOSE_SERVER_PAUSED
    ):
        return why_over(s)
    return CLOSE_CLIENT_IN_PROGRESS if running else CLOSE_CLIENT_NOT_READY


cdef void take_over(Relay *r, ClientSession *c, CloseReason reason) noexcept nogil:
    """A client leaves its server, which is made fit for others or closed.

    What the client had running is cancelled when it vanished. When it said goodbye
    PostgreSQL would go on until it fails to send, so it may go on here too, until it
    has sent too much that nobody wants.
    """
    cdef ServerSession *s = c.server
    cdef Pool *p = s.pool
    cdef bint cut = c.scan.body_left != 0  # the server waits for the rest of a message
    cdef bint running
    cdef bint free
    stop_aligning(c)
    client_times_over(s)
    free = not cut and s.xact_status == c"I" and server_side_is_quiet(s)
    if p.config.dedicated:
        close_server(r, s, CLOSE_REPLICATION)
        return
    if p.config.mode != MODE_SESSION and free and s.changes.left == 0:
        release(r, s)
        return
    running = requests_count(&s.requests) != 0 or s.copy.state == COPY_IN_OPEN
    if cut or (s.fate.obsolete and not (running and is_cancelled(reason))) or (
        not p.config.cancel_abandoned and not s.fate.obsolete
        and (running or not free)
    ):
        close_server(r, s, why_left(s, running, free))
        return
    pool_abandon(p, s)
    s.cleaning.reset_wanted = True  # nobody knows what a client without an end has set
    s.cleaning.unwanted_bytes = 0
    order_read_server(&r.orders, s)
    end_work(r, s)
    if running and reason != CLOSE_CLIENT_REQUEST:
        abandon_work(r, s)
    clean_server(r, s)
