# SPDX-License-Identifier: MIT
"""The table of connections, the list of notices; see ``conn.pxd``."""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset


cdef int conn_enter(Loop *L, Conn *conn) noexcept nogil:
    """Give a connection a slot; -1 without memory."""
    cdef uint32_t slot = L.free_slot
    cdef uint32_t i
    cdef uint32_t count
    cdef Slot *slots
    if slot == L.slot_count:
        count = L.slot_count * 2 if L.slot_count else 64
        slots = <Slot *> realloc(L.slots, count * sizeof(Slot))
        if slots == NULL:
            return -1
        for i in range(L.slot_count, count):
            slots[i].conn = NULL
            slots[i].generation = 1
            slots[i].next_free = i + 1
        L.slots = slots
        L.slot_count = count
    L.free_slot = L.slots[slot].next_free
    L.slots[slot].conn = conn
    conn.slot = slot
    return 0


cdef void forget_waiting(Loop *L, Conn *conn) noexcept nogil:
    """Off the list of those that have more. Cost: O(of these)"""
    cdef Conn **at = &L.waiting
    if not conn.waits:
        return
    while at[0] != conn:
        at = &at[0].next_waiting
    at[0] = conn.next_waiting
    conn.waits = False


cdef void conn_leave(Loop *L, Conn *conn) noexcept nogil:
    """Close the transport and the slot; the memory goes at the end of the turn.

    A descriptor that is closed leaves epoll by itself if no other process has it; the
    socket of a server may be elsewhere, so it is not watched any more (``io.part``).
    """
    cdef Slot *slot = &L.slots[conn.slot]
    conn.transport.close(conn)
    forget_waiting(L, conn)
    conn.watched = 0
    slot.conn = NULL
    slot.generation += 1
    slot.next_free = L.free_slot
    L.free_slot = conn.slot
    conn.next_dead = L.dead
    L.dead = conn


cdef void conn_replace(Loop *L, Conn *old, Conn *new) noexcept nogil:
    """The same connection is another kind from now on; its handle stays."""
    forget_waiting(L, old)
    new.transport = old.transport
    new.tls = old.tls
    old.tls = NULL
    new.fd = old.fd
    new.watched = 0
    new.crowded = old.crowded
    new.slot = old.slot
    L.slots[new.slot].conn = new
    old.fd = -1
    old.next_dead = L.dead
    L.dead = old


cdef void free_dead(Loop *L) noexcept nogil:
    cdef Conn *conn
    while L.dead != NULL:
        conn = L.dead
        L.dead = conn.next_dead
        free(conn)


cdef void notices_disown(Loop *L, uint32_t pool_id) noexcept nogil:
    """What is left for Python tells of a pool that goes: of none, from here on."""
    cdef uint32_t i
    for i in range(L.notice_count):
        if L.notices[i].pool_id == <int32_t> pool_id:
            L.notices[i].pool_id = -1


cdef NoticeRow *notice(
    Loop *L, Notice kind, uint64_t handle, int32_t argument
) noexcept nogil:
    """Leave a notice for Python; the row may be completed until the next one.

    A row is always returned, but is lost when there is no memory at all.
    """
    cdef NoticeRow *row = &L.lost_notice
    cdef NoticeRow *rows
    cdef uint32_t cap
    if L.notice_count == L.notice_cap:
        cap = L.notice_cap * 2 if L.notice_cap else 64
        rows = <NoticeRow *> realloc(L.notices, cap * sizeof(NoticeRow))
        if rows != NULL:
            L.notices = rows
            L.notice_cap = cap
    if L.notice_count < L.notice_cap:
        row = &L.notices[L.notice_count]
        L.notice_count += 1
    memset(row, 0, sizeof(NoticeRow))
    row.kind = kind
    row.handle = handle
    row.argument = argument
    row.pool_id = -1
    return row
