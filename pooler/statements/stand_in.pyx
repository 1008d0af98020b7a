# SPDX-License-Identifier: MIT
"""Empty texts that stand in for statements; see ``stand_in.pxd``."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport strlen

from pooler.wire.buffers cimport Output, output_add
from pooler.session.batch cimport transaction_has_failed
from pooler.session.records cimport ClientSession, ServerSession, server_has
from pooler.session.requests cimport REQUEST_SKIP
from pooler.statements.effects cimport push_with_effect
from pooler.statements.install cimport make_room, note_installed, put_named
from pooler.statements.peek cimport bind_values, load_be16, types_are_given
from pooler.statements.sql_scan cimport is_word, skip_blank, skip_word
from pooler.tables.client_names cimport ClientStatement
from pooler.tables.server_statements cimport ServerStatement, server_statement_find
from pooler.tables.shapes cimport SHAPE_OF_NOTHING
from pooler.tables.texts cimport (
    STATEMENT_PARSE, Statement, StatementTable, schema_count,
)
from pooler._wire cimport Found

cdef enum:
    ENDING_COUNT = 5

# What begins a command that ends a transaction, also one that has failed.
cdef const char *ENDINGS[ENDING_COUNT]
ENDINGS[:] = [b"commit", b"end", b"rollback", b"abort", b"prepare"]
cdef const uint8_t *NO_TYPES = <const uint8_t *> b"\0\0"


cdef bint may_end_transaction(const Statement *st) noexcept nogil:
    """Whether PostgreSQL may carry a statement out in a transaction that has failed."""
    cdef size_t at
    cdef size_t end
    cdef int i
    if st.kind != STATEMENT_PARSE:
        return False
    at = skip_blank(st.text, st.n, 0)
    end = skip_word(st.text, st.n, at, 0)
    for i in range(ENDING_COUNT):
        if is_word(st.text, at, end, ENDINGS[i]):
            return True
    return end == at  # perhaps nothing at all


cdef const uint8_t *types_of(
    const StatementTable *t, const Statement *st, const ClientStatement *entry
) noexcept nogil:
    """Count and types of a statement's parameters, as in a Parse; NULL: not known.

    Those that its client gave or was told; or that others were told, and no command has
    been seen since that could have given this client others.
    """
    cdef size_t at
    if st.kind == STATEMENT_PARSE:
        at = strlen(<const char *> st.text) + 1
        if (
            types_are_given(st.text, st.n, at - 1) and at + 2 <= st.n
            and at + 2 + 4 * <size_t> load_be16(st.text + at) <= st.n
        ):
            return st.text + at
    if st.told == NULL:
        return NULL
    if entry != NULL and entry.told_parameters != 0:
        return st.told.types if entry.told_parameters == st.told.parameters else NULL
    return st.told.types if st.told.at == schema_count(t) else NULL


cdef inline bint is_there(
    const ServerSession *s, const Statement *st, uint64_t born
) noexcept nogil:
    cdef ServerStatement *there = server_statement_find(&s.statements, st)
    return server_has(s, there) and there.parse_number >= born


cdef const uint8_t *stand_in_for_bind(
    const StatementTable *t, ServerSession *s, Statement *st,
    const ClientStatement *entry, uint64_t born, int32_t values,
) noexcept nogil:
    """The parameters of what may stand in for a statement that is bound.

    In:      entry: the client's name for it, or NULL; values: how many the Bind has,
             -1 if that is not known
    Out:     NULL: nothing, the statement itself is needed
    """
    cdef const uint8_t *types
    cdef bint failed = transaction_has_failed(s)
    if (values < 0 and not failed) or is_there(s, st, born):
        return NULL
    types = types_of(t, st, entry)
    if types == NULL:
        return NULL
    if values >= 0 and load_be16(types) != <uint32_t> values:
        return types
    return types if failed and not may_end_transaction(st) else NULL


cdef const uint8_t *stand_in_for_describe(
    const StatementTable *t, ServerSession *s, Statement *st,
    const ClientStatement *entry, uint64_t born,
) noexcept nogil:
    """As ``stand_in_for_bind``, for a Describe: what returns no rows never will."""
    if st.told == NULL or st.told.shape != SHAPE_OF_NOTHING or is_there(s, st, born):
        return NULL
    return types_of(t, st, entry)


cdef const uint8_t *stand_in_for(
    const StatementTable *t, const ClientSession *c, ServerSession *s, Statement *st,
    const ClientStatement *entry, const Found *found, const uint8_t *message,
    size_t here, size_t name_end,
) noexcept nogil:
    """The parameters of what may stand in for a statement; NULL: it is needed itself.

    In:      entry: the client's name for it, NULL: it is its unnamed one;
             message[0:here): a Bind or a Describe of it, whose name ends at name_end
    """
    cdef uint64_t born = entry.born if entry != NULL else c.statements.unnamed_born
    if st.target != NULL:
        return NULL
    if found.code == c"D":
        return stand_in_for_describe(t, s, st, entry, born)
    return stand_in_for_bind(
        t, s, st, entry, born, bind_values(message, here, found.length, name_end)
    )


cdef ServerStatement *put_stand_in(
    StatementTable *t, ServerSession *s, Output *out, Statement *st,
    const uint8_t *types,
) noexcept nogil:
    """Have the server know the name of a statement, and no more of it than ``types``.

    In:      types: count and types of its parameters, NULL: it needs none
    Out:     its entry, of which nobody can say what it is; NULL without memory
    """
    cdef ServerStatement *entry
    cdef size_t n
    if types == NULL:
        types = NO_TYPES
    n = 2 + 4 * <size_t> load_be16(types)
    if make_room(t, s, out, st) < 0 or push_with_effect(s, c"P" | REQUEST_SKIP) == NULL:
        return NULL
    entry = note_installed(t, s, st)
    if entry == NULL or put_named(
        out, c"P", NULL, 0, st.name, st.name_n, n + 1
    ) < 0:
        return NULL
    output_add(out, <const uint8_t *> b"\0", 1)  # an empty text
    output_add(out, types, n)
    entry.generation = s.statements.generation - 1
    return entry if not out.failed else NULL
