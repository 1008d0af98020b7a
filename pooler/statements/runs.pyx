# SPDX-License-Identifier: MIT
"""What SQL that runs may change; see ``runs.pxd``."""

from libc.stdint cimport uint32_t, uint64_t

from pooler._wire cimport load_be32
from pooler.session.changes cimport change_sent
from pooler.session.custom cimport custom_sent
from pooler.session.records cimport (
    CHANGES_LEFT, CHANGE_FORGETS, CHANGE_FOR_GOOD, CHANGE_HIDDEN, CHANGE_MEANING,
    CHANGE_SEQUENCES, CHANGE_SETTING,
)
from pooler.session.sequences cimport (
    sequences_asked, sequences_discarded, sequences_late,
)
from pooler.statements.sql_changes cimport (
    CHANGES_OF_SESSION, CHANGE_DATABASES_SHIFT, sql_changes, sql_changes_of_plan,
)
from pooler.session.settings_log cimport settings_sent, settings_unknown
from pooler.session.requests cimport REQUEST_ALIGN, requests_push
from pooler.statements.install cimport put_scratch, run_scratch
from pooler.statements.sql_names cimport sql_flags
from pooler.wire.buffers cimport output_add
from pooler.statements.sql_scan cimport is_word, skip_blank, skip_word, sql_end
from pooler.tables.custom_names cimport (
    custom_in_literals, custom_in_values, custom_take,
)
from pooler.tables.server_statements cimport server_statements_doubt
from pooler.tables.texts cimport (
    STATEMENT_PARSE, count_databases, statement_executes,
)

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char *text, size_t n)

cdef const char *DISCARD_QUERY = b"Q\0\0\0\x16DISCARD SEQUENCES"
cdef const char *DISCARD_TEXT = b"DISCARD SEQUENCES"

cdef enum:
    DISCARD_BYTES = 18  # with its terminator
    DISCARD_QUERY_BYTES = 23
    LARGE_OBJECT_FUNCTIONS = 13
    # of no account on a server that is not shared; but what it makes of a RESET is
    CHANGES_NOT_OWN = (
        CHANGES_LEFT | CHANGE_MEANING | CHANGE_FORGETS | CHANGE_SEQUENCES
    )

# Functions that drivers call by their numbers (lo_open, loread …): their descriptors
# end with the transaction.
cdef uint32_t HARMLESS_FUNCTIONS[LARGE_OBJECT_FUNCTIONS]
HARMLESS_FUNCTIONS[:] = [
    715, 952, 953, 954, 955, 956, 957, 958, 964, 1004, 3170, 3171, 3172
]


cdef inline uint8_t flags_of(
    const StatementTable *t, const ServerSession *s
) noexcept nogil:
    """How literals are read (SqlFlag)."""
    return 0 if s.client == NULL else sql_flags(t, s.client)


cdef bint is_one_set(const uint8_t *text, size_t n, uint8_t flags) noexcept nogil:
    """Whether a text is SET and nothing else."""
    cdef size_t at = skip_blank(text, n, 0)
    cdef size_t end = skip_word(text, n, at, flags)
    return is_word(text, at, end, b"set") and (
        skip_blank(text, n, sql_end(text, n, end, flags) + 1) >= n
    )


cdef void note_left(
    const StatementTable *t, ServerSession *s, uint64_t changes, const uint8_t *text,
    size_t n,
) noexcept nogil:
    """Something will be left in the session: keep it as what can be run again."""
    cdef uint32_t left = changes & CHANGES_LEFT & ~<uint32_t> CHANGE_FOR_GOOD
    if left == CHANGE_SETTING and text != NULL and (
        is_one_set(text, n, flags_of(t, s))
    ):
        settings_sent(s.client, text, n)
    else:
        settings_unknown(s.client)


cdef inline void note(
    const StatementTable *t, ServerSession *s, uint64_t changes, const uint8_t *text,
    size_t n,
) noexcept nogil:
    if changes == 0:
        return
    change_sent(s, changes)
    if changes & CHANGE_SEQUENCES:
        sequences_asked(s)
    if changes & CHANGES_LEFT and s.client != NULL:
        note_left(t, s, changes, text, n)
    if changes & CHANGE_FORGETS:
        server_statements_doubt(&s.statements)


cdef inline uint64_t tell_databases(StatementTable *t, uint64_t changes) noexcept nogil:
    """What is changed in the session; that databases are concerned is told to all."""
    if changes >> CHANGE_DATABASES_SHIFT:
        count_databases(t)
    return changes & CHANGES_OF_SESSION


