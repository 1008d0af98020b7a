# SPDX-License-Identifier: MIT
"""Names in SQL; see ``sql_names.pxd``."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy, strlen

from pooler.statements.install cimport looks_like_ours, put_quoted
from pooler.tables.params cimport ParamSet, ParamValue, params_context
from pooler.statements.sql_scan cimport (
    SQL_BACKSLASHES, SQL_SHIFTED, SQL_UTF8, sql_end,
)
from pooler.statements.sql_text cimport (
    SQL_DEALLOCATE, SQL_FORGET_ALL, SQL_PREPARE, sql_first, sql_first_concerns,
    sql_is_stable,
)
from pooler.statements.outcomes cimport (
    REFUSED_CLIENT_BYTES, REFUSED_COUNT, REFUSED_NOT,
)
from pooler.tables.client_names cimport (
    ClientStatement, client_statement_find, client_statements_free,
    client_statements_new,
)
from pooler.tables.texts cimport (
    STABILITY_UNKNOWN, STABLE, STATEMENT_PARSE, STATEMENT_SQL, TARGET_DEALLOCATED,
    TARGET_EXECUTED, TARGET_FORGOTTEN, TARGET_MISSING, TARGET_NONE, TARGET_PREPARED,
    UNSTABLE, statement_executes, statement_intern, statement_known, statement_ref,
    statement_unref,
)
from pooler.session.changes cimport meaning_is_unsure
from pooler.session.records cimport CHANGE_HIDDEN, CHANGE_TRACKED

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

cdef enum:
    SHIFTED_COUNT = 7

cdef const char *NO_TEXT = b"\0\0\0"  # of a Parse, and no types of parameters
# Client encodings in which a byte of ASCII may be half of a character, by how their
# names begin.
cdef const char *SHIFTED[SHIFTED_COUNT]
SHIFTED[:] = [
    b"SJIS", b"SHIFT_JIS_2004", b"BIG5", b"GBK", b"GB18030", b"UHC", b"JOHAB",
]


cdef ClientStatements *names_of(ClientSession *c) noexcept nogil:
    """The client's names, made when it has none yet; NULL without memory."""
    if c.statements == NULL:
        c.statements = client_statements_new()
    return c.statements


cdef void forget_names(StatementTable *t, ClientSession *c) noexcept nogil:
    """The client goes, and its names with it."""
    client_statements_free(t, c.statements)
    c.statements = NULL


cdef inline bint value_is(
    const ParamValue *value, const char *text, size_t n
) noexcept nogil:
    return value != NULL and value.n == n and memcmp(value.text, text, n) == 0


cdef bint is_warned_of(const StatementTable *t, const Statement *st) noexcept nogil:
    """Whether PostgreSQL may warn each time that it reads a text: of a backslash in a
    literal, if standard_conforming_strings is off (escape_string_warning).
    """
    cdef int literals = t.params.literals
    return (
        literals >= 0 and value_is(st.context.value[literals], b"off", 3)
        and memchr(st.text, c"\\", st.n) != NULL
    )


cdef bint is_stable(const StatementTable *t, Statement *st) noexcept nogil:
    """Whether nothing shows that its text is not read anew; found out once."""
    if st.stability == STABILITY_UNKNOWN:
        st.stability = (
            STABLE if sql_is_stable(st.text, st.n) and not is_warned_of(t, st)
            else UNSTABLE
        )
    return st.stability == STABLE


# ---------------------------------------------------------------- texts

cdef bint is_shifted(const ParamValue *encoding) noexcept nogil:
    """Whether the second byte of a character may be one of ASCII."""
    cdef const char *name = <const char *> encoding.text
    cdef int i
    for i in range(SHIFTED_COUNT):
        if strncasecmp(name, SHIFTED[i], strlen(SHIFTED[i])) == 0:
            return True
    return False


cdef uint8_t sql_flags(const StatementTable *t, const ClientSession *c) noexcept nogil:
    """How a text of this client is read (SqlFlag): PostgreSQL's defaults, if unknown.

    It reads a whole Query before it runs any of it, so what counts is the value at its
    beginning.
    """
    cdef int literals = t.params.literals
    cdef int encoding = t.params.encoding
    cdef uint8_t flags = 0
    if literals >= 0 and value_is(c.params.value[literals], b"off", 3):
        flags |= SQL_BACKSLASHES
    if encoding < 0 or c.params.value[encoding] == NULL or (
        value_is(c.params.value[encoding], b"UTF8", 4)
    ):
        flags |= SQL_UTF8
    elif is_shifted(c.params.value[encoding]):
        flags |= SQL_SHIFTED
    return flags


cdef Refusal over_limit(
    const StatementTable *t, const ClientStatements *names, size_t n
) noexcept nogil:
    if t.max_client_count and names.count >= t.max_client_count:
        return REFUSED_COUNT
    if t.max_client_bytes and names.bytes + n > t.max_client_bytes:
        return REFUSED_CLIENT_BYTES
    return REFUSED_NOT


