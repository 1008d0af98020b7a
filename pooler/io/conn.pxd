# SPDX-License-Identifier: MIT
"""Connections of one worker: sockets, readiness interest, sending, notices to Python.

IO layer, hot. A ``Conn`` is a socket and the session in it. Python names connections
by handle (slot and generation), never by address, so a handle outlives its connection
safely. A closed connection keeps its memory until the end of the turn, because events
of the same turn may still point to it.

Interest is level-triggered and changed lazily: a connection that may not be read is
taken out of epoll only once it really becomes readable.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from pooler.wire.buffers cimport Output, Queue
from pooler.relay.common cimport Relay
from pooler.session.records cimport (
    ClientSession, CloseReason, Pool, Script, ServerSession,
)
from pooler.io.syscalls cimport ssize_t

cdef enum ConnKind:
    KIND_LISTENER
    KIND_CLIENT
    KIND_SERVER

cdef enum:
    EVENTS_PER_TURN = 256
    LOGIN_HELD_MAX_BYTES = 131072  # what a client may send before it is logged in

# What Python has to do. The meaning of a row's argument stands beside each.
cpdef enum Notice:
    NOTICE_LOGIN  # a client in state LOGIN has sent something
    NOTICE_CLIENT_CLOSED  # argument: CloseReason
    NOTICE_SERVER_CLOSED  # argument: CloseReason
    NOTICE_LAUNCH  # pool_id: it wants servers
    NOTICE_ACCEPT_PAUSED  # handle is a listener; argument: errno
    NOTICE_CANCEL  # a server runs what a lost client asked for; cancel_end is due

cdef struct Conn:
    int fd  # own; -1: closed, freed at the end of the turn
    uint8_t kind
    uint32_t interest  # what epoll watches; 0: not in epoll
    uint32_t slot
    Conn *next_dead

cdef struct ListenerConn:
    Conn conn

cdef struct Peer:
    uint16_t family
    uint16_t port
    uint8_t address[16]  # IPv4 in the first four bytes

cdef struct ClientConn:
    Conn conn
    ClientSession session
    bint login_noticed  # Python knows that there are bytes
    uint64_t opened_us
    Peer peer

cdef struct ServerConn:
    Conn conn
    ServerSession session

cdef struct Slot:
    Conn *conn  # NULL: free
    uint32_t generation
    uint32_t next_free

cdef struct NoticeRow:
    uint32_t kind
    int32_t argument
    uint64_t handle
    int32_t pool_id  # -1: none
    uint64_t age_us  # of a connection that was closed
    Peer peer  # of a client that was closed


cdef struct Loop:  # one per worker
    int epfd
    uint8_t *recv_buffer  # own
    size_t recv_bytes
    Relay relay
    Script rollback  # own
    Script deallocate  # own
    Script discard  # own
    Slot *slots  # own
    uint32_t slot_count
    uint32_t free_slot  # slot_count: none
    Conn *dead  # own: closed in this turn
    NoticeRow *notices  # own
    uint32_t notice_count
    uint32_t notice_cap
    NoticeRow lost_notice
    Pool **pools  # own, index is the pool's id
    uint32_t pool_count
    Pool **wakes  # own: pools with an idle server and a waiting client, maybe
    uint32_t wake_count
    bint *wake_listed  # own, by pool id
    int *ready_fds  # own: EVENTS_PER_TURN descriptors of Python that are ready
    uint32_t *ready_masks
    uint32_t ready_count
    uint64_t now_us
    uint32_t client_count
    uint32_t login_count
    uint32_t server_count
    uint64_t turn_count
    uint64_t recv_count
    uint64_t send_count
    uint64_t epoll_ctl_count
    uint64_t accept_count
    uint64_t python_count  # returns to Python


cdef inline uint64_t conn_handle(const Loop *L, const Conn *conn) noexcept nogil:
    return (<uint64_t> L.slots[conn.slot].generation << 32) | conn.slot


cdef inline Conn *conn_of(const Loop *L, uint64_t handle) noexcept nogil:
    """The open connection with this handle, or NULL."""
    cdef uint32_t slot = <uint32_t> handle
    if slot >= L.slot_count or L.slots[slot].generation != handle >> 32:
        return NULL
    return L.slots[slot].conn

cdef int conn_enter(Loop *L, Conn *conn) noexcept nogil
cdef void conn_leave(Loop *L, Conn *conn) noexcept nogil
cdef int conn_interest(Loop *L, Conn *conn, uint32_t events) noexcept nogil
cdef NoticeRow *notice(
    Loop *L, Notice kind, uint64_t handle, int32_t argument
) noexcept nogil
cdef ssize_t conn_receive(Loop *L, Conn *conn, Queue *held) noexcept nogil
cdef int conn_write(
    Loop *L, Conn *conn, Queue *out, const uint8_t *src, size_t n
) noexcept nogil
cdef int conn_flush(Loop *L, Conn *conn, Queue *out) noexcept nogil
cdef void conn_swallow_input(Loop *L, Conn *conn) noexcept nogil
