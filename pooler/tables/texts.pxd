# SPDX-License-Identifier: MIT
"""Prepared statements: the texts that all clients of a worker share.

Sans-IO, hot. All clients that prepare the same text under the same circumstances
share one ``Statement``, which has the same name on every server (``text_names``).

A server that comes from another worker has statements of which only the names are known
here. Such a ``Statement`` has no text (NULL) and is nobody's but that server's, until
somebody prepares the text that is called so.

``context`` is part of a statement's identity: the tracked parameters under which its
text was read, because they change what literals mean (DateStyle, client_encoding,
standard_conforming_strings, a tracked search_path or role).

Source: PostgreSQL documentation, "Extended Query", "PREPARE".
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from pooler.tables.params cimport ParamSet, ParamTable
from pooler.tables.text_names cimport SERVER_NAME_BYTES, NameForms

cdef enum:
    SEEN_TEXTS = 8192  # a power of two
    RECENT_TEXTS = 256  # as many as a byte has values

cdef enum StatementKind:
    STATEMENT_PARSE  # text: what follows the name in a Parse message
    STATEMENT_SQL  # text: what follows the name in PREPARE, and a terminator

cdef enum TargetUse:  # what a statement whose text names another one does to it
    TARGET_NONE
    TARGET_EXECUTED  # what it names when it is run; at its Parse that was the target
    TARGET_MISSING  # likewise; at its Parse its client had no such name
    TARGET_PREPARED  # when it is run
    TARGET_DEALLOCATED  # likewise; the target stands for whatever has the name then
    TARGET_FORGOTTEN  # likewise, all there are: it has no target

cdef enum Stability:  # whether a text means the same each time it is read
    STABILITY_UNKNOWN
    STABLE
    UNSTABLE

cdef struct Told:
    uint64_t parameters  # types, as a number
    uint64_t shape  # of its rows, as a number; 0: none was told yet
    uint32_t at  # schema_count then
    uint8_t types[2]  # the same as bytes: count and types, as long as they are

cdef struct Statement:
    Statement *next  # own list of one hash bucket
    Statement *next_text  # likewise, of those that are found by their text
    ParamSet *context  # own: one reference; NULL: only its name is known
    Statement *target  # own: one reference; NULL: its text names no other
    uint8_t *called  # own: what a client calls that one; NULL if there is none.
    # Shared by nobody.
    uint8_t called_n
    uint32_t moved_from  # characters behind this one stand elsewhere in its client's
    int32_t moved_by  # own text: so many later here
    uint32_t parsed_at  # schema_count when a server has accepted it last
    const void *parsed_in  # the pool in which that was
    Told *told  # own: what a client was told of it last; NULL: nothing
    uint64_t hash  # of its name
    uint64_t text_hash  # statement_hash, if it is shared
    uint32_t refs
    uint32_t id  # its number in this worker, never 0
    uint32_t n
    uint8_t kind
    uint8_t target_use
    uint8_t stability  # Stability
    bint is_private  # not found by its text
    bint is_adrift  # nobody knows under which settings its text was read
    bint is_unheard  # the end of its batch will tell
    bint is_lost  # it has not told: only where it was read has it its meaning
    bint changes_known
    uint64_t changes  # what running it changes: or-ed session.records.Change
    uint8_t recent_at  # where it may be in StatementTable.recent
    uint64_t uses  # Binds and EXECUTEs of it
    uint64_t custom  # parameters that it makes up, as bits of CustomNames
    bint custom_by_value  # and others, whose names are values of its Bind
    uint8_t name_n
    char name[SERVER_NAME_BYTES]  # on every server, zero-terminated
    uint8_t *text  # n bytes: behind it, or own; NULL: only its name is known

cdef struct StatementTable:  # one per worker
    ParamTable *params  # borrow
    NameForms forms
    Statement **buckets  # own: all, by their names
    Statement **texts  # own: those that are shared, by their texts; as many
    uint32_t mask
    uint32_t count
    uint64_t bytes
    uint64_t max_bytes  # of all texts; 0: no limit
    uint32_t max_client_count  # names of one client; 0: no limit
    uint64_t max_client_bytes  # texts behind the names of one client; 0: no limit
    bint cache_unnamed
    uint32_t long_query_bytes  # a longer Query is not kept: see long_query
    uint32_t *schema_cell  # borrow: shared by all workers; see statements.schema
    uint32_t schema_own  # what it points to where nobody shares it
    uint32_t *databases_cell  # borrow: likewise; commands that concern databases
    uint32_t databases_own
    uint64_t *parse_cell  # borrow: shared by all workers; see next_parse
    uint64_t parse_own  # what it points to where nobody shares it
    uint64_t schema_born  # the number of the last change of schema that was seen
    uint64_t bind_count  # of a statement that the map knows
    uint64_t portal_count  # that were noted
    uint32_t schema_seen  # schema_count then
    uint32_t next_id
    uint64_t *seen  # own: hashes of texts that were parsed unnamed before
    Statement *recent[RECENT_TEXTS]  # borrow: shared, found last by statement_known

cdef extern from *:
    uint32_t __atomic_fetch_add(uint32_t *p, uint32_t n, int order) nogil
    uint64_t __atomic_fetch_add_8 "__atomic_fetch_add" (
        uint64_t *p, uint64_t n, int order
    ) nogil
    int __ATOMIC_SEQ_CST


cdef inline uint32_t schema_count(const StatementTable *t) noexcept nogil:
    """Commands seen, by any worker, that may change what a text means."""
    return t.schema_cell[0]


cdef inline uint64_t next_parse(StatementTable *t) noexcept nogil:
    """The number of a Parse, of a client or of ours, that is about to be sent.

    Of two of them, in whichever workers, the one with the lower number was numbered
    before the other was sent.
    """
    return __atomic_fetch_add_8(t.parse_cell, 1, __ATOMIC_SEQ_CST) + 1


cdef inline uint64_t parses_of_today(StatementTable *t) noexcept nogil:
    """The number above which the schema has not changed, as far as was seen."""
    if t.schema_seen != schema_count(t):
        t.schema_seen = schema_count(t)
        t.schema_born = next_parse(t)
    return t.schema_born


cdef inline bint counts_are_shared(const StatementTable *t) noexcept nogil:
    """Whether the numbers of other workers mean here what they mean there."""
    return t.parse_cell != &t.parse_own and t.schema_cell != &t.schema_own


cdef inline void count_schema_change(StatementTable *t) noexcept nogil:
    __atomic_fetch_add(t.schema_cell, 1, __ATOMIC_SEQ_CST)


cdef inline void count_databases(StatementTable *t) noexcept nogil:
    """CREATE, ALTER or DROP DATABASE goes out, or is done: every worker looks."""
    __atomic_fetch_add(t.databases_cell, 1, __ATOMIC_SEQ_CST)

cdef int statements_init(
    StatementTable *t, ParamTable *params, bytes prefix
) except -1
cdef void statements_free(StatementTable *t) noexcept nogil
cdef uint64_t statement_hash(
    const ParamSet *context, uint8_t kind, const uint8_t *text, size_t n
) noexcept nogil
cdef Statement *statement_find(
    const StatementTable *t, const ParamSet *context, uint8_t kind,
    const uint8_t *text, size_t n, uint64_t h,
) noexcept nogil
cdef Statement *statement_known(
    StatementTable *t, ParamSet *context, uint8_t kind, const uint8_t *text, size_t n
) noexcept nogil
cdef Statement *statement_draft(
    StatementTable *t, ParamSet *context, uint8_t kind, size_t n
) noexcept nogil
cdef Statement *statement_publish(
    StatementTable *t, Statement *draft, size_t n
) noexcept nogil
cdef void statement_discard(StatementTable *t, Statement *draft) noexcept nogil
cdef Statement *statement_intern(
    StatementTable *t, ParamSet *context, uint8_t kind, const uint8_t *text, size_t n,
    uint64_t h, bint shared,
) noexcept nogil
cdef Statement *statement_called(
    StatementTable *t, const uint8_t *name, size_t n
) noexcept nogil
cdef void statement_types(
    const StatementTable *t, Statement *st, uint64_t parameters, const uint8_t *types,
    size_t n,
) noexcept nogil
cdef void statement_free(StatementTable *t, Statement *st) noexcept nogil
cdef bint text_seen(StatementTable *t, uint64_t h) noexcept nogil


cdef inline bint statement_executes(const Statement *st) noexcept nogil:
    """Whether its text is an EXECUTE, so that a name is looked up when it is run."""
    return st != NULL and (
        st.target_use == TARGET_EXECUTED or st.target_use == TARGET_MISSING
    )


cdef inline void statement_used(Statement *st) noexcept nogil:
    """It is bound, or SQL executes it; for those who look on."""
    st.uses += 1


cdef inline Statement *statement_ref(Statement *st) noexcept nogil:
    if st != NULL:
        st.refs += 1
    return st


cdef inline void statement_unref(StatementTable *t, Statement *st) noexcept nogil:
    if st != NULL:
        st.refs -= 1
        if st.refs == 0:
            statement_free(t, st)