cdef inline bint under_way(const ClientSession *c) noexcept nogil:
    """Whether a parameter is being set that follows the client."""
    return c.server != NULL and c.server.changes.pending & CHANGE_TRACKED != 0


cdef Statement *intern(
    StatementTable *t, ClientSession *c, uint8_t kind, const uint8_t *text, size_t n
) noexcept nogil:
    """The statement of this text for this client; the caller owns a reference.

    While nobody can say what texts mean on its server, it is this client's own. While
    a parameter is under way that follows its client, the text is not known to be read
    under what the client has set (``is_adrift``).
    """
    cdef ParamSet *context = params_context(t.params, c.params)
    cdef bint shared = c.server == NULL or not meaning_is_unsure(c.server)
    cdef Statement *st
    if context == NULL:
        return NULL
    if shared:
        return statement_known(t, context, kind, text, n)
    st = statement_intern(t, context, kind, text, n, 0, False)
    if st != NULL:
        st.is_adrift = under_way(c)
        st.is_unheard = st.is_adrift
    return st


cdef Statement *own_copy(StatementTable *t, const Statement *st) noexcept nogil:
    """The same text as a statement that nobody shares; the caller owns a reference."""
    cdef Statement *copy = statement_intern(
        t, st.context, st.kind, st.text, st.n, st.hash, False
    )
    if copy == NULL:
        return NULL
    copy.target = statement_ref(st.target)
    copy.target_use = st.target_use
    copy.is_adrift = st.is_adrift
    copy.is_unheard = st.is_unheard
    copy.is_lost = st.is_lost
    if st.called != NULL:
        copy.called = <uint8_t *> malloc(st.called_n + 1)
        if copy.called == NULL:
            statement_unref(t, copy)
            return NULL
        memcpy(copy.called, st.called, st.called_n)
        copy.called_n = st.called_n
        copy.moved_from = st.moved_from
        copy.moved_by = st.moved_by
    return copy


cdef Statement *intern_sql(
    StatementTable *t, ClientSession *c, const uint8_t *text,
    const SqlCommand *command,
) noexcept nogil:
    """The statement of a PREPARE; its text ends with a terminator of its own."""
    cdef size_t n = command.end - command.name_end
    cdef uint8_t *copy = <uint8_t *> malloc(n + 1)
    cdef Statement *st
    if copy == NULL:
        return NULL
    memcpy(copy, text + command.name_end, n)
    copy[n] = 0
    st = intern(t, c, STATEMENT_SQL, copy, n + 1)
    free(copy)
    return st


cdef uint32_t count_characters(
    const uint8_t *text, size_t n, uint8_t flags
) noexcept nogil:
    """As PostgreSQL counts the position of an error."""
    cdef uint32_t count = 0
    cdef size_t at = 0
    if flags & SQL_UTF8:
        for at in range(n):
            count += text[at] & 0xC0 != 0x80
        return count
    if not flags & SQL_SHIFTED:
        return <uint32_t> n
    while at < n:
        at += 2 if text[at] >= 0x80 else 1
        count += 1
    return count


# ---------------------------------------------------------------- Parse

cdef Statement *intern_own(
    StatementTable *t, ClientSession *c, uint8_t kind, const uint8_t *text, size_t n
) noexcept nogil:
    """As ``intern``, but nobody shares it."""
    cdef ParamSet *context = params_context(t.params, c.params)
    cdef Statement *st
    if context == NULL:
        return NULL
    st = statement_intern(t, context, kind, text, n, 0, False)
    if st != NULL:
        st.is_adrift = c.server != NULL and meaning_is_unsure(c.server)
    return st


cdef Statement *named_by(
    StatementTable *t, ClientSession *c, const uint8_t *text, size_t n,
    SqlCommand *command, uint8_t *use,
) noexcept nogil:
    """The statement whose name is to stand in a text that is one of these commands.

    NULL with TARGET_NONE or TARGET_FORGOTTEN: the text can go as it is; NULL with
    another use: no memory. The caller owns a reference.
    """
    cdef Statement *target
    cdef Statement *shared
    cdef uint8_t flags
    use[0] = TARGET_NONE
    if not sql_first_concerns(text, n):
        return NULL
    flags = sql_flags(t, c)
    if not sql_first(text, n, flags, command):
        return NULL
    if command.verb == SQL_FORGET_ALL:
        use[0] = TARGET_FORGOTTEN
        return NULL
    command.end = sql_end(text, n, command.name_end, flags)
    if command.verb == SQL_DEALLOCATE:
        use[0] = TARGET_DEALLOCATED
        return intern_own(t, c, STATEMENT_PARSE, <const uint8_t *> NO_TEXT, 3)
    if command.verb == SQL_PREPARE:
        use[0] = TARGET_PREPARED
        shared = intern_sql(t, c, text, command)
        if shared == NULL:
            return NULL
        target = intern_own(t, c, STATEMENT_SQL, shared.text, shared.n)
        statement_unref(t, shared)
        return target
    return executed_by(t, c, command, use)


