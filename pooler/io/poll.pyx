# SPDX-License-Identifier: MIT
"""Readiness by epoll; see ``poll.pxd``."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from pooler.io.syscalls cimport (
    EPOLLERR, EPOLLEXCLUSIVE, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLL_CLOEXEC,
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, c_close, c_epoll_wait, epoll_create1,
    epoll_ctl, epoll_event, errno,
)


cdef enum:
    CROWD = 0  # as data of an event: no address, and no descriptor of Python's


cdef int poll_init(Loop *L) noexcept nogil:
    """0, or -errno."""
    cdef epoll_event event
    L.crowd_epfd = -1
    L.epfd = epoll_create1(EPOLL_CLOEXEC)
    if L.epfd < 0:
        return -errno
    L.crowd_epfd = epoll_create1(EPOLL_CLOEXEC)
    event.events = EPOLLIN
    event.data.u64 = CROWD
    if L.crowd_epfd < 0 or (
        epoll_ctl(L.epfd, EPOLL_CTL_ADD, L.crowd_epfd, &event) < 0
    ):
        return -errno
    return 0


cdef void poll_close(Loop *L) noexcept nogil:
    """Idempotent."""
    if L.crowd_epfd >= 0:
        c_close(L.crowd_epfd)
    if L.epfd >= 0:
        c_close(L.epfd)
    L.crowd_epfd = L.epfd = -1


cdef inline uint32_t epoll_events(uint8_t bits) noexcept nogil:
    cdef uint32_t events = 0
    if bits & WATCH_READ:
        events |= EPOLLIN
    if bits & WATCH_WRITE:
        events |= EPOLLOUT
    if bits & WATCH_END:
        events |= EPOLLRDHUP
    if bits & WATCH_SHARED:
        events |= EPOLLEXCLUSIVE
    return events


cdef inline int set_of(const Loop *L, const Conn *conn) noexcept nogil:
    return L.crowd_epfd if conn.crowded else L.epfd


cdef int watch(Loop *L, Conn *conn, uint8_t bits) noexcept nogil:
    """Report these and nothing else. No bits: out of epoll, or errors would repeat."""
    cdef epoll_event event
    cdef int op
    if conn.suspended:
        bits &= WATCH_WRITE
    if conn.watched == bits:
        return 0
    op = (
        EPOLL_CTL_DEL if bits == 0
        else EPOLL_CTL_ADD if conn.watched == 0
        else EPOLL_CTL_MOD
    )
    event.events = epoll_events(bits)
    event.data.u64 = 0
    event.data.ptr = conn
    L.counters.watches += 1
    if epoll_ctl(set_of(L, conn), op, conn.fd, &event) < 0:
        return -errno
    conn.watched = bits
    if bits & WATCH_READ and conn.transport.has_more != NULL and (
        conn.transport.has_more(conn)
    ):
        more_waits(L, conn)
    return 0


cdef void crowd_leave(Loop *L, Conn *conn) noexcept nogil:
    """Watch a client that has logged in like all others from now on.

    Where that cannot be, for want of memory, it stays where it is.
    """
    cdef uint8_t bits = conn.watched
    if not conn.crowded:
        return
    watch(L, conn, 0)
    conn.crowded = False
    if watch(L, conn, bits) < 0:
        conn.crowded = True
        watch(L, conn, bits)


cdef void more_waits(Loop *L, Conn *conn) noexcept nogil:
    """What epoll knows nothing of can be received: in the next turn."""
    if conn.waits:
        return
    conn.waits = True
    conn.next_waiting = L.waiting
    L.waiting = conn


cdef int take_waiting(Loop *L, Event *events, int n) noexcept nogil:
    """Add those that have more to the n events of a turn; how many there are then.

    One that is not read now is forgotten: ``watch`` finds it again. Those for which
    there is no room stay.
    """
    cdef Conn *conn
    while L.waiting != NULL and n < EVENTS_PER_TURN:
        conn = L.waiting
        L.waiting = conn.next_waiting
        conn.waits = False
        if conn.fd < 0 or not conn.watched & WATCH_READ:
            continue
        events[n].conn = conn
        events[n].ready = READY_READ
        n += 1
    return n


cdef int watch_python(Loop *L, int fd, uint8_t bits) noexcept nogil:
    """The same for a descriptor of Python's: its data is odd, no address is."""
    cdef epoll_event event
    event.events = epoll_events(bits)
    event.data.u64 = (<uint64_t> fd << 1) | 1
    if bits == 0:
        epoll_ctl(L.epfd, EPOLL_CTL_DEL, fd, NULL)
        return 0
    if (
        epoll_ctl(L.epfd, EPOLL_CTL_MOD, fd, &event) < 0
        and epoll_ctl(L.epfd, EPOLL_CTL_ADD, fd, &event) < 0
    ):
        return -errno
    return 0


cdef int crowd_join(Loop *L, epoll_event *found, int n) noexcept nogil:
    """Put some of the crowd in the place of the event that tells of it."""
    cdef int i
    cdef int more
    for i in range(n):
        if found[i].data.u64 != CROWD:
            continue
        n -= 1
        found[i] = found[n]
        more = c_epoll_wait(L.crowd_epfd, found + n, CROWD_PER_TURN, 0)
        return n + (more if more > 0 else 0)
    return n


cdef int poll_wait(Loop *L, Event *events, int timeout_ms) noexcept nogil:
    """What is ready, at most EVENTS_PER_TURN events; -errno when it failed."""
    cdef epoll_event found[EVENTS_PER_TURN]
    cdef int n = c_epoll_wait(
        L.epfd, found, EVENTS_PER_TURN - CROWD_PER_TURN, timeout_ms
    )
    cdef int i
    cdef uint32_t bits
    if n < 0:
        return -errno
    n = crowd_join(L, found, n)
    for i in range(n):
        bits = 0
        if found[i].events & ~<uint32_t> (EPOLLOUT):
            bits |= READY_READ
        if found[i].events & EPOLLOUT or (
            found[i].data.u64 & 1 and found[i].events & ~<uint32_t> EPOLLIN
        ):
            bits |= READY_WRITE
        if found[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            bits |= READY_END
        events[i].ready = bits
        events[i].conn = NULL
        if found[i].data.u64 & 1:
            events[i].fd = <int> (found[i].data.u64 >> 1)
        else:
            events[i].conn = <Conn *> found[i].data.ptr
    return n
