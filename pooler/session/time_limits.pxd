# SPDX-License-Identifier: MIT
"""Time limits of clients and servers: when each begins, and what a pool has of them.

Layer session, sans-IO, hot. Nothing is stored for a limit that is off: ``timed`` and
``watch_ready`` of the pool say whether anybody has to look. A limit is stopped only
where it must be; a deadline that has passed looks at what its session is at
(``relay/timeouts``).

Writes ``Pool.lifetimes``.
"""

from libc.stdint cimport uint64_t

from pooler.session.deadlines cimport (
    DEADLINE_CLIENT_IDLE, DEADLINE_IDLE_XACT, DEADLINE_QUERY, DEADLINE_XACT,
    deadline_start, deadline_stop,
)
from pooler.session.records cimport ClientSession, PoolConfig, ServerSession

cdef struct TimeLimits:  # of a pool, 0: none
    uint64_t query_wait_us
    uint64_t wait_notify_us
    uint64_t client_idle_us
    uint64_t query_us
    uint64_t xact_us
    uint64_t idle_xact_us
    uint64_t server_idle_us
    uint64_t lifetime_us
    uint64_t tested_us


cdef inline void client_spoke(ClientSession *c) noexcept nogil:
    """A client of a pool that is ``timed`` has sent something, which went on."""
    cdef const PoolConfig *config = &c.pool.config
    cdef ServerSession *s = c.server
    deadline_start(
        &c.timer, DEADLINE_CLIENT_IDLE,
        config.client_limit_us[<int> DEADLINE_CLIENT_IDLE],
    )
    if s == NULL:
        return
    deadline_start(
        &s.timer, DEADLINE_QUERY, config.server_limit_us[<int> DEADLINE_QUERY]
    )
    if s.timer.due_us[<int> DEADLINE_XACT] == 0:
        deadline_start(
            &s.timer, DEADLINE_XACT, config.server_limit_us[<int> DEADLINE_XACT]
        )


cdef inline void server_answered(ServerSession *s) noexcept nogil:
    """ReadyForQuery was counted, of a server that has a client."""
    cdef const PoolConfig *config = &s.pool.config
    if s.xact_status == c"I":
        deadline_stop(&s.timer, DEADLINE_XACT)
    if s.requests.head != s.requests.tail:
        if s.xact_status == c"I":  # the next transaction is under way
            deadline_start(
                &s.timer, DEADLINE_XACT, config.server_limit_us[<int> DEADLINE_XACT]
            )
    elif s.xact_status == c"I":
        deadline_start(
            &s.client.timer, DEADLINE_CLIENT_IDLE,
            config.client_limit_us[<int> DEADLINE_CLIENT_IDLE],
        )
    else:
        deadline_start(
            &s.timer, DEADLINE_IDLE_XACT,
            config.server_limit_us[<int> DEADLINE_IDLE_XACT],
        )


cdef inline void client_times_over(ServerSession *s) noexcept nogil:
    """Its client has left: the next one begins anew."""
    deadline_stop(&s.timer, DEADLINE_QUERY)
    deadline_stop(&s.timer, DEADLINE_XACT)
    deadline_stop(&s.timer, DEADLINE_IDLE_XACT)

cdef void time_limits_fill(PoolConfig *config, const TimeLimits *t) noexcept nogil
cdef void wait_goes_on(ClientSession *c) noexcept nogil
cdef void server_times_begin(ServerSession *s) noexcept nogil
cdef void client_limits_changed(ClientSession *c) noexcept nogil
cdef void server_limits_changed(ServerSession *s) noexcept nogil
