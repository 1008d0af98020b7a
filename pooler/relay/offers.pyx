# SPDX-License-Identifier: MIT
"""Servers that other workers should have; see ``offers.pxd``."""

from libc.stdint cimport uint32_t

from pooler.relay.orders cimport order_offer, order_uneven
from pooler.relay.wakes cimport wake_pool
from pooler.session.changes cimport changes_are_over
from pooler.session.custom cimport custom_is_known
from pooler.session.pool cimport pool_test, pool_tested
from pooler.session.records cimport SERVER_IDLE, SERVER_TESTED, server_is_free
from pooler.session.sharing cimport PATIENCE_US, is_uneven, row_to_serve
from pooler.session.tracking cimport tracking_is_over

cdef enum:
    MOMENT_US = 2000  # the way of a server: until then its waiting client is counted


cdef void sharing_begin(Pool *p) noexcept nogil:
    """Other workers see a pool from now on."""
    p.sharing.patience_us = PATIENCE_US


cdef void sharing_patience(Pool *p, uint64_t patience_us) noexcept nogil:
    """By how much clients elsewhere may wait longer than ours."""
    p.sharing.patience_us = patience_us


cdef void sharing_even(Pool *p) noexcept nogil:
    """Python has looked: it is told again when it is uneven again."""
    p.sharing.told = False


cdef inline bint is_being_cleaned(const ServerSession *s) noexcept nogil:
    return (
        s.cleaning.reset_wanted or s.cleaning.resetting or s.cleaning.rolling_back
        or s.cleaning.checking or s.cleaning.abandoned
    )


cdef inline bint nobody_uses(const ServerSession *s) noexcept nogil:
    """Whether it is idle, or put aside."""
    return s.client == NULL and s.kept_for == NULL and (
        s.state == SERVER_IDLE
        or (
            s.state == SERVER_TESTED and not is_being_cleaned(s)
            and s.pool.inquiry.server != s
        )
    )


cdef bint server_may_move(const ServerSession *s) noexcept nogil:
    """Whether a server is free and has nothing that would not travel."""
    return (
        nobody_uses(s) and server_is_free(s) and not s.fate.obsolete
        and changes_are_over(s) and custom_is_known(s) and tracking_is_over(s)
        and not s.pool.config.dedicated and not s.pool.paused
        and s.params != NULL
    )


cdef bint has_room_aside(Relay *r, Pool *p, int row) noexcept nogil:
    """No more are put aside in a moment than clients wait there.

    They are counted there until the first server has arrived.
    """
    if r.now_us - p.sharing.since_us > MOMENT_US:
        p.sharing.since_us = r.now_us
        p.sharing.aside_count = 0
    p.sharing.aside_count += 1
    return p.sharing.aside_count <= p.rows[row].waiting


cdef bint goes_elsewhere(Relay *r, ServerSession *s) noexcept nogil:
    """Put an idle server aside if clients of another worker should have it."""
    cdef Pool *p = s.pool
    cdef uint32_t count = p.row_count - 1
    cdef int row = row_to_serve(
        p.rows, count, p.cells, &r.shunned, r.now_us, p.sharing.patience_us
    )
    if row >= 0 and server_may_move(s) and has_room_aside(r, p, row):
        pool_test(p, s)
        order_offer(&r.orders, s, row)
        return True
    note_uneven(r, p)
    return False


cdef void note_uneven(Relay *r, Pool *p) noexcept nogil:
    """Have Python look in a moment, if clients wait on one side and a server is idle on
    the other.
    """
    if not is_shared(p) or p.sharing.told:
        return
    if is_uneven(p.rows, p.row_count - 1, p.cells, &r.shunned):
        p.sharing.told = True
        order_uneven(&r.orders, p)


cdef void server_stays(Relay *r, ServerSession *s) noexcept nogil:
    """A server that was put aside is not sent; ignored if it is no more."""
    if s.state != SERVER_TESTED or not server_may_move(s):
        return
    pool_tested(s.pool, s, False, r.now_us)
    wake_pool(r, s.pool)