cdef Statement *executed_by(
    StatementTable *t, ClientSession *c, const SqlCommand *command, uint8_t *use
) noexcept nogil:
    """As ``named_by``, for an EXECUTE."""
    cdef ClientStatement *entry = client_statement_find(
        c.statements, command.name, command.name_n
    )
    if entry != NULL and entry.statement.target == NULL:
        use[0] = TARGET_EXECUTED
        return statement_ref(entry.statement)
    if entry == NULL and hides_names(c) and (
        not looks_like_ours(t, command.name, command.name_n)
    ):
        return NULL
    use[0] = TARGET_MISSING
    return intern_own(t, c, STATEMENT_PARSE, <const uint8_t *> NO_TEXT, 3)


cdef inline bint hides_names(const ClientSession *c) noexcept nogil:
    """Whether something has run for a client that may have prepared what nobody saw."""
    return c.server != NULL and CHANGE_HIDDEN & (
        c.server.changes.xact | c.server.changes.left
    ) != 0


cdef bint call_target(
    Statement *st, const uint8_t *text, const SqlCommand *command, uint8_t flags
) noexcept nogil:
    """Note what the client calls the target; False without memory."""
    cdef size_t written_n = command.name_end - command.name_start
    st.called = <uint8_t *> malloc(command.name_n + 1)
    if st.called == NULL:
        return False
    memcpy(st.called, command.name, command.name_n)
    st.called_n = command.name_n
    st.moved_from = (
        count_characters(text, command.name_start, flags) + st.target.name_n + 2
    )
    st.moved_by = <int32_t> st.target.name_n + 2 - <int32_t> count_characters(
        text + command.name_start, written_n, flags
    )
    return True


cdef Statement *intern_parse(
    StatementTable *t, ClientSession *c, const uint8_t *text, size_t n,
    size_t query_n, bint named,
) noexcept nogil:
    """The statement of a Parse, of which text[0:n) follows the name.

    ``query_n``: length of the SQL in it. One whose text is read anew each time
    ("now" as a literal) is shared with nobody when it has a name.
    """
    cdef SqlCommand command
    cdef Statement *target
    cdef Statement *st
    cdef ParamSet *context
    cdef uint64_t h
    cdef uint8_t use
    target = named_by(t, c, text, query_n, &command, &use)
    if use == TARGET_NONE or use == TARGET_FORGOTTEN:
        st = intern(t, c, STATEMENT_PARSE, text, n)
        if st != NULL and named and not st.is_private and not is_stable(t, st):
            context = st.context
            h = st.hash
            statement_unref(t, st)
            st = statement_intern(t, context, STATEMENT_PARSE, text, n, h, False)
        if st != NULL:
            st.target_use = use
        return st
    if target == NULL:
        return NULL
    st = put_target(t, c, text, n, target, use, &command)
    statement_unref(t, target)
    return st


cdef Statement *put_target(
    StatementTable *t, ClientSession *c, const uint8_t *text, size_t n,
    Statement *target, uint8_t use, const SqlCommand *command,
) noexcept nogil:
    """The statement of a Parse with the target's name in its text.

    The caller owns a reference; NULL without memory.
    """
    cdef size_t size = (
        n - (command.name_end - command.name_start) + target.name_n + 2
    )
    cdef uint8_t *copy = <uint8_t *> malloc(size)
    cdef uint8_t *at
    cdef Statement *st
    if copy == NULL:
        return NULL
    memcpy(copy, text, command.name_start)
    at = copy + command.name_start
    at += put_quoted(at, target.name, target.name_n)
    memcpy(at, text + command.name_end, n - command.name_end)
    st = intern_own(t, c, STATEMENT_PARSE, copy, size)
    free(copy)
    if st == NULL:
        return NULL
    st.target = statement_ref(target)
    st.target_use = use
    if statement_executes(st):  # its text is known to be read under what is set here
        st.is_adrift = under_way(c)
    if not call_target(st, text, command, sql_flags(t, c)):
        statement_unref(t, st)
        return NULL
    return st


cdef bint query_names(const uint8_t *text, size_t n) noexcept nogil:
    """Whether the text of a Parse, which is one command, is one of these."""
    cdef SqlCommand command
    return sql_first_concerns(text, n) and sql_first(text, n, SQL_UTF8, &command)


cdef bint query_has_name(const uint8_t *text, size_t n) noexcept nogil:
    """As ``query_names``, but for DEALLOCATE ALL and DISCARD ALL."""
    cdef SqlCommand command
    return (
        sql_first_concerns(text, n) and sql_first(text, n, SQL_UTF8, &command)
        and command.verb != SQL_FORGET_ALL
    )
