# SPDX-License-Identifier: MIT
"""Time that is over; see ``timeouts.pxd``."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from pooler.relay.clean cimport close_server
from pooler.relay.ends cimport close_client
from pooler.relay.orders cimport order_send_to_client
from pooler.session.deadlines cimport (
    DEADLINE_LIFETIME, DEADLINE_QUERY, DEADLINE_SERVER_IDLE, deadline_start,
    deadline_start_since,
)
from pooler.session.fate cimport mark_over
from pooler.session.records cimport (
    CLIENT_ACTIVE, CLIENT_IDLE, CLOSE_CLIENT_IDLE, CLOSE_IDLE_XACT_TIMEOUT,
    CLOSE_LOGIN_SERVER_DOWN, CLOSE_LOGIN_TIMEOUT, CLOSE_QUERY_TIMEOUT,
    CLOSE_QUERY_TIMEOUT_WAITING, CLOSE_QUERY_WAIT, CLOSE_SERVER_IDLE,
    CLOSE_SERVER_LIFETIME, CLOSE_XACT_TIMEOUT, COPY_IN_NONE, CloseReason, Pool,
    PoolConfig, SERVER_ACTIVE, SERVER_CLOSED, SERVER_IDLE, server_is_free,
)
from pooler.session.time_limits cimport wait_goes_on
from pooler._wire cimport put_error_response

cdef enum:
    NOTICE_MAX_BYTES = 160
    KEPT_LOOK_US = 1000000
    # How long a worker alone may close what is above min_pool_size. In the second half
    # PostgreSQL gets rid of it, so that the next worker counts what is left.
    TURN_US = 200000

cdef uint8_t WAIT_NOTICE[NOTICE_MAX_BYTES]
cdef size_t wait_notice_n = put_error_response(
    WAIT_NOTICE, b"NOTICE", b"00000",
    b"No server connection available in postgres backend, client being queued",
)
WAIT_NOTICE[0] = c"N"


# ---------------------------------------------------------------- clients

cdef void login_too_long(Relay *r, ClientSession *c) noexcept nogil:
    """``client_login_timeout``"""
    close_client(
        r, c, CLOSE_LOGIN_SERVER_DOWN if c.proved else CLOSE_LOGIN_TIMEOUT, True
    )


cdef inline bint is_over(uint64_t age_us, uint64_t limit_us) noexcept nogil:
    return limit_us != 0 and age_us >= limit_us


cdef void waits_long(Relay *r, ClientSession *c) noexcept nogil:
    """``query_wait_timeout``; ``query_timeout``, for it counts the wait, too; or a
    client is told that it waits (``query_wait_notify``).
    """
    cdef const PoolConfig *config = &c.pool.config
    cdef uint64_t age_us = r.now_us - c.waiting_since_us
    if is_over(age_us, config.server_limit_us[<int> DEADLINE_QUERY]):
        close_client(r, c, CLOSE_QUERY_TIMEOUT_WAITING, True)
    elif is_over(age_us, config.query_wait_us):
        close_client(r, c, CLOSE_QUERY_WAIT, True)
    else:
        if is_over(age_us, config.wait_notify_us):
            order_send_to_client(&r.orders, c, WAIT_NOTICE, wait_notice_n)
        wait_goes_on(c)


cdef void client_idle_long(Relay *r, ClientSession *c) noexcept nogil:
    """``client_idle_timeout``, outside of a transaction; in session mode as well."""
    if c.leaving or c.settling or c.aligning:
        return
    if c.state == CLIENT_IDLE or (
        c.state == CLIENT_ACTIVE and server_is_free(c.server)
    ):
        close_client(r, c, CLOSE_CLIENT_IDLE, True)


# ---------------------------------------------------------------- servers at work

cdef inline bint is_at_work(const ServerSession *s) noexcept nogil:
    """Whether its client waits for an answer, or has not said yet what it wants."""
    return s.state == SERVER_ACTIVE and (
        s.requests.head != s.requests.tail or s.batch.open
        or s.copy.state != COPY_IN_NONE
    )


cdef void end_both(Relay *r, ServerSession *s, CloseReason reason) noexcept nogil:
    """Its client hears why, and goes; what it has running is cancelled first."""
    mark_over(s, reason)
    close_client(r, s.client, reason, True)


cdef void query_too_long(Relay *r, ServerSession *s) noexcept nogil:
    """``query_timeout``"""
    if is_at_work(s):
        end_both(r, s, CLOSE_QUERY_TIMEOUT)


cdef void xact_too_long(Relay *r, ServerSession *s) noexcept nogil:
    """``transaction_timeout``"""
    if is_at_work(s) or (s.state == SERVER_ACTIVE and s.xact_status != c"I"):
        end_both(r, s, CLOSE_XACT_TIMEOUT)


cdef void xact_idle_long(Relay *r, ServerSession *s) noexcept nogil:
    """``idle_transaction_timeout``"""
    if s.state == SERVER_ACTIVE and s.xact_status != c"I" and not is_at_work(s):
        end_both(r, s, CLOSE_IDLE_XACT_TIMEOUT)


# ---------------------------------------------------------------- servers without

cdef bint is_kept_ready(const Pool *p) noexcept nogil:
    """Whether all workers together have no more servers than ``min_pool_size``.

    Our own that are closing count on the page until PostgreSQL is rid of them.
    """
    cdef uint64_t found = p.server_count
    cdef uint32_t i
    if p.config.min_servers == 0 or p.rows == NULL:
        return False
    for i in range(p.row_count - 1):
        if &p.rows[i] != p.cells:
            found += p.rows[i].servers
    return found <= p.config.min_servers


cdef uint64_t until_turn_us(const Relay *r, const Pool *p) noexcept nogil:
    """How long until this worker may close what is above ``min_pool_size``; 0: now.

    Two that look at the same moment would both close the same one that is too many.
    """
    cdef uint64_t round_us
    cdef uint64_t behind_us  # since its last turn began
    if p.config.min_servers == 0 or p.rows == NULL or p.row_count <= 2:
        return 0
    round_us = (p.row_count - 1) * <uint64_t> TURN_US
    behind_us = (
        r.now_us + round_us - <uint64_t> (p.cells - p.rows) * TURN_US
    ) % round_us
    return 0 if behind_us < TURN_US // 2 else round_us - behind_us


cdef void server_idle_long(Relay *r, ServerSession *s) noexcept nogil:
    """``server_idle_timeout``. One that is kept for a client goes with that client."""
    cdef uint64_t limit_us = s.pool.config.server_limit_us[<int> DEADLINE_SERVER_IDLE]
    cdef uint64_t turn_us = until_turn_us(r, s.pool)
    if s.state == SERVER_CLOSED:
        return
    if s.state != SERVER_IDLE or s.kept_for != NULL or is_kept_ready(s.pool):
        deadline_start(&s.timer, DEADLINE_SERVER_IDLE, limit_us)
    elif not is_over(r.now_us - s.idle_since_us, limit_us):
        deadline_start_since(
            &s.timer, DEADLINE_SERVER_IDLE, s.idle_since_us, limit_us
        )
    elif turn_us:
        deadline_start(&s.timer, DEADLINE_SERVER_IDLE, turn_us)
    else:
        close_server(r, s, CLOSE_SERVER_IDLE)


cdef void server_aged(Relay *r, ServerSession *s) noexcept nogil:
    """``server_lifetime``: now if it is idle, else when its client leaves it."""
    if s.state == SERVER_IDLE and s.kept_for != NULL:
        deadline_start(&s.timer, DEADLINE_LIFETIME, KEPT_LOOK_US)
    elif s.state == SERVER_IDLE:
        close_server(r, s, CLOSE_SERVER_LIFETIME)
    else:
        mark_over(s, CLOSE_SERVER_LIFETIME)
