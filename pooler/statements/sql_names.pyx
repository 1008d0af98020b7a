# SPDX-License-Identifier: MIT
"""Names in SQL; see ``sql_names.pxd``."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from pooler.wire.buffers cimport Output, output_room
from pooler.statements.effects cimport forget_entries, push_with_effect
from pooler.statements.install cimport (
    OWN_NAME_BYTES, end_own_batch, ensure, ensure_since, looks_like_ours, make_room,
    note_installed, own_name, put_quoted,
)
from pooler.tables.params cimport ParamSet, params_context
from pooler.statements.replay cimport replay_arm_query
from pooler.session.requests cimport REQUEST_SQL, batch_number, requests_push
from pooler.statements.sql_text cimport (
    SQL_DEALLOCATE, SQL_EXECUTE, SQL_FORGET_ALL, SQL_PREPARE, sql_concerns,
    sql_is_stable, sql_next,
)
from pooler.statements.outcomes cimport (
    PREPARE_DONE, PREPARE_FORWARD, PREPARE_NO_MEMORY, REFUSED_CLIENT_BYTES,
    REFUSED_COUNT, REFUSED_MEMORY, REFUSED_NOT,
)
from pooler.tables.client_names cimport (
    ClientStatement, client_statement_find, client_statement_free,
    client_statement_link, client_statement_new, client_statement_unlink,
    client_statements_free, client_statements_new,
)
from pooler.tables.effect_queue cimport (
    EFFECT_ADDS_NAME, EFFECT_DROPS_NAME, EFFECT_DUPLICATE, EFFECT_REFUSED, Effect,
)
from pooler.tables.server_statements cimport (
    ServerStatement, server_statement_closing, server_statement_find,
)
from pooler.tables.texts cimport (
    STABILITY_UNKNOWN, STABLE, STATEMENT_PARSE, STATEMENT_SQL, TARGET_DEALLOCATED,
    TARGET_EXECUTED, TARGET_NONE, TARGET_PREPARED, UNSTABLE, statement_hash,
    statement_intern, statement_ref, statement_unref,
)
from pooler._wire cimport HEADER_BYTES, put_header
from pooler.session.batch cimport hold_until_settled
from pooler.session.changes cimport meaning_is_unsure
from pooler.session.counters cimport count_bind, count_client_parse, count_server_parse
from pooler.session.tracking cimport prepare_sent

cdef const char *REFUSED_QUERY = b"EXECUTE "


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


# ---------------------------------------------------------------- in a Parse

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

    While nobody can say what texts mean on its server, it is this client's own.
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
        st.is_adrift = True
    return st


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
    cdef size_t pos = 0
    cdef ClientStatement *entry
    cdef ClientStatement *made
    use[0] = TARGET_NONE
    if not sql_concerns(text, n) or not sql_next(text, n, &pos, command):
        return 0
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


# ---------------------------------------------------------------- in a Query

cdef bint query_names(const uint8_t *text, size_t n) noexcept nogil:
    """Whether the first statement of a Query, which may be cut, is one of these."""
    cdef SqlCommand command
    cdef size_t pos = 0
    return sql_concerns(text, n) and sql_next(text, n, &pos, &command)


cdef void renaming_begin(Renaming *r) noexcept nogil:
    """Nothing is renamed yet."""
    r.count = r.doubtful_count = 0
    r.alone = False
    r.executed = NULL
    memset(&r.effect, 0, sizeof(Effect))


cdef int add_rename(
    Renaming *r, const SqlCommand *command, const char *name, size_t n
) noexcept nogil:
    """A name of ours stands in quotes: what is beside it may have no blank between."""
    cdef Rename *row = &r.rows[r.count]
    row.start = command.name_start
    row.end = command.name_end
    row.name[0] = row.name[n + 1] = c'"'
    memcpy(row.name + 1, name, n)
    row.n = n + 2
    r.count += 1
    return 0


cdef void rename_missing(Renaming *r, const SqlCommand *command) noexcept nogil:
    """An unknown name that could be one of ours becomes one that is not there."""
    cdef Rename *row = &r.rows[r.count]
    cdef size_t i
    row.start = command.name_start
    row.end = command.name_end
    row.name[0] = c'"'
    row.n = 1
    for i in range(command.name_n):
        if command.name[i] == c'"':
            row.name[row.n] = c'"'
            row.n += 1
        row.name[row.n] = command.name[i]
        row.n += 1
    memcpy(row.name + row.n, b'?"', 2)
    row.n += 2
    r.count += 1


cdef int query_prepare(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *text, const SqlCommand *command, Renaming *r,
) noexcept nogil:
    cdef ClientStatement *entry = client_statement_find(
        c.statements, command.name, command.name_n
    )
    cdef ServerStatement *there
    cdef Statement *st
    cdef Refusal why
    if entry != NULL:  # the server has it under our name, and says that it has
        st = entry.statement
        if ensure(t, s, out, st, True) < 0:
            return -1
        if r.alone:
            r.effect.entry = client_statement_new(entry.name, entry.name_n, st)
            if r.effect.entry == NULL:
                return -1
            r.effect.flags = EFFECT_DUPLICATE
            r.effect.installed = statement_ref(st)
        prepare_sent(s)
        return add_rename(r, command, st.name, st.name_n)
    if names_of(c) == NULL:
        return -1
    why = over_limit(t, c.statements, command.end - command.name_end)
    st = intern_sql(t, c, text, command) if why == REFUSED_NOT else NULL
    if st == NULL:
        r.effect.flags = EFFECT_REFUSED
        r.effect.refusal = <uint8_t> (why if why != REFUSED_NOT else REFUSED_MEMORY)
        return 0
    entry = client_statement_new(command.name, command.name_n, st)
    if entry == NULL:
        return -1
    client_statement_link(c.statements, entry)
    if make_room(t, s, out, st) < 0 or end_own_batch(s, out) < 0:
        return -1
    there = note_installed(t, s, st)
    if there == NULL:
        return -1
    prepare_sent(s)
    count_client_parse(s.pool)
    count_server_parse(s.pool)
    add_rename(r, command, st.name, st.name_n)
    if r.alone:
        entry.pending = True
        r.effect.entry = entry
        r.effect.flags = EFFECT_ADDS_NAME
        r.effect.installed = st
    else:
        r.doubtful[r.doubtful_count] = there
        r.doubtful_count += 1
        statement_unref(t, st)
    return 0


cdef int query_execute(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const SqlCommand *command, Renaming *r,
) noexcept nogil:
    cdef ClientStatement *entry = client_statement_find(
        c.statements, command.name, command.name_n
    )
    if entry == NULL:
        if looks_like_ours(t, command.name, command.name_n):
            rename_missing(r, command)
        return 0
    if ensure_since(t, s, out, entry.statement, True, entry.born) < 0:
        return -1
    count_bind(s.pool)
    if r.alone:
        r.executed = entry.statement
        r.executed_end = command.end
    return add_rename(r, command, entry.statement.name, entry.statement.name_n)


cdef int query_deallocate(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const SqlCommand *command, Renaming *r,
) noexcept nogil:
    """The server really drops the statement: it is its answer that counts."""
    cdef ClientStatement *entry = client_statement_find(
        c.statements, command.name, command.name_n
    )
    cdef ServerStatement *there
    cdef Statement *st
    if entry == NULL:
        if looks_like_ours(t, command.name, command.name_n):
            rename_missing(r, command)
        return 0
    st = entry.statement
    if ensure(t, s, out, st, True) < 0:
        return -1
    add_rename(r, command, st.name, st.name_n)
    there = server_statement_find(&s.statements, st)
    if r.alone:
        r.effect.removed = statement_ref(st)
        server_statement_closing(&s.statements, there)
        client_statement_unlink(c.statements, entry)
        r.effect.entry = entry
        r.effect.flags = EFFECT_DROPS_NAME
    else:
        r.doubtful[r.doubtful_count] = there
        r.doubtful_count += 1
        if not entry.pending:
            forget_entries(s)
            client_statement_unlink(c.statements, entry)
            client_statement_free(t, entry)
    return 0


cdef void doubt_renamed(ServerSession *s, Renaming *r) noexcept nogil:
    """Nobody will be able to say whether the server has these statements."""
    cdef int i
    for i in range(r.doubtful_count):
        r.doubtful[i].generation = s.statements.generation - 1


cdef bint ends_with(const uint8_t *text, size_t n, size_t at) noexcept nogil:
    """Whether nothing but blanks and semicolons stands from ``at`` on."""
    while at < n and (text[at] <= c" " or text[at] == c";"):
        at += 1
    return at == n


cdef int read_query(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *text, size_t n, Renaming *r,
) noexcept nogil:
    """Carry out what the commands of a Query do to names, and collect the renames."""
    cdef SqlCommand command
    cdef size_t pos = 0
    cdef int commands = 0
    while sql_next(text, n, &pos, &command):
        commands += 1
    r.alone = commands == 1 and ends_with(text, n, pos)
    pos = 0
    while r.count < RENAMES_MAX and sql_next(text, n, &pos, &command):
        if command.verb == SQL_PREPARE:
            if query_prepare(t, c, s, out, text, &command, r) < 0:
                return -1
        elif command.verb == SQL_EXECUTE:
            if query_execute(t, c, s, out, &command, r) < 0:
                return -1
        elif command.verb == SQL_DEALLOCATE:
            if query_deallocate(t, c, s, out, &command, r) < 0:
                return -1
        elif command.verb == SQL_FORGET_ALL:
            hold_until_settled(c)
    doubt_renamed(s, r)
    return 0


cdef int put_query(
    Output *out, const uint8_t *text, size_t n, const Renaming *r
) noexcept nogil:
    """The Query with all its names replaced."""
    cdef size_t size = n
    cdef size_t at = 0
    cdef int i
    cdef uint8_t *room
    for i in range(r.count):
        size += r.rows[i].n
        size -= r.rows[i].end - r.rows[i].start
    room = output_room(out, HEADER_BYTES + size + 1)
    if room == NULL:
        return -1
    room += put_header(room, c"Q", <uint32_t> (4 + size + 1))
    for i in range(r.count):
        memcpy(room, text + at, r.rows[i].start - at)
        room += r.rows[i].start - at
        memcpy(room, r.rows[i].name, r.rows[i].n)
        room += r.rows[i].n
        at = r.rows[i].end
    memcpy(room, text + at, n - at)
    room[n - at] = 0
    return 0


cdef int queue_renamed(ServerSession *s, const Renaming *r) noexcept nogil:
    """Queue a Query, with its effect if it has one; -1 without memory."""
    cdef Effect *effect
    if r.effect.flags == 0:
        return requests_push(&s.requests, c"Q")
    effect = push_with_effect(s, REQUEST_SQL)
    if effect == NULL:
        return -1
    effect[0] = r.effect
    if r.count:
        effect.moved_from = <uint32_t> r.rows[0].start
        effect.moved_by = <int32_t> r.rows[0].n - <int32_t> (
            r.rows[0].end - r.rows[0].start
        )
    return 0


cdef int put_refused_query(const StatementTable *t, Output *out) noexcept nogil:
    """A Query that PostgreSQL fails, in the place of one that may not be."""
    cdef Renaming instead
    cdef char name[OWN_NAME_BYTES]
    cdef SqlCommand command
    instead.count = 0
    command.name_start = command.name_end = 8  # behind "EXECUTE "
    add_rename(&instead, &command, name, own_name(t, b"refused", name))
    return put_query(out, <const uint8_t *> REFUSED_QUERY, 8, &instead)


cdef PrepareResult rename_query(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *text, size_t n,
) noexcept nogil:
    """A Query that is all here: text[0:n) is its SQL. FORWARD: it has no names of ours.

    What the server lacks is prepared in front of it, in a batch that ends with a Sync,
    or by a Query of its own.
    """
    cdef Renaming renaming
    cdef int code
    cdef bint quiet = s.requests.closing_count == 0  # before anything of ours
    if not sql_concerns(text, n):
        return PREPARE_FORWARD
    renaming_begin(&renaming)
    if read_query(t, c, s, out, text, n, &renaming) < 0:
        return PREPARE_NO_MEMORY
    if renaming.count == 0 and renaming.effect.flags == 0:
        return PREPARE_FORWARD
    if end_own_batch(s, out) < 0:
        return PREPARE_NO_MEMORY
    if c.statements != NULL:
        c.statements.names_batch = batch_number(&s.requests)
    if quiet and renaming.executed != NULL and (
        ends_with(text, n, renaming.executed_end)
    ):
        replay_arm_query(
            t, s, out, renaming.executed, text + renaming.rows[0].end,
            renaming.executed_end - renaming.rows[0].end,
        )
    if queue_renamed(s, &renaming) < 0:
        return PREPARE_NO_MEMORY
    if renaming.effect.flags & EFFECT_REFUSED:
        code = put_refused_query(t, out)
    else:
        code = put_query(out, text, n, &renaming)
    return PREPARE_DONE if code == 0 else PREPARE_NO_MEMORY
