# SPDX-License-Identifier: MIT
"""Time limits; see ``time_limits.pxd``."""

from libc.stdint cimport uint64_t

from pooler.session.deadlines cimport (
    DEADLINE_LIFETIME, DEADLINE_QUERY_WAIT, DEADLINE_SERVER_IDLE, DEADLINE_TESTED,
    deadline_start_since,
)
from pooler.session.records cimport (
    CLIENT_WAITING, MODE_STATEMENT, SERVER_ACTIVE, SERVER_IDLE,
)

cdef enum:
    SPREAD_PART = 10  # a server lives up to a tenth longer than ``server_lifetime``
    SPREAD_BITS = 10

cdef uint64_t GOLDEN = 0x9E3779B97F4A7C15  # of 2**64: its multiples spread evenly


cdef inline uint64_t sooner_us(uint64_t a_us, uint64_t b_us) noexcept nogil:
    """The smaller of two limits; 0 is none."""
    if a_us == 0 or b_us == 0:
        return a_us + b_us
    return a_us if a_us < b_us else b_us


cdef void time_limits_fill(PoolConfig *config, const TimeLimits *t) noexcept nogil:
    """Take the limits over into a pool's configuration, whose mode is set."""
    cdef uint64_t *of_server = config.server_limit_us
    config.query_wait_us = t.query_wait_us
    config.wait_notify_us = t.wait_notify_us
    config.client_limit_us[<int> DEADLINE_QUERY_WAIT] = sooner_us(
        t.wait_notify_us, sooner_us(t.query_wait_us, t.query_us)
    )
    config.client_limit_us[<int> DEADLINE_CLIENT_IDLE] = t.client_idle_us
    of_server[<int> DEADLINE_TESTED] = t.tested_us
    of_server[<int> DEADLINE_QUERY] = t.query_us
    of_server[<int> DEADLINE_XACT] = t.xact_us
    of_server[<int> DEADLINE_IDLE_XACT] = t.idle_xact_us
    of_server[<int> DEADLINE_SERVER_IDLE] = t.server_idle_us
    of_server[<int> DEADLINE_LIFETIME] = t.lifetime_us
    config.timed = (
        t.client_idle_us or t.query_us or t.xact_us or t.idle_xact_us
    ) != 0
    config.watch_ready = config.timed or config.mode == MODE_STATEMENT


cdef void wait_goes_on(ClientSession *c) noexcept nogil:
    """A client waits: when to look at it next, by the limits of today."""
    cdef const PoolConfig *config = &c.pool.config
    cdef uint64_t age_us = c.timer.wheel.now_us - c.waiting_since_us
    cdef uint64_t look_us = sooner_us(
        config.query_wait_us, config.server_limit_us[<int> DEADLINE_QUERY]
    )
    if config.wait_notify_us > age_us:
        look_us = sooner_us(look_us, config.wait_notify_us)
    deadline_start_since(&c.timer, DEADLINE_QUERY_WAIT, c.waiting_since_us, look_us)


cdef uint64_t lifetime_us(ServerSession *s) noexcept nogil:
    """How long a server lives: those that were opened together do not end together."""
    cdef uint64_t limit_us = s.pool.config.server_limit_us[<int> DEADLINE_LIFETIME]
    s.pool.lifetimes += 1
    return limit_us + (
        limit_us // SPREAD_PART * (s.pool.lifetimes * GOLDEN >> (64 - SPREAD_BITS))
        >> SPREAD_BITS
    )


cdef void server_times_begin(ServerSession *s) noexcept nogil:
    """A server has become idle in its pool for the first time, or has other limits."""
    deadline_start_since(
        &s.timer, DEADLINE_LIFETIME, s.opened_us, lifetime_us(s)
    )
    deadline_start_since(
        &s.timer, DEADLINE_SERVER_IDLE,
        s.idle_since_us if s.state == SERVER_IDLE else s.timer.wheel.now_us,
        s.pool.config.server_limit_us[<int> DEADLINE_SERVER_IDLE],
    )


cdef void client_limits_changed(ClientSession *c) noexcept nogil:
    """The pool of a client has other limits: they count for it from now on."""
    if c.state == CLIENT_WAITING:
        wait_goes_on(c)
    deadline_start(
        &c.timer, DEADLINE_CLIENT_IDLE,
        c.pool.config.client_limit_us[<int> DEADLINE_CLIENT_IDLE],
    )


cdef void server_limits_changed(ServerSession *s) noexcept nogil:
    """As ``client_limits_changed``; its age counts from its beginning."""
    cdef const uint64_t *limits = s.pool.config.server_limit_us
    server_times_begin(s)
    if s.state != SERVER_ACTIVE:
        return
    deadline_start(&s.timer, DEADLINE_QUERY, limits[<int> DEADLINE_QUERY])
    deadline_start(&s.timer, DEADLINE_XACT, limits[<int> DEADLINE_XACT])
    deadline_start(&s.timer, DEADLINE_IDLE_XACT, limits[<int> DEADLINE_IDLE_XACT])
