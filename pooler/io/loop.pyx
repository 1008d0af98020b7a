# SPDX-License-Identifier: MIT
"""The readiness loop; see ``_loop.pxd``."""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from pooler.io.conn cimport Conn, EVENTS_PER_TURN, KIND_SERVER, Loop
from pooler.io.syscalls cimport (
    EINTR, ENOMEM, EPOLL_CLOEXEC, c_epoll_wait, epoll_create1, epoll_event, errno,
    sys_now_us,
)
from pooler.io.traffic cimport conn_ready


cdef int loop_init(Loop *L, size_t recv_bytes) noexcept nogil:
    """Make an empty loop; -errno when something cannot be had."""
    memset(L, 0, sizeof(Loop))
    L.epfd = epoll_create1(EPOLL_CLOEXEC)
    if L.epfd < 0:
        return -errno
    L.recv_bytes = recv_bytes
    L.recv_buffer = <uint8_t *> malloc(recv_bytes)
    L.ready_fds = <int *> malloc(EVENTS_PER_TURN * sizeof(int))
    L.ready_masks = <uint32_t *> malloc(EVENTS_PER_TURN * sizeof(uint32_t))
    if L.recv_buffer == NULL or L.ready_fds == NULL or L.ready_masks == NULL:
        return -ENOMEM
    L.now_us = L.relay.now_us = sys_now_us()
    return 0


cdef void loop_free(Loop *L) noexcept nogil:
    """Free what the loop owns; its connections are closed already."""
    cdef uint32_t i
    free(L.recv_buffer)
    free(L.ready_fds)
    free(L.ready_masks)
    free(L.notices)
    free(L.slots)
    for i in range(L.pool_count):
        free(L.pools[i].reset_query.message)
        free(L.pools[i].check_query.message)
        free(L.pools[i])
    free(L.pools)
    free(L.wakes)
    free(L.wake_listed)
    free(L.rollback.message)
    free(L.deallocate.message)
    free(L.discard.message)
    free(L.relay.to_client.scratch)
    free(L.relay.to_server.scratch)


cdef inline bint is_python_fd(uint64_t data) noexcept nogil:
    """epoll data of Python's descriptors is odd; of connections, an address."""
    return data & 1 != 0


cdef void free_dead(Loop *L) noexcept nogil:
    cdef Conn *conn
    while L.dead != NULL:
        conn = L.dead
        L.dead = conn.next_dead
        free(conn)


cdef int loop_turn(Loop *L, int timeout_ms) noexcept nogil:
    """One epoll_wait and everything it found. -errno when it failed."""
    cdef epoll_event events[EVENTS_PER_TURN]
    cdef uint64_t data
    cdef int n = c_epoll_wait(L.epfd, events, EVENTS_PER_TURN, timeout_ms)
    cdef int i
    if n < 0:
        return -errno
    L.turn_count += 1
    L.now_us = sys_now_us()
    L.relay.now_us = L.now_us
    # Servers first: one that has closed must not be handed to a client of this turn.
    for i in range(n):
        data = events[i].data.u64
        if is_python_fd(data):
            L.ready_fds[L.ready_count] = <int> (data >> 1)
            L.ready_masks[L.ready_count] = events[i].events
            L.ready_count += 1
        elif (<Conn *> events[i].data.ptr).kind == KIND_SERVER:
            conn_ready(L, <Conn *> events[i].data.ptr, events[i].events)
    for i in range(n):
        data = events[i].data.u64
        if not is_python_fd(data) and (<Conn *> events[i].data.ptr).kind != KIND_SERVER:
            conn_ready(L, <Conn *> events[i].data.ptr, events[i].events)
    free_dead(L)
    return 0


cdef void loop_run(Loop *L, uint64_t deadline_us) noexcept nogil:
    """Turn until Python is needed or the deadline has come."""
    cdef uint64_t now_us
    cdef uint64_t wait_ms
    L.ready_count = 0
    while True:
        wait_ms = 0
        if L.notice_count == 0:
            now_us = sys_now_us()
            if deadline_us > now_us:
                wait_ms = (deadline_us - now_us + 999) // 1000
                if wait_ms > 3600000:
                    wait_ms = 3600000
        if loop_turn(L, <int> wait_ms) == -EINTR:
            return
        if L.ready_count or L.notice_count:
            return
        if deadline_us <= L.now_us:
            return
