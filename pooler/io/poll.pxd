# SPDX-License-Identifier: MIT
"""Readiness: which connections are watched for what. The only module that knows epoll.

IO layer, hot. Level-triggered, and changed lazily: a connection that may not be read is
taken out only once it really becomes readable.

Who logs in while many others do is watched apart, and a turn serves few of them: a
login costs as much as several transactions, and who is at work must not stand behind
hundreds of them.

Source: man pages epoll(7), epoll_ctl(2).
"""

from libc.stdint cimport uint8_t, uint32_t

from pooler.io.conn cimport Conn, Loop

cdef enum WatchBit:
    WATCH_READ = 1
    WATCH_WRITE = 2
    WATCH_END = 4  # the peer has closed, without reading what it has sent
    WATCH_SHARED = 8  # other processes watch it too: wake only one

cdef enum ReadyBit:
    READY_READ = 1
    READY_WRITE = 2
    READY_END = 4

cdef enum:
    EVENTS_PER_TURN = 256
    CROWD_PER_TURN = 2  # TLS handshakes: a millisecond

cdef struct Event:
    Conn *conn  # NULL: a descriptor of Python's
    int fd
    uint32_t ready  # ReadyBit

cdef int poll_init(Loop *L) noexcept nogil
cdef void poll_close(Loop *L) noexcept nogil
cdef int watch(Loop *L, Conn *conn, uint8_t bits) noexcept nogil
cdef void crowd_leave(Loop *L, Conn *conn) noexcept nogil
cdef void more_waits(Loop *L, Conn *conn) noexcept nogil
cdef int take_waiting(Loop *L, Event *events, int n) noexcept nogil
cdef int watch_python(Loop *L, int fd, uint8_t bits) noexcept nogil
cdef int poll_wait(Loop *L, Event *events, int timeout_ms) noexcept nogil


cdef inline int watch_also(Loop *L, Conn *conn, uint8_t bits) noexcept nogil:
    return watch(L, conn, conn.watched | bits)


cdef inline int watch_no_more(Loop *L, Conn *conn, uint8_t bits) noexcept nogil:
    return watch(L, conn, conn.watched & ~bits)
