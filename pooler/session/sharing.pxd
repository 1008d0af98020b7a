# SPDX-License-Identifier: MIT
"""Which worker should have a server: from what all of them say of one pool.

Session layer, sans-IO, hot. Reads the cells of the pool's account (``board/page``) by
plain loads; what it finds may be a moment old, and whoever acts on it can be too late.
It writes nothing. ``shunned`` are the rows that are to be left alone.

Whoever waits longest is served first, over all workers, as far as it pays: moving a
server takes as long as a short transaction. So one goes to another worker

- whose first client waits for longer than ours by more than the patience, or servers
  would come and go all the time while both are busy;
- that waits, if nobody waits here, for more than a fifth of that: its own servers may
  come free meanwhile.
"""

from libc.stdint cimport uint32_t, uint64_t

from pooler.board.page cimport Cells

cdef enum:
    PATIENCE_US = 20000  # with the way of a server, who came 50 ms later passes nobody
    IDLE_SHARE = 5
    ROW_WORDS = 2  # for as many workers as there may be (config/kinds)

cdef struct RowSet:
    uint64_t words[ROW_WORDS]


cdef inline bint has_row(const RowSet *rows, uint32_t row) noexcept nogil:
    return rows.words[row >> 6] >> (row & 63) & 1


cdef inline int row_that_waits(
    const Cells *rows, uint32_t count, const Cells *own, const RowSet *shunned
) noexcept nogil:
    """The other row whose first client waits longest; -1: nobody waits elsewhere."""
    cdef uint32_t i
    cdef uint64_t since_us
    cdef uint64_t first_us = 0
    cdef int found = -1
    for i in range(count):
        since_us = rows[i].waiting_since_us
        if since_us == 0 or &rows[i] == own or has_row(shunned, i):
            continue
        if found < 0 or since_us < first_us:
            found = <int> i
            first_us = since_us
    return found


cdef inline int row_to_serve(
    const Cells *rows, uint32_t count, const Cells *own, const RowSet *shunned,
    uint64_t now_us, uint64_t patience_us,
) noexcept nogil:
    """The row that should have a server which is free here; -1: it stays.

    Cost: a load from each row
    """
    cdef int row = row_that_waits(rows, count, own, shunned)
    cdef uint64_t since_us
    if row < 0:
        return -1
    since_us = rows[row].waiting_since_us
    if own.waiting_since_us:
        return row if since_us + patience_us < own.waiting_since_us else -1
    return row if since_us and since_us + patience_us // IDLE_SHARE <= now_us else -1


cdef inline int row_to_ask(
    const Cells *rows, uint32_t count, const Cells *own, const RowSet *shunned,
    uint64_t now_us, uint64_t patience_us,
) noexcept nogil:
    """The row that has a server to spare for who waits here; -1: there is none.

    Of several the one with the most.
    """
    cdef uint32_t i
    cdef uint64_t most = 0
    cdef int found = -1
    if (
        own.waiting_since_us == 0
        or own.waiting_since_us + patience_us // IDLE_SHARE > now_us
    ):
        return -1
    for i in range(count):
        if &rows[i] == own or rows[i].waiting or has_row(shunned, i):
            continue
        if rows[i].idle > most:
            most = rows[i].idle
            found = <int> i
    return found


cdef inline bint is_uneven(
    const Cells *rows, uint32_t count, const Cells *own, const RowSet *shunned
) noexcept nogil:
    """Whether somebody waits here and a server is idle elsewhere, or the other way."""
    cdef uint32_t i
    for i in range(count):
        if &rows[i] == own or has_row(shunned, i):
            continue
        if (own.waiting and rows[i].idle) or (own.idle and rows[i].waiting):
            return True
    return False