cdef uint64_t runs_query(
    StatementTable *t, ServerSession *s, const uint8_t *text, size_t n
) noexcept nogil:
    """A text of SQL that is all here runs when PostgreSQL comes to it.

    What it may change is noted, for the texts in it, and returned: for ``query_sent``,
    or it waits and is taken back (``changes_not_sent``).
    """
    cdef uint64_t changes = tell_databases(t, sql_changes(
        text, n, t.params, s.params, flags_of(t, s)
    ))
    if not is_watched(s):
        custom_take(t.params.custom)
        changes &= ~<uint64_t> CHANGES_NOT_OWN
    if changes == 0:
        return 0
    if t.params.custom.by_value and (
        not custom_in_literals(t.params.custom, text, n) and is_watched(s)
    ):
        changes |= CHANGE_FOR_GOOD  # a name that is computed
    change_sent(s, changes)
    custom_sent(s, custom_take(t.params.custom))
    if changes & CHANGE_SEQUENCES:
        sequences_asked(s)
    if changes & CHANGES_LEFT and s.client != NULL:
        note_left(t, s, changes, text, n)
    return changes


cdef void query_sent(ServerSession *s, uint64_t changes) noexcept nogil:
    """A Query that may change these goes out, behind what it needed."""
    if changes & CHANGE_FORGETS:
        server_statements_doubt(&s.statements)


cdef void look_once(
    StatementTable *t, const ServerSession *s, Statement *st
) noexcept nogil:
    """Find out what a prepared statement changes when it runs, if nobody has yet."""
    cdef const uint8_t *text = st.text
    if st.changes_known:
        return
    st.changes_known = True
    if st.kind == STATEMENT_PARSE:
        st.changes = sql_changes(
            text, strnlen(<const char *> text, st.n), t.params, s.params,
            flags_of(t, s),
        )
    else:
        st.changes = sql_changes_of_plan(
            text, st.n, t.params, s.params, flags_of(t, s)
        )
    st.custom_by_value = t.params.custom.by_value
    if st.custom_by_value:
        custom_in_literals(t.params.custom, text, st.n)
    st.custom = custom_take(t.params.custom)


cdef int put_discard_query(ServerSession *s, Output *out) noexcept nogil:
    """Straight before a Query that asks for a value of a sequence: have the server
    forget those of others, if they are there. -1 without memory.
    """
    if not sequences_late(s) or s.batch.open:
        return 0
    sequences_discarded(s)
    output_add(out, <const uint8_t *> DISCARD_QUERY, DISCARD_QUERY_BYTES)
    return requests_push(&s.requests, REQUEST_ALIGN)


cdef int put_discard_before(
    StatementTable *t, ServerSession *s, Output *out, Statement *st
) noexcept nogil:
    """As put_discard_query, where ``st`` is about to be bound, in a batch."""
    if not s.sequences.of_others or not is_watched(s) or s.replay.unproven:
        return 0
    look_once(t, s, st)
    if not (st.changes | (st.target.changes if st.target != NULL else 0)) & (
        CHANGE_SEQUENCES
    ):
        return 0
    sequences_asked(s)
    if not sequences_late(s):
        return 0
    sequences_discarded(s)
    if put_scratch(t, s, out, DISCARD_BYTES) == NULL:
        return -1
    output_add(out, <const uint8_t *> DISCARD_TEXT, DISCARD_BYTES)
    return run_scratch(t, s, out)


cdef void runs_statement(
    StatementTable *t, ServerSession *s, Statement *st
) noexcept nogil:
    """A prepared statement is bound; its text is looked at once.

    What an EXECUTE runs is another matter.
    """
    cdef const uint8_t *text = st.text
    if not is_watched(s):
        return
    look_once(t, s, st)
    custom_sent(s, st.custom)
    if st.changes:
        note(
            t, s, tell_databases(t, st.changes), text,
            strnlen(<const char *> text, st.n),
        )
    if st.target != NULL and not statement_executes(st):
        runs_statement(t, s, st.target)


cdef void runs_values(
    StatementTable *t, ServerSession *s, const uint8_t *message, size_t here,
    size_t length, size_t name_end,
) noexcept nogil:
    """The values of a Bind may be names of parameters that its client makes up.

    In:      message[0:here) from its type byte on; name_end: behind its names
    """
    if here > length:
        custom_in_values(t.params.custom, message, length + 1, name_end)
        custom_sent(s, custom_take(t.params.custom))
    else:
        note(NULL, s, CHANGE_FOR_GOOD, NULL, 0)


cdef void runs_unseen(ServerSession *s) noexcept nogil:
    """A text runs of which not all was here to be looked at: it can do anything."""
    if is_watched(s):
        note(NULL, s, CHANGE_MEANING | CHANGE_HIDDEN, NULL, 0)


cdef void runs_function(
    ServerSession *s, const uint8_t *body, size_t n
) noexcept nogil:
    """A FunctionCall, of whose body n bytes are here."""
    cdef uint32_t function = load_be32(body) if n >= 4 else 0
    cdef int i
    for i in range(LARGE_OBJECT_FUNCTIONS):
        if function == HARMLESS_FUNCTIONS[i]:
            return
    runs_unseen(s)
