# SPDX-License-Identifier: MIT
"""Records of the session layer: a client, a server, a pool, and their states.

Session layer, sans-IO, hot. A session is the protocol state of a connection; it
knows nothing of sockets. ``io`` leads back to the connection that owns the session
and is opaque here. All links between sessions are borrowed; ``pool`` makes and
breaks them, and only ``set_client_state`` / ``set_server_state`` change a state.

    client  LOGIN -> IDLE <-> ACTIVE -> CLOSED      IDLE -> WAITING -> ACTIVE | IDLE
    server  IDLE <-> ACTIVE -> TESTED -> IDLE       every state -> CLOSED
            IDLE -> TESTED

"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from pooler.session.deadlines cimport (
    CLIENT_DEADLINES, NO_DEADLINE, SERVER_DEADLINES, Timer, Wheel, deadline_start,
    deadline_stop,
)
from pooler.board.latency cimport Histogram
from pooler.board.page cimport Cells
from pooler.wire.buffers cimport Queue, Stream
from pooler.tables.params cimport ParamSet
from pooler.tables.client_names cimport ClientStatement, ClientStatements
from pooler.tables.effect_queue cimport EffectQueue
from pooler.tables.shapes cimport Shaping
from pooler.tables.server_statements cimport ServerStatement, ServerStatements
from pooler.tables.texts cimport SERVER_NAME_BYTES, Statement
from pooler._wire cimport ScanState
from pooler.session.requests cimport RequestQueue, batch_unsettled

cdef enum:
    CANCEL_KEY_MIN_BYTES = 8  # process id and secret of protocol 3.0
    CANCEL_KEY_MAX_BYTES = 36

cpdef enum ClientState:
    CLIENT_FREE
    CLIENT_LOGIN  # Python reads its messages
    CLIENT_IDLE  # logged in, no server attached
    CLIENT_WAITING  # in its pool's queue, its request held
    CLIENT_ACTIVE  # a server is attached
    CLIENT_CLOSED

cpdef enum ServerState:
    SERVER_FREE
    SERVER_IDLE  # in its pool's list
    SERVER_ACTIVE  # attached to a client
    SERVER_TESTED  # without a client: what a lost client left is cleared away, or
    # the reset query or the check query runs
    SERVER_CLOSED

cpdef enum PoolMode:  # when a server goes back to its pool
    MODE_SESSION  # when the client leaves
    MODE_TRANSACTION  # when the transaction is over
    MODE_STATEMENT  # after each statement; transaction blocks are refused

# Why a connection was closed. The texts and SQLSTATEs are in errors.CLOSE_REASONS,
# in this order.
cpdef enum CloseReason:
    CLOSE_NONE
    CLOSE_CLIENT_REQUEST
    CLOSE_CLIENT_EOF
    CLOSE_CLIENT_PROTO
    CLOSE_CLIENT_QUERY
    CLOSE_CLIENT_NOT_READY
    CLOSE_CLIENT_IN_PROGRESS
    CLOSE_CLIENT_LOGIN
    CLOSE_CLIENT_PARAMETER
    CLOSE_SERVER_CRASHED
    CLOSE_SERVER_EOF
    CLOSE_SERVER_PROTO
    CLOSE_SERVER_DIRTY
    CLOSE_SERVER_OBSOLETE
    CLOSE_SERVER_UNUSABLE
    CLOSE_SERVER_RESET
    CLOSE_SERVER_CHECK
    CLOSE_SERVER_ABANDONED
    CLOSE_SERVER_CHANGED
    CLOSE_STATEMENT_XACT
    CLOSE_REPLICATION
    CLOSE_QUERY_WAIT
    CLOSE_LOGIN_TIMEOUT
    CLOSE_LOGIN_SERVER_DOWN
    CLOSE_QUERY_TIMEOUT_WAITING
    CLOSE_QUERY_TIMEOUT
    CLOSE_XACT_TIMEOUT
    CLOSE_IDLE_XACT_TIMEOUT
    CLOSE_CLIENT_IDLE
    CLOSE_SERVER_IDLE
    CLOSE_SERVER_LIFETIME
    CLOSE_SERVER_EVICTED
    CLOSE_SHUTDOWN
    CLOSE_SERVER_PAUSED
    CLOSE_SUSPEND_TIMEOUT
    CLOSE_FORCED
    CLOSE_DATABASE_REMOVED
    CLOSE_USER_REMOVED
    CLOSE_CONFIG_CHANGED
    CLOSE_NO_MEMORY
    CLOSE_INTERNAL
    CLOSE_REASONS

cpdef enum Change:  # what a text may change; or-ed
    CHANGE_TRACKED = 1  # a parameter that follows its client
    CHANGE_MEANING = 2  # what texts mean
    CHANGE_BACK = 4  # takes back what the transaction has set
    CHANGE_FORGETS = 8  # prepared statements may be gone
    CHANGE_GIVES = 16  # a value to a parameter that follows its client
    CHANGE_SETTING = 32  # from here on: what is left in the session
    CHANGE_TEMPORARY = 64
    CHANGE_LISTEN = 128
    CHANGE_LOCK = 256
    CHANGE_CURSOR = 512
    CHANGE_HIDDEN = 1024  # a text that can do anything: DO, CALL
    CHANGE_FOR_GOOD = 2048  # no command takes it back: LOAD, SET my.own
    CHANGES_LEFT = 4064  # all of these
    CHANGE_LENDS = 4096  # as CHANGE_GIVES, for the transaction only
    CHANGE_UNDOES = 8192  # takes back all that the transaction has done
    CHANGE_SEQUENCES = 16384  # none: asks what value of a sequence was got last
    CHANGE_LOCAL = 32768  # a parameter that follows its client, for the transaction
    CHANGE_RESET_SHIFT = 16  # bits from here on: a parameter that is reset, each
    CHANGE_LOCAL_SHIFT = 32  # likewise, for the transaction only

cdef enum CopyInState:
    COPY_IN_NONE
    COPY_IN_OPEN  # CopyInResponse seen; the client has not ended the COPY
    COPY_IN_FAILED  # the server has given up, but the client may still send data

cdef struct Script:  # a Query message of ours, ready to be sent
    uint8_t *message  # own; NULL: none
    size_t n

cdef enum ReplayState:
    REPLAY_OFF
    REPLAY_OPEN  # what is sent is kept, up to the Sync of the batch
    REPLAY_ENDING  # the read under way has its end
    REPLAY_WHOLE

cdef struct Replay:  # a batch that may have to be sent again; see statements.replay
    uint8_t *bytes  # own
    uint32_t n
    uint32_t cap
    uint32_t first  # index of its first request in the queue
    size_t output_start  # where it begins in the output of the read under way
    Statement *statement  # own: one reference: the one that it needs
    uint8_t state
    bint repeated
    bint inert  # of a Query: its arguments cannot have done anything
    bint bind_follows  # a Bind that may be repeated is here behind the Parse looked at
    bint unproven  # first is a Parse that is answered here if the Bind succeeds

cdef struct PoolConfig:  # how a pool works; written by pool
    uint8_t mode
    uint32_t max_prepared_statements  # on one server; 0: names are left alone
    bint reset_always  # the reset query runs after every release, not just sessions
    bint cancel_abandoned  # cancel what a lost client left running, and keep the server
    bint dedicated  # made for one client; its server ends with it
    bint no_queries  # who sends a Query is sent away
    bint clean_changed  # what a client has left in a server goes before the next one
    bint clean_custom  # and so do the names of parameters that it has made up
    Script reset_query  # own
    Script check_query  # own
    uint64_t check_delay_us  # idle for longer: check before use
    uint64_t client_limit_us[CLIENT_DEADLINES]  # 0: none. Of QUERY_WAIT: the first look
    uint64_t server_limit_us[SERVER_DEADLINES]
    uint64_t query_wait_us  # 0: a client may wait for ever
    uint64_t wait_notify_us  # 0: nobody is told that it waits
    uint32_t min_servers  # of all workers together; being idle closes no more of them
    bint round_robin  # the server that has been idle longest is used first
    bint fast_close  # session mode: one that has to go does not wait for its client
    bint single_use  # a server serves one client once
    bint timed  # a limit begins when a client sends something
    bint watch_ready  # each ReadyForQuery may have to be looked at

cdef struct PoolCounters:  # totals since the pool was made; written by counters
    uint64_t xacts
    uint64_t queries
    uint64_t received_bytes  # from clients
    uint64_t sent_bytes  # to clients
    uint64_t assignments  # of a server to a client
    uint64_t client_logins
    uint64_t xact_us  # from the first request of a transaction to its last answer
    uint64_t query_us  # from a request to the answer, the wait for a server included
    uint64_t wait_us
    uint64_t client_parses
    uint64_t server_parses
    uint64_t binds
    uint64_t parse_hits  # client Parses that no server had to read
    uint64_t evictions
    uint64_t changed  # how often a client has left something in a server's session
    uint64_t cleaned  # how often that was cleared away for another client
    uint32_t left  # what it ever was: or-ed Change
    uint64_t replays  # batches that were sent again after a plan had gone stale

cdef struct Inquiry:  # what an idle server makes of a value; written by inquire
    ServerSession *server  # borrow: it has not answered yet; NULL: none
    Queue answer  # own: its messages, up to ReadyForQuery
    bint failed  # the answer is longer than any that is awaited
    Queue learned  # own: name, what a client asked for, what a server made of it; each
    # with a terminator, and again

cdef struct Sharing:  # of servers with other workers; written by offers
    bint told  # Python looks whether a server should move
    uint64_t patience_us
    uint64_t since_us  # of these moments the last one began then
    uint32_t aside_count  # servers that were put aside in it

cdef struct Pool:
    uint32_t id
    PoolConfig config
    PoolCounters counters
    uint32_t max_servers
    uint32_t server_count  # idle + active
    uint32_t connecting_count  # being opened by Python
    uint32_t idle_count
    uint32_t active_count
    uint32_t tested_count
    uint32_t draining_count  # of these, still at work for a client that has left
    uint32_t waiting_count
    uint32_t client_count
    bint launch_wanted  # Python has been asked to open servers
    bint refused  # it may open none: all workers together have as many as may be
    Cells alone  # stand in for those of an account, before the pool has one
    Cells *cells  # own row of the account that all workers share, or alone; not NULL
    const Cells *rows  # borrow: the account's, of all workers; NULL: there is none
    uint32_t row_count  # of these; the last one is of what dead workers have left
    Histogram *times  # borrow: own row of the account's, by Timed; NULL: not measured
    bint paused  # hands out no server and opens none
    bint closing  # paused for good: who asks for a server is sent away
    uint64_t lifetimes  # servers whose time was measured
    bint sequences_asked  # a client has asked for currval() or lastval()
    uint64_t replaced_us  # servers that were opened before are to go; 0: none
    bint wake_listed  # in the list of pools whose waiting clients are to be served
    Pool *next_wake  # borrow
    Inquiry inquiry
    Sharing sharing
    ServerSession *idle_head  # borrow: most recently used
    ServerSession *idle_tail
    ClientSession *waiting_head  # borrow: waits longest
    ClientSession *waiting_tail

cdef struct SettingsLog:  # SETs of a client, in order; written by settings_log
    Queue texts  # own: each with a terminator
    uint32_t sure_bytes  # of these, what is carried out for good
    bint partial  # something has changed that they do not bring back

cdef struct Clock:  # of a client; written by counters
    uint64_t seen_us  # when it was read last
    uint64_t query_us  # since when it waits for an answer; 0: it does not
    uint64_t xact_us  # when its transaction began; 0: there is none

cdef struct ClientSession:
    void *io  # borrow: the connection this session lives in
    uint8_t state
    Pool *pool
    ServerSession *server  # borrow until detach
    ServerSession *kept  # borrow: an idle one, with what this client has left in it
    uint64_t number  # of all clients of this worker; not 0
    bint asks_sequences  # has used currval() or lastval()
    uint64_t custom  # parameters that it has made up, as bits of CustomNames
    ClientSession *next  # borrow: waiting list
    ClientSession *prev
    uint64_t waiting_since_us
    Stream stream
    ScanState scan
    ParamSet *params  # own: one reference
    ParamSet *asked  # own: one reference: what it had at its login
    SettingsLog settings
    bint aligning  # held back until the server has accepted its parameters
    bint in_doubt  # of these some were reset, perhaps: a Query of ours finds out
    ClientStatements *statements  # own; NULL: has prepared nothing
    bint settling  # held back until all batches that it has sent are answered
    bint leaving  # has said goodbye behind a request that is not answered yet
    Timer timer
    Clock clock
    uint64_t opened_us
    bint proved  # in state LOGIN: who it is; it waits for a server to be known
    uint8_t cancel_key_n
    uint8_t cancel_key[CANCEL_KEY_MAX_BYTES]

cdef struct Batch:  # extended messages since the last Sync; written by batch
    bint open  # messages were sent that no Sync has closed, so an implicit transaction
    # may be under way
    bint unsynced  # messages were sent that no Sync has followed, though a Query may
    # have: if one of them fails, PostgreSQL skips all up to that Sync
    bint executed  # one of them is an Execute
    bint failed  # one of them failed and no Sync was sent yet: PostgreSQL skips to it
    ClientStatement *bound  # borrow: the statement of its unnamed portal

cdef struct Portal:  # in which SQL stands that looks at names when it is run
    Portal *next
    Statement *statement  # own: one reference
    uint64_t number  # as portals are counted in the worker
    uint32_t runs  # id of what it executes, as far as that is noted; 0: nothing
    uint8_t name_n
    uint8_t name[1]

cdef struct CopyIn:  # a COPY from the client; written by copy_in
    uint8_t state  # CopyInState
    bint syncs_ignored  # Syncs were sent into an open COPY: nobody can say whether
    # PostgreSQL saw them there, or after it had given the COPY up

cdef struct Fate:  # written by fate
    uint8_t obsolete  # CloseReason: close instead of going idle; 0: do not
    bint fatal_seen  # the client has been told why this server goes away

cdef struct Tracking:  # what is known of its prepared statements; written by tracking
    bint on  # names of prepared statements are ours; does not change
    bint unnamed_own  # its unnamed statement was parsed by the client attached now
    bint unnamed_maybe  # it may have one, of whomever
    bint stray  # SQL has prepared a name that we do not know
    bint changing  # a command of its open transaction may change what texts mean
    bint error_told  # an error of ours was shown in place of the next Query's own
    Queue owed_error  # own: a message: why we could not prepare what the next Query
    # needs; told when that comes to it, or never
    uint8_t owed_name_n  # of the statement; 0: not known which
    char owed_name[SERVER_NAME_BYTES]
    uint32_t prepares  # PREPAREs with names of ours whose tags are to come

cdef struct Changes:  # by requests of its clients, or-ed Change; written by changes
    uint32_t pending  # by what is not answered yet
    uint32_t xact  # in the transaction under way
    uint32_t left  # in the session
    bint undone  # some of what the transaction has set has failed or was rolled back
    uint16_t reset  # parameters that go back to what their client had at its login
    uint16_t reset_local  # likewise, but the transaction will take it back
    bint reset_doubt  # they may have been set behind it, or failed to be reset
    uint16_t back  # those that the unnamed portal resets, if that is sure
    uint16_t back_local  # likewise, for the transaction only
    bint reset_open  # so it is until the transaction ends
    uint32_t reset_batch  # the first one that resets any of them
    uint32_t batch  # the last one that had any, as batch_number counts
    uint32_t tracked_sent  # requests not answered that change what follows the client

cdef struct Sequences:  # whose values it remembers; written by sequences
    uint64_t user  # number of its last client; 0: none yet
    bint of_others  # those of other clients may be there as well

cdef struct Custom:  # parameters that clients have made up; written by custom
    uint64_t made  # of whomever, as bits of CustomNames
    uint64_t sent  # by the transaction under way, and not by its client before
    bint failed  # nobody knows whether these were made

cdef struct Cleaning:  # of a server that a client has left; written by clean
    bint reset_wanted  # run the reset query before going idle
    bint resetting  # it was sent
    bint rolling_back  # our ROLLBACK is under way
    bint checking  # our check query is under way
    bint abandoned  # nobody wants what it is at work on: it is being cancelled
    uint32_t unwanted_bytes  # sent by it since its client said goodbye

cdef struct ServerSession:
    void *io
    uint8_t state
    Pool *pool
    ClientSession *client  # borrow until detach
    ClientSession *kept_for  # borrow: has left something in it, and may have it back
    ServerSession *next  # borrow: idle list
    ServerSession *prev
    uint64_t idle_since_us
    bint checked  # the check query has answered, and nobody has used it since
    bint draining  # still at work for a client that has left
    Stream stream
    ScanState scan
    uint8_t xact_status  # 'I', 'T' or 'E' of the last ReadyForQuery
    Shaping shaping  # of the description that passes by, if it matters
    ParamSet *defaults  # own: one reference: what it had at its own login
    bint dropping  # the body under way belongs to a message that nobody gets
    ParamSet *params
    RequestQueue requests
    Batch batch
    CopyIn copy
    Fate fate
    Changes changes
    Sequences sequences
    Custom custom
    Cleaning cleaning
    uint32_t cancels  # cancel requests under way to this server
    bint cancel_late  # a cancel request waits until our SET is answered
    Tracking tracking
    ServerStatements statements
    EffectQueue effects
    Portal *portals  # own: of its client; NULL: none
    Replay replay
    Timer timer
    uint64_t opened_us

cdef int script_fill(Script *script, bytes sql) except -1

cdef bint set_client_state(ClientSession *c, ClientState new) noexcept nogil
cdef bint set_server_state(ServerSession *s, ServerState new) noexcept nogil
cdef void client_begin(ClientSession *c, Wheel *w, void *io) noexcept nogil
cdef void client_proved(ClientSession *c) noexcept nogil
cdef void client_may_wait(ClientSession *c) noexcept nogil
cdef void client_cancel_key(
    ClientSession *c, const uint8_t *key, uint8_t n
) noexcept nogil
cdef void server_begin(ServerSession *s, Wheel *w, void *io) noexcept nogil
cdef void server_goes_on(ServerSession *s, uint64_t opened_us) noexcept nogil


cdef inline bint server_knows(
    const ServerSession *s, const ServerStatement *entry
) noexcept nogil:
    """Whether the server surely has something by a statement's name, be it another."""
    return (
        entry != NULL and not entry.closing
        and entry.generation == s.statements.generation
        and (entry.epoch == 0 or entry.epoch == s.statements.epoch + 1)
        and not batch_unsettled(&s.requests, entry.batch)
    )


