# SPDX-License-Identifier: MIT
"""Connections of one worker: their records, the table of handles, notices to Python.

IO layer, hot. A ``Conn`` is a transport and the session in it. Python names connections
by handle (slot and generation), never by address, so a handle outlives its connection
safely. A closed connection keeps its memory until the end of the turn, because events
of the same turn and orders of the same step may still point to it.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from pooler.auth.exchange cimport Exchange
from pooler.auth.secrets cimport Secret
from pooler.board.page cimport PageMap
from pooler.io.syscalls cimport ssize_t
from pooler.relay.shared cimport Relay
from pooler.session.records cimport ClientSession, ServerSession
from pooler.tables.params cimport ParamSet
from pooler.wire.buffers cimport Output, Stream

cdef enum ConnKind:
    KIND_LISTENER
    KIND_CLIENT
    KIND_SERVER
    KIND_LINK  # Python talks on it: a server that logs in, a cancel request
    KIND_PARTING  # closed, and PostgreSQL has not let go of it yet

# What Python has to do. The meaning of a row's argument stands beside each.
cpdef enum Notice:
    NOTICE_LOGIN  # a client in state LOGIN has sent something
    NOTICE_LOGGED_IN  # argument: number of the known login; Python did not lead it
    NOTICE_CLIENT_CLOSED  # argument: CloseReason
    NOTICE_SERVER_CLOSED  # argument: CloseReason; detail: "unused": answered nobody
    NOTICE_LAUNCH  # pool_id: it wants servers
    NOTICE_CHANGED  # pool_id: a client has left something new in one of its servers
    NOTICE_ACCEPT_PAUSED  # handle is a listener; argument: errno
    NOTICE_CANCEL  # PostgreSQL is to be asked; cancel_end is due
    NOTICE_LINK  # a link is connected, has got bytes, or has ended
    NOTICE_INQUIRED  # pool_id: pool_inquiry_answer is due
    NOTICE_LEARNED  # pool_id: pool_learned is due
    NOTICE_PARTED  # a connection to PostgreSQL is closed; argument: it was at work
    NOTICE_GONE  # PostgreSQL has closed it as well; argument: errno, 0 at its end
    NOTICE_OFFER  # argument: the worker to give it to, or server_stay is due
    NOTICE_UNEVEN  # pool_id: pool_look is due, and pool_even

cdef struct Transport:
    # The operations of a connection, the same for every kind. Bytes or -errno;
    # receive: 0 at the end, -EAGAIN when nothing has come; send: -EAGAIN when nothing
    # can be taken now.
    ssize_t (*receive)(Conn *conn, uint8_t *into, size_t n) noexcept nogil
    ssize_t (*send)(Conn *conn, const uint8_t *src, size_t n) noexcept nogil
    int (*connected)(Conn *conn) noexcept nogil  # 0, or the errno why it is not
    void (*abort)(Conn *conn) noexcept nogil  # it ends as if the peer had gone
    void (*part)(Conn *conn) noexcept nogil  # nothing follows; a plain socket is left
    void (*close)(Conn *conn) noexcept nogil
    # Of what the transport itself keeps; NULL: it keeps nothing.
    int (*flush)(Conn *conn) noexcept nogil  # 0: sent; -EAGAIN: not all; -errno
    bint (*has_more)(const Conn *conn) noexcept nogil  # to receive, unknown to epoll

cdef struct Conn:
    const Transport *transport
    void *tls  # own, of the transport (io.tls.Tls); NULL: a plain socket
    int fd  # own, of the transport; -1: closed, freed at the end of the turn
    uint8_t kind
    uint8_t watched  # WatchBit; 0: nothing is reported
    bint crowded  # watched with those who log in while many do
    bint suspended  # nothing of it is read (``io.suspend``)
    bint waits  # is on the loop's list of those that have more
    uint32_t slot
    Conn *next_waiting
    Conn *next_dead

cdef struct ListenerConn:
    Conn conn
    bint shared  # other processes accept on it too
    bint short_before  # of descriptors or memory, and nobody was accepted since
    uint64_t *coming  # borrow: sockets on their way to this door; NULL: it listens

cdef struct Peer:
    uint16_t family
    uint16_t port
    uint8_t address[16]  # IPv4 in the first four bytes

cdef struct KnownLogin:  # a startup packet that was let in, and what it has come to
    KnownLogin *next  # own list of one bucket
    uint64_t hash
    uint32_t refs  # of the table, and of every proof under way
    bint forgotten  # is not in the table any more
    uint32_t number  # as Python calls it
    Peer peer  # from where; its port is 0
    bint secured  # it came by TLS
    uint8_t question  # Question, if there is a secret
    Secret *secret  # own: one reference; NULL: nothing is asked
    uint64_t until_us  # when the secret has to be asked for anew; 0: it has not
    uint32_t pool_id
    char *user  # own: of the client; NULL: that of the pool
    uint32_t accounts[3]  # where it takes a place: of everybody, database, user
    uint64_t limits[3]  # of these; 0: none
    ParamSet *values  # own: one reference
    uint8_t key_n  # of the cancel key that it gets
    uint32_t packet_n
    uint32_t before_n  # what is sent in front of the question
    uint32_t greeting_n  # what is sent when it is let in, up to the cancel key
    uint8_t bytes[1]  # packet, before, greeting

cdef struct ProofUnderWay:
    KnownLogin *known  # own: one reference
    Exchange exchange
    uint8_t code  # ProofCode: from PROOF_GIVEN on, Python has to see to it

cdef enum LoginMarks:
    KNOWN_LOGIN_BUCKETS = 1024  # and so many are kept at most
    RANDOM_CACHE_BYTES = 1024

cdef struct Logins:  # what is known of those who log in; written by logins
    bint on  # Python has said what the fields below are
    bint tell_logins  # Python writes a line for each
    bint tell_closes
    void *tls  # borrow: SSL_CTX of those who ask for it; NULL: they are refused
    uint8_t binding_n
    uint8_t binding[64]
    uint8_t slot  # cancel keys: see worker.cancel
    uint16_t peer_id
    uint64_t *clients  # borrow: of this worker, on the board; NULL: there is none
    PageMap page  # without ``shared`` nobody is refused for want of a place
    bint full  # nobody may log in at all
    KnownLogin **known  # own: KNOWN_LOGIN_BUCKETS; NULL: none yet
    uint32_t known_count
    uint32_t last_number
    uint32_t random_n  # that are left
    uint8_t random[RANDOM_CACHE_BYTES]
    Output out  # own: what a login is sent at once

cdef enum:
    MOST_WORKERS = 256

cdef struct Spread:  # where fresh clients go; written by the engine
    bint on
    uint8_t slot
    uint32_t workers_count
    size_t stride  # from one worker's row of the board to the next
    # borrow: columns of the board
    uint64_t *connections
    uint64_t *coming
    const uint64_t *serves
    const uint64_t *heartbeats_us
    int doors[MOST_WORKERS]  # borrow

cdef struct ClientConn:
    Conn conn
    ClientSession session
    bint login_noticed  # Python knows that there are bytes
    bint by_python  # Python leads the login
    bint uncounted  # takes no place of max_client_conn
    uint32_t id  # of all connections of the pooler; as the console calls it
    char *user  # own: as whom it has logged in; NULL: as the user of its pool
    bint placed  # has a place on the page, in these accounts
    uint32_t accounts[3]
    bint asked_tls  # SSLRequest was answered, and not by Python
    uint32_t login_wanted_bytes  # Python hears of no less
    ProofUnderWay *proof  # own; NULL: none
    Peer peer

cdef struct ServerConn:
    Conn conn
    ServerSession session

cdef struct LinkConn:
    Conn conn
    Stream stream
    bint connecting
    bint handshaking
    bint noticed  # Python knows, and has not looked yet
    bint ended
    int error  # errno; 0: none

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
    const char *detail  # static, of a client that was closed; NULL: none
    char *user  # own: as whom it had logged in; NULL: as the user of its pool

cdef struct LoopCounters:
    uint64_t turns
    uint64_t recvs
    uint64_t sends
    uint64_t watches  # changes of what is watched
    uint64_t accepts
    uint64_t turned_away  # for want of descriptors
    uint64_t passed  # to other workers, of those that were accepted
    uint64_t known_logins  # that Python did not lead
    uint64_t python  # returns to Python

cdef struct Loop:  # one per worker
    int epfd
    int crowd_epfd  # of those who log in while many do
    uint8_t *recv_buffer  # own
    size_t recv_bytes
    size_t buffer_limit  # of bytes at rest: from here on memory is short; 0: none
    Relay relay
    Slot *slots  # own
    uint32_t slot_count
    uint32_t free_slot  # slot_count: none
    Conn *dead  # own: closed in this turn
    Conn *waiting  # borrow: have more to receive than epoll knows of
    uint8_t *came  # own: what TLS receives; NULL: nobody speaks TLS yet
    Output records  # what TLS sends; empty between two operations
    NoticeRow *notices  # own
    uint32_t notice_count
    uint32_t notice_cap
    NoticeRow lost_notice
    int *ready_fds  # own: EVENTS_PER_TURN descriptors of Python that are ready
    uint32_t *ready_masks
    uint32_t ready_count
    bint suspended  # nothing new is read, and no time is up
    uint32_t client_count
    uint32_t uncounted_count  # of these, not on the board
    uint32_t login_count
    uint32_t server_count
    uint32_t link_count
    uint32_t parting_count
    uint32_t *ids  # borrow: the last id that was given out, by whichever worker
    uint32_t own_ids  # where nobody else is
    Logins logins
    Spread spread
    LoopCounters counters


cdef inline uint64_t conn_handle(const Loop *L, const Conn *conn) noexcept nogil:
    return (<uint64_t> L.slots[conn.slot].generation << 32) | conn.slot


cdef inline Conn *conn_of(const Loop *L, uint64_t handle) noexcept nogil:
    """The open connection with this handle, or NULL."""
    cdef uint32_t slot = <uint32_t> handle
    if slot >= L.slot_count or L.slots[slot].generation != handle >> 32:
        return NULL
    return L.slots[slot].conn


cdef inline ClientConn *conn_of_client(const ClientSession *c) noexcept nogil:
    return <ClientConn *> c.io


cdef inline ServerConn *conn_of_server(const ServerSession *s) noexcept nogil:
    return <ServerConn *> s.io


cdef extern from *:
    enum:
        __ATOMIC_RELAXED
    uint32_t __atomic_add_fetch(uint32_t *cell, uint32_t n, int order) noexcept nogil


cdef inline uint32_t take_id(Loop *L) noexcept nogil:
    """The id of a new connection: no other of the pooler has it, or had it before.

    Positive as a signed number; after so many it begins anew.
    """
    return __atomic_add_fetch(L.ids, 1, __ATOMIC_RELAXED) & 0x7FFFFFFF

cdef int conn_enter(Loop *L, Conn *conn) noexcept nogil
cdef void conn_leave(Loop *L, Conn *conn) noexcept nogil
cdef void conn_replace(Loop *L, Conn *old, Conn *new) noexcept nogil
cdef void free_dead(Loop *L) noexcept nogil
cdef void notices_disown(Loop *L, uint32_t pool_id) noexcept nogil
cdef NoticeRow *notice(
    Loop *L, Notice kind, uint64_t handle, int32_t argument
) noexcept nogil
