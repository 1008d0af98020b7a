# SPDX-License-Identifier: MIT
"""The connection table, epoll interest, sending, the list of notices."""

from libc.stdint cimport int32_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, memset

from pooler.wire.buffers cimport Queue, queue_add, queue_drop, queue_reset, queue_size
from pooler.io.syscalls cimport (
    EAGAIN, EMSGSIZE, ENOMEM, EPOLLOUT, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD,
    c_close, epoll_ctl, epoll_event, ssize_t, sys_recv, sys_send,
)


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


cdef void conn_leave(Loop *L, Conn *conn) noexcept nogil:
    """Close the socket and the slot; the memory goes at the end of the turn."""
    cdef Slot *slot = &L.slots[conn.slot]
    if conn.interest:
        epoll_ctl(L.epfd, EPOLL_CTL_DEL, conn.fd, NULL)
        L.epoll_ctl_count += 1
        conn.interest = 0
    c_close(conn.fd)
    conn.fd = -1
    slot.conn = NULL
    slot.generation += 1
    slot.next_free = L.free_slot
    L.free_slot = conn.slot
    conn.next_dead = L.dead
    L.dead = conn


cdef int conn_interest(Loop *L, Conn *conn, uint32_t events) noexcept nogil:
    """Watch for these events. No events: out of epoll, or errors would repeat."""
    cdef epoll_event event
    cdef int op
    if conn.interest == events:
        return 0
    op = (
        EPOLL_CTL_DEL if events == 0
        else EPOLL_CTL_ADD if conn.interest == 0
        else EPOLL_CTL_MOD
    )
    event.events = events
    event.data.u64 = 0
    event.data.ptr = conn
    L.epoll_ctl_count += 1
    if epoll_ctl(L.epfd, op, conn.fd, &event) < 0:
        return -1
    conn.interest = events
    return 0


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


cdef ssize_t conn_receive(Loop *L, Conn *conn, Queue *held) noexcept nogil:
    """One receive behind what is held, which it empties into the receive buffer.

    Returns how many bytes are in the buffer, 0 at end of file, or -errno: -EAGAIN
    when nothing has come, -EMSGSIZE when what is held fills the buffer already.
    """
    cdef size_t n = queue_size(held)
    cdef ssize_t got
    if n >= L.recv_bytes:
        return -EMSGSIZE
    got = sys_recv(conn.fd, L.recv_buffer + n, L.recv_bytes - n)
    L.recv_count += 1
    if got <= 0 or n == 0:
        return got
    memcpy(L.recv_buffer, held.data + held.start, n)
    queue_reset(held)
    return <ssize_t> n + got


cdef int conn_write(
    Loop *L, Conn *conn, Queue *out, const uint8_t *src, size_t n
) noexcept nogil:
    """Send in order; what the kernel does not take is queued and EPOLLOUT watched.

    Returns 0, -ENOMEM when the rest cannot be queued, else -errno: the peer is gone.
    """
    cdef ssize_t sent = 0
    if n == 0:
        return 0
    if out.cap == 0:
        sent = sys_send(conn.fd, src, n)
        L.send_count += 1
        if sent < 0:
            if sent != -EAGAIN:
                return <int> sent
            sent = 0
        if <size_t> sent == n:
            return 0
        if conn_interest(L, conn, conn.interest | EPOLLOUT) < 0:
            return -ENOMEM
    return 0 if queue_add(out, src + sent, n - <size_t> sent) == 0 else -ENOMEM


cdef int conn_flush(Loop *L, Conn *conn, Queue *out) noexcept nogil:
    """Send what is queued; 0 (maybe with a rest), or -errno when the peer is gone."""
    cdef ssize_t sent
    if out.cap:
        sent = sys_send(conn.fd, out.data + out.start, queue_size(out))
        L.send_count += 1
        if sent < 0:
            return 0 if sent == -EAGAIN else <int> sent
        queue_drop(out, <size_t> sent)
    if out.cap == 0:
        return conn_interest(L, conn, conn.interest & ~<uint32_t> EPOLLOUT)
    return 0


cdef void conn_swallow_input(Loop *L, Conn *conn) noexcept nogil:
    """Read and forget what has arrived, a bounded amount.

    Closing a socket with unread input resets it, and the reset overtakes the last
    message that we sent.
    """
    cdef int _round
    for _round in range(4):
        if sys_recv(conn.fd, L.recv_buffer, L.recv_bytes) <= 0:
            break
