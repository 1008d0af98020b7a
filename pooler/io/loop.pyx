# SPDX-License-Identifier: MIT
"""The loop; see ``loop.pxd``."""

from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from pooler.io.conn cimport KIND_SERVER, free_dead
from pooler.io.poll cimport (
    EVENTS_PER_TURN, Event, READY_READ, READY_WRITE, poll_init, poll_wait,
    take_waiting,
)
from pooler.io.ready cimport conn_ready, deadlines_ready
from pooler.io.syscalls cimport EINTR, sys_now_us
from pooler.relay.step cimport relay_free, relay_init
from pooler.session.deadlines cimport wheel_wake_us
from pooler.wire.buffers cimport output_shrink

import os

cdef enum:
    LONGEST_WAIT_MS = 3600000


cdef int loop_init(Loop *L, size_t recv_bytes) except -1:
    """Make an empty loop; what could be had is freed by ``loop_free`` in any case."""
    cdef int code
    memset(L, 0, sizeof(Loop))
    L.epfd = -1
    L.ids = &L.own_ids
    relay_init(&L.relay)
    L.recv_bytes = recv_bytes
    L.recv_buffer = <uint8_t *> malloc(recv_bytes)
    L.ready_fds = <int *> malloc(EVENTS_PER_TURN * sizeof(int))
    L.ready_masks = <uint32_t *> malloc(EVENTS_PER_TURN * sizeof(uint32_t))
    if L.recv_buffer == NULL or L.ready_fds == NULL or L.ready_masks == NULL:
        raise MemoryError
    code = poll_init(L)
    if code < 0:
        raise OSError(-code, os.strerror(-code))
    loop_now(L)
    return 0


cdef void loop_free(Loop *L) noexcept nogil:
    """Free what the loop owns; its connections are closed already."""
    cdef uint32_t i
    free(L.recv_buffer)
    free(L.came)
    free(L.records.scratch)
    free(L.ready_fds)
    free(L.ready_masks)
    for i in range(L.notice_count):
        free(L.notices[i].user)
    free(L.notices)
    free(L.slots)
    relay_free(&L.relay)


cdef void loop_now(Loop *L) noexcept nogil:
    """Look at the clock: once a turn, and when Python comes from outside of one."""
    L.relay.now_us = L.relay.wheel.now_us = sys_now_us()


cdef int loop_turn(Loop *L, int timeout_ms) noexcept nogil:
    """One wait and everything it found. -errno when it failed."""
    cdef Event events[EVENTS_PER_TURN]
    cdef int n = poll_wait(L, events, timeout_ms)
    cdef int i
    if n < 0:
        return n
    if L.waiting != NULL:
        n = take_waiting(L, events, n)
    L.counters.turns += 1
    loop_now(L)
    # Servers first: one that has closed must not be handed to a client of this turn.
    for i in range(n):
        if events[i].conn == NULL:
            L.ready_fds[L.ready_count] = events[i].fd
            L.ready_masks[L.ready_count] = events[i].ready & (READY_READ | READY_WRITE)
            L.ready_count += 1
        elif events[i].conn.kind == KIND_SERVER:
            conn_ready(L, &events[i])
    for i in range(n):
        if events[i].conn != NULL and events[i].conn.kind != KIND_SERVER:
            conn_ready(L, &events[i])
    if not L.suspended:
        deadlines_ready(L)
    output_shrink(&L.relay.to_client)
    output_shrink(&L.relay.to_server)
    output_shrink(&L.records)
    free_dead(L)
    return 0


cdef int wait_ms(const Loop *L, uint64_t deadline_us) noexcept nogil:
    """How long the next wait may be."""
    cdef uint64_t until_us = (
        UINT64_MAX if L.suspended else wheel_wake_us(&L.relay.wheel)
    )
    cdef uint64_t now_us = sys_now_us()
    cdef uint64_t ms
    if deadline_us < until_us:
        until_us = deadline_us
    if L.notice_count or L.waiting != NULL or until_us <= now_us:
        return 0
    ms = (until_us - now_us + 999) // 1000
    return LONGEST_WAIT_MS if ms > LONGEST_WAIT_MS else <int> ms


cdef int loop_run(Loop *L, uint64_t deadline_us) noexcept nogil:
    """Turn until Python is needed or the deadline has come; 0, or -errno."""
    cdef int code
    L.ready_count = 0
    while True:
        code = loop_turn(L, wait_ms(L, deadline_us))
        if code < 0:
            return 0 if code == -EINTR else code
        if L.ready_count or L.notice_count or deadline_us <= L.relay.now_us:
            return 0