cdef inline bint server_has(
    const ServerSession *s, const ServerStatement *entry
) noexcept nogil:
    """Whether the server surely has a statement when it comes to the next request."""
    return server_knows(s, entry) and entry.instead == 0


cdef inline bint server_side_is_quiet(const ServerSession *s) noexcept nogil:
    """``server_is_quiet``, but for the client."""
    return (
        s.requests.head == s.requests.tail
        and s.copy.state == COPY_IN_NONE
        and not s.batch.open
        and not s.batch.failed
        and s.cancels == 0
        and s.scan.body_left == 0
        and s.stream.out.cap == 0
        and s.stream.held.cap == 0
    )


cdef inline bint server_is_quiet(const ServerSession *s) noexcept nogil:
    """Nothing is owed in either direction; a transaction may still be open.

    No outstanding request, no COPY or failed batch open, both directions flushed and
    at a message boundary, no cancel request under way.
    """
    cdef const ClientSession *c = s.client
    return server_side_is_quiet(s) and (
        c == NULL
        or (c.stream.out.cap == 0 and c.scan.body_left == 0 and not c.aligning)
    )


cdef inline bint server_is_free(const ServerSession *s) noexcept nogil:
    """The full rule: nothing of the attached client is left in this server."""
    return s.xact_status == c"I" and server_is_quiet(s)
