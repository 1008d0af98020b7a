# SPDX-License-Identifier: MIT
"""Prepared statements: shared texts, a client's names, what a server has.

Session layer, sans-IO, hot. All clients of a worker that prepare the same text under
the same circumstances share one ``Statement``, which has the same name on every
server. A client that prepares nothing pays one pointer.

``context`` is part of a statement's identity: the tracked parameters under which its
text was read, because they change what literals mean (DateStyle, client_encoding,
standard_conforming_strings, a tracked search_path or role).

Source: PostgreSQL documentation, "Extended Query", "PREPARE".
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from pooler.tables.params cimport ParamSet, ParamTable

cdef enum:
    STATEMENT_NAME_BYTES = 63  # PostgreSQL tells names apart by no more (NAMEDATALEN)
    SHOWN_NAME_BYTES = 255
    SERVER_NAME_BYTES = 32
    SEEN_TEXTS = 8192  # a power of two

cdef enum StatementKind:
    STATEMENT_PARSE  # text: what follows the name in a Parse message
    STATEMENT_SQL  # text: what follows the name in PREPARE, and a terminator

cdef enum TargetUse:  # what a statement whose text names another one does to it
    TARGET_NONE
    TARGET_EXECUTED
    TARGET_PREPARED
    TARGET_DEALLOCATED

cdef enum Stability:  # whether a text means the same each time it is read
    STABILITY_UNKNOWN
    STABLE
    UNSTABLE

cdef enum PrepareResult:  # what becomes of a client's message
    PREPARE_FORWARD  # nothing to do with it: the caller tracks and forwards it
    PREPARE_DONE  # tracked; its first bytes are used up, the rest goes on as it is
    PREPARE_HOLD  # its names are not complete
    PREPARE_WAIT  # what its names mean is not known before earlier batches are settled
    PREPARE_NO_MEMORY

cdef enum Refusal:  # why a client may not prepare something
    REFUSED_NOT
    REFUSED_COUNT
    REFUSED_CLIENT_BYTES
    REFUSED_MEMORY
    REFUSED_NAME
    REFUSED_STALE  # the server's rows are not those that the client was told of

cdef struct Statement:
    Statement *next  # own list of one hash bucket
    ParamSet *context  # own: one reference
    Statement *target  # own: one reference; NULL: its text names no other
    const void *parsed_in  # the pool in which a server has accepted it last
    uint32_t parsed_at  # schema_count then
    uint64_t hash
    uint32_t refs
    uint32_t n
    uint8_t kind
    uint8_t target_use
    uint8_t stability  # Stability
    bint is_private  # not found by its text
    uint8_t name_n
    char name[SERVER_NAME_BYTES]  # on every server, zero-terminated
    uint8_t text[1]

cdef struct StatementTable:  # one per worker
    ParamTable *params  # borrow
    Statement **buckets  # own
    uint32_t mask
    uint32_t count
    uint64_t bytes
    uint64_t max_bytes  # of all texts; 0: no limit
    uint32_t max_client_count  # names of one client; 0: no limit
    uint64_t max_client_bytes  # texts behind the names of one client; 0: no limit
    bint cache_unnamed
    uint64_t seed
    uint32_t schema_count  # commands seen that may change what a text means
    uint32_t next_id
    uint8_t prefix_n  # what all names on servers begin with
    char prefix[16]
    uint64_t *seen  # own: hashes of texts that were parsed unnamed before

cdef struct ClientStatement:  # a name that a client has given
    ClientStatement *next
    Statement *statement  # own: one reference
    uint64_t told_shape  # of its rows, as the client was told last; 0: never
    uint64_t told_parameters  # their types; 0: never
    uint32_t hash
    bint pending  # PostgreSQL has not answered its Parse yet
    uint8_t name_n  # of what tells it apart
    uint8_t shown_n  # of what is shown in an error
    uint8_t name[1]

cdef enum Absorbing:  # what happens to the body of the client message under way
    ABSORB_NONE  # forwarded
    ABSORB_KEEP  # kept until it is complete
    ABSORB_DROP

cdef struct ClientStatements:
    ClientStatement **buckets  # own
    uint32_t mask
    uint32_t count
    uint64_t bytes
    Statement *unnamed  # own: one reference; NULL: none, or one too long to remember
    uint32_t names_batch  # the batch that changed names last, as batch_number counts
    uint32_t unnamed_batch  # the batch that changed the unnamed statement last
    uint8_t absorbing
    uint8_t code  # of the message being kept
    uint8_t *part  # own: its body
    uint32_t part_n
    uint32_t part_have

cdef struct ServerStatement:  # a statement that a server has
    ServerStatement *next
    ServerStatement *newer
    ServerStatement *older
    Statement *statement  # own: one reference
    uint32_t generation  # not the server's: nobody can say whether it is there
    uint32_t batch  # the one that it was sent in, as batch_number counts
    uint32_t target_batch  # the one in which SQL names it
    uint32_t parsed_at  # StatementTable.schema_count then
    uint64_t shape  # of its rows; 0: not known
    uint64_t parameters  # their types; 0: not known
    bint closing  # to be closed by a request under way; not counted, not in the list

cdef struct ServerStatements:
    ServerStatement **buckets  # own
    uint32_t mask
    uint32_t count
    ServerStatement *newest
    ServerStatement *oldest
    uint32_t generation

cdef enum EffectFlag:
    EFFECT_ADDS_NAME = 1  # entry: borrow, in the client's map
    EFFECT_DROPS_NAME = 2  # entry: own, taken out of it
    EFFECT_DUPLICATE = 4  # entry: own, a name that was taken; an error is due
    EFFECT_REFUSED = 8  # made to fail; the error is replaced by ours
    EFFECT_UNNAMED = 16  # changes the client's unnamed statement
    EFFECT_FAILED = 32  # of a Query: it has answered with an error
    EFFECT_DESCRIBES = 64  # installed is being described; entry: borrow, or NULL

cdef struct Effect:  # of a request, taken back if PostgreSQL never carries it out
    Statement *installed  # own: one reference
    Statement *removed
    Statement *unnamed_before
    ClientStatement *entry
    uint8_t flags
    uint8_t refusal  # Refusal
    uint32_t moved_from  # of a Query: characters behind this one were moved by so many
    int32_t moved_by

cdef struct EffectQueue:  # one for each outstanding Parse, Close and REQUEST_SQL
    Effect *ring  # own
    uint32_t mask
    uint32_t head
    uint32_t tail

cdef int statements_init(
    StatementTable *t, ParamTable *params, bytes prefix
) except -1
cdef void statements_free(StatementTable *t) noexcept nogil
cdef uint64_t statement_hash(
    const StatementTable *t, const ParamSet *context, uint8_t kind,
    const uint8_t *text, size_t n,
) noexcept nogil
cdef Statement *statement_find(
    const StatementTable *t, const ParamSet *context, uint8_t kind,
    const uint8_t *text, size_t n, uint64_t h,
) noexcept nogil
cdef Statement *statement_intern(
    StatementTable *t, ParamSet *context, uint8_t kind, const uint8_t *text, size_t n,
    uint64_t h, bint shared,
) noexcept nogil
cdef void statement_free(StatementTable *t, Statement *st) noexcept nogil
cdef bint text_seen(StatementTable *t, uint64_t h) noexcept nogil


cdef inline Statement *statement_ref(Statement *st) noexcept nogil:
    if st != NULL:
        st.refs += 1
    return st


cdef inline void statement_unref(StatementTable *t, Statement *st) noexcept nogil:
    if st != NULL:
        st.refs -= 1
        if st.refs == 0:
            statement_free(t, st)

cdef ClientStatements *client_statements_new() noexcept nogil
cdef void client_statements_free(
    StatementTable *t, ClientStatements *names
) noexcept nogil
cdef void absorbed_free(StatementTable *t, ClientStatements *names) noexcept nogil
cdef void client_statements_clear(
    StatementTable *t, ClientStatements *names
) noexcept nogil
cdef ClientStatement *client_statement_find(
    const ClientStatements *names, const uint8_t *name, size_t n
) noexcept nogil
cdef ClientStatement *client_statement_new(
    const uint8_t *name, size_t n, Statement *st
) noexcept nogil
cdef int client_statement_link(
    ClientStatements *names, ClientStatement *entry
) noexcept nogil
cdef void client_statement_unlink(
    ClientStatements *names, ClientStatement *entry
) noexcept nogil
cdef void client_statement_free(
    StatementTable *t, ClientStatement *entry
) noexcept nogil

cdef ServerStatement *server_statement_find(
    const ServerStatements *has, const Statement *st
) noexcept nogil
cdef ServerStatement *server_statement_add(
    ServerStatements *has, Statement *st
) noexcept nogil
cdef void server_statement_remove(
    StatementTable *t, ServerStatements *has, ServerStatement *entry
) noexcept nogil
cdef void server_statement_closing(
    ServerStatements *has, ServerStatement *entry
) noexcept nogil
cdef void server_statements_free(
    StatementTable *t, ServerStatements *has
) noexcept nogil
cdef void server_statement_use(
    ServerStatements *has, ServerStatement *entry
) noexcept nogil

cdef const char *refusal_sqlstate(uint8_t refusal) noexcept nogil
cdef const char *refusal_text(uint8_t refusal) noexcept nogil
cdef uint64_t shape_of_parameters(const uint8_t *body, size_t n) noexcept nogil
cdef uint64_t shape_of_rows(const uint8_t *body, size_t n) noexcept nogil
cdef Effect *effects_push(EffectQueue *q) noexcept nogil


cdef inline Effect *effects_at(EffectQueue *q, uint32_t i) noexcept nogil:
    return &q.ring[i & q.mask]
