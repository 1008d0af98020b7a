# SPDX-License-Identifier: MIT
"""Deadlines of connections: one timer each in a wheel, whatever its deadlines.

Session layer, sans-IO, hot. A deadline is a time at which something is to be decided
unless it was stopped before. Starting and stopping one is a store or two: the timer of
a connection stays in the wheel where it is, and finds out when it comes up that there
is nothing to do, or that it has to wait on. So the cost does not depend on how many
connections there are, nor on how often they change.

The wheel has four levels of 64 slots; a tick is 16.4 ms. A deadline is never early, and
at most one tick and one turn of the loop late.

Source: Varghese and Lauck, "Hashed and Hierarchical Timing Wheels".
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cpdef enum ClientDeadline:
    DEADLINE_LOGIN  # state LOGIN: ``client_login_timeout``
    DEADLINE_QUERY_WAIT  # state WAITING: ``query_wait_timeout``, and what comes before
    DEADLINE_CLIENT_IDLE  # has asked for nothing: ``client_idle_timeout``
    CLIENT_DEADLINES

cpdef enum ServerDeadline:
    DEADLINE_TESTED  # state TESTED: a query of ours, or one that is being cancelled
    DEADLINE_CANCEL_AGAIN  # a cancel request may have come before its query began
    DEADLINE_QUERY  # since its client has sent something: ``query_timeout``
    DEADLINE_XACT  # since a transaction has begun: ``transaction_timeout``
    DEADLINE_IDLE_XACT  # since the last answer in one: ``idle_transaction_timeout``
    DEADLINE_SERVER_IDLE  # runs always, looks at idle_since_us: ``server_idle_timeout``
    DEADLINE_LIFETIME  # ``server_lifetime``, spread
    SERVER_DEADLINES

cdef enum:
    DEADLINES_OF_ONE = 7  # the most that one connection can have
    TICK_BITS = 14  # of a time in us
    LEVEL_BITS = 6
    LEVEL_SLOTS = 64
    LEVELS = 4
    NO_DEADLINE = 255

cdef struct Timer:
    Timer *next
    Timer **link  # what points to it; NULL: not in the wheel
    Wheel *wheel  # borrow
    void *session  # borrow: the ClientSession or ServerSession that it is part of
    uint64_t tick  # when it comes up
    uint64_t due_us[DEADLINES_OF_ONE]  # 0: not running
    bint is_server

cdef struct Wheel:  # one per worker
    Timer *slots[LEVELS][LEVEL_SLOTS]
    Timer *expired
    uint64_t occupied  # bit n: slots[0][n] may have timers
    uint64_t tick  # everything up to here has come up
    uint32_t count  # timers in the wheel
    uint64_t now_us  # of the step under way
    uint64_t login_limit_us  # of a client that has no pool yet; 0: none

cdef void wheel_insert(Timer *t, uint64_t due_us) noexcept nogil
cdef Timer *wheel_pop(Wheel *w, uint8_t *kind) noexcept nogil
cdef uint64_t wheel_wake_us(const Wheel *w) noexcept nogil
cdef void timer_init(
    Timer *t, Wheel *w, void *session, bint is_server
) noexcept nogil
cdef void timer_end(Timer *t) noexcept nogil


cdef inline void deadline_stop(Timer *t, uint8_t kind) noexcept nogil:
    t.due_us[kind] = 0


cdef inline void deadline_start_since(
    Timer *t, uint8_t kind, uint64_t since_us, uint64_t limit_us
) noexcept nogil:
    """As ``deadline_start``, but the time has begun at ``since_us``."""
    if limit_us == 0:
        t.due_us[kind] = 0
        return
    t.due_us[kind] = since_us + limit_us
    if t.link == NULL or t.due_us[kind] <= (t.tick - 1) << TICK_BITS:
        wheel_insert(t, t.due_us[kind])


cdef inline void deadline_start(
    Timer *t, uint8_t kind, uint64_t limit_us
) noexcept nogil:
    """Start it anew, ``limit_us`` from now; 0 is no limit, and stops it."""
    deadline_start_since(t, kind, t.wheel.now_us, limit_us)
