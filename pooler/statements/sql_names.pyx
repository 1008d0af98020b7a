# SPDX-License-Identifier: MIT
"""Names in SQL; see ``sql_names.pxd``."""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, strlen

from pooler.statements.effects cimport forget_entries
from pooler.statements.install cimport put_quoted
from pooler.tables.params cimport ParamSet, ParamValue, params_context, params_index
from pooler.statements.sql_scan cimport (
    SQL_BACKSLASHES, SQL_SHIFTED, SQL_UTF8, sql_end,
)
from pooler.statements.sql_text cimport (
    SQL_DEALLOCATE, SQL_EXECUTE, SQL_FORGET_ALL, SQL_PREPARE, sql_first,
    sql_first_concerns, sql_is_stable,
)
from pooler.statements.outcomes cimport (
    REFUSED_CLIENT_BYTES, REFUSED_COUNT, REFUSED_NOT,
)
from pooler.tables.client_names cimport (
    ClientStatement, client_statement_find, client_statement_free,
    client_statement_link, client_statement_new, client_statement_unlink,
    client_statements_free, client_statements_new,
)
from pooler.tables.texts cimport (
    STABILITY_UNKNOWN, STABLE, STATEMENT_PARSE, STATEMENT_SQL, TARGET_DEALLOCATED,
    TARGET_EXECUTED, TARGET_NONE, TARGET_PREPARED, UNSTABLE, statement_hash,
    statement_intern, statement_ref, statement_unref,
)
from pooler.session.changes cimport meaning_is_unsure
from pooler.session.records cimport CHANGE_TRACKED

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

cdef enum:
    SHIFTED_COUNT = 7

cdef const char *LITERALS = b"standard_conforming_strings"
cdef const char *ENCODING = b"client_encoding"
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


cdef bint is_stable(Statement *st) noexcept nogil:
    """``sql_is_stable`` of its text, found out once."""
    if st.stability == STABILITY_UNKNOWN:
        st.stability = STABLE if sql_is_stable(st.text, st.n) else UNSTABLE
    return st.stability == STABLE


# ---------------------------------------------------------------- texts

cdef inline bint value_is(
    const ParamValue *value, const char *text, size_t n
) noexcept nogil:
    return value != NULL and value.n == n and memcmp(value.text, text, n) == 0


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
    cdef int literals = params_index(t.params, <const uint8_t *> LITERALS, 27)
    cdef int encoding = params_index(t.params, <const uint8_t *> ENCODING, 15)
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
    st = statement_intern(
        t, context, kind, text, n, statement_hash(context, kind, text, n), shared
    )
    if st != NULL and not shared:
        st.is_adrift = c.server.changes.pending & CHANGE_TRACKED != 0
    return st


cdef Statement *own_copy(StatementTable *t, const Statement *st) noexcept nogil:
    """The same text as a statement that nobody shares; the caller owns a reference."""
    cdef Statement *copy = statement_intern(
        t, st.context, st.kind, st.text, st.n, st.hash, False
    )
    if copy != NULL:
        copy.target = statement_ref(st.target)
        copy.target_use = st.target_use
        copy.is_adrift = st.is_adrift
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


# ---------------------------------------------------------------- Parse

cdef int note_query(
    StatementTable *t, ClientSession *c, const uint8_t *text, size_t n,
    Statement **target, SqlCommand *command, uint8_t *use,
) noexcept nogil:
    """What a Parse whose text is PREPARE, EXECUTE or DEALLOCATE has to do with names.

    ``use`` stays TARGET_NONE when its text can go as it is; otherwise the caller owns
    a reference to ``target``, whose name is to stand in the text.
    """
    cdef ClientStatement *entry
    cdef ClientStatement *made
    cdef uint8_t flags
    use[0] = TARGET_NONE
    if not sql_first_concerns(text, n):
        return 0
    flags = sql_flags(t, c)
    if not sql_first(text, n, flags, command) or command.verb == SQL_FORGET_ALL:
        return 0
    command.end = sql_end(text, n, command.name_end, flags)
    entry = client_statement_find(c.statements, command.name, command.name_n)
    if command.verb == SQL_EXECUTE and entry != NULL:
        target[0] = statement_ref(entry.statement)
        use[0] = TARGET_EXECUTED
    elif command.verb == SQL_DEALLOCATE and entry != NULL:
        target[0] = statement_ref(entry.statement)
        use[0] = TARGET_DEALLOCATED
        if not entry.pending:
            if c.server != NULL:
                forget_entries(c.server)
            client_statement_unlink(c.statements, entry)
            client_statement_free(t, entry)
    elif command.verb == SQL_PREPARE and entry != NULL:
        target[0] = statement_ref(entry.statement)  # it is there, so PREPARE fails
        use[0] = TARGET_EXECUTED
    elif command.verb == SQL_PREPARE:
        if over_limit(t, c.statements, command.end - command.name_end) != REFUSED_NOT:
            return 0
        target[0] = intern_sql(t, c, text, command)
        if target[0] == NULL:
            return 0
        made = client_statement_new(command.name, command.name_n, target[0])
        if made == NULL:
            return -1
        client_statement_link(c.statements, made)
        use[0] = TARGET_PREPARED
    if target[0] != NULL and target[0].target != NULL:
        # a statement that names another one can hardly be named itself
        statement_unref(t, target[0])
        target[0] = NULL
        use[0] = TARGET_NONE
    return 0


cdef Statement *intern_parse(
    StatementTable *t, ClientSession *c, const uint8_t *text, size_t n,
    size_t query_n, bint named,
) noexcept nogil:
    """The statement of a Parse, of which text[0:n) follows the name.

    ``query_n``: length of the SQL in it. One whose text is read anew each time
    ("now" as a literal) is shared with nobody when it has a name.
    """
    cdef SqlCommand command
    cdef Statement *target = NULL
    cdef Statement *st
    cdef ParamSet *context
    cdef uint64_t h
    cdef uint8_t use
    cdef uint8_t *copy
    cdef uint8_t *at
    cdef size_t size
    if note_query(t, c, text, query_n, &target, &command, &use) < 0:
        return NULL
    if use == TARGET_NONE:
        st = intern(t, c, STATEMENT_PARSE, text, n)
        if st != NULL and named and not st.is_private and not is_stable(st):
            context = st.context
            h = st.hash
            statement_unref(t, st)
            st = statement_intern(t, context, STATEMENT_PARSE, text, n, h, False)
        return st
    size = n - (command.name_end - command.name_start) + target.name_n + 2
    copy = <uint8_t *> malloc(size)
    if copy == NULL:
        statement_unref(t, target)
        return NULL
    memcpy(copy, text, command.name_start)
    at = copy + command.name_start
    at += put_quoted(at, target.name, target.name_n)
    memcpy(at, text + command.name_end, n - command.name_end)
    st = intern(t, c, STATEMENT_PARSE, copy, size)
    free(copy)
    if st == NULL or st.target != NULL:
        statement_unref(t, target)
    else:
        st.target = target
        st.target_use = use
    return st


cdef bint query_names(const uint8_t *text, size_t n) noexcept nogil:
    """Whether the text of a Parse, which is one command, is one of these."""
    cdef SqlCommand command
    return sql_first_concerns(text, n) and sql_first(text, n, SQL_UTF8, &command)
