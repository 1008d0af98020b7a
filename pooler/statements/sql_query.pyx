# SPDX-License-Identifier: MIT
"""Names in a Query; see ``sql_query.pxd``."""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset, strlen

from pooler.wire.buffers cimport output_add, output_room
from pooler.statements.effects cimport push_with_effect, steps_undo
from pooler.statements.guard cimport guard_begin, guard_end
from pooler.statements.install cimport (
    OWN_NAME_BYTES, end_own_batch, ensure_since, looks_like_ours, make_room,
    meaning_is_lost, note_installed, own_name, put_quoted, put_taken, taken_name,
)
from pooler.statements.long_name cimport have_name_noticed
from pooler.statements.replay cimport replay_arm_query
from pooler.statements.targets cimport (
    ensure_in_query, target_in_query, target_meaning,
)
from pooler.session.records cimport CHANGE_TRACKED, server_has
from pooler.session.requests cimport (
    REQUEST_SQL, batch_number, requests_may_skip, requests_push,
)
from pooler.statements.sql_changes cimport sql_changes
from pooler.statements.sql_names cimport (
    count_characters, intern_sql, names_of, over_limit, own_copy, sql_flags,
)
from pooler.statements.put_back cimport Backs, backs_add, backs_find
from pooler.statements.runs cimport runs_statement
from pooler.statements.stand_in cimport put_stand_in
from pooler.statements.sql_text cimport (
    SQL_DEALLOCATE, SQL_EXECUTE, SQL_FORGET_ALL, SQL_PREPARE, SqlText, sql_begin,
    sql_concerns, sql_next,
)
from pooler.statements.outcomes cimport (
    PREPARE_DONE, PREPARE_FORWARD, PREPARE_NO_MEMORY, PREPARE_WAIT, REFUSED_MEMORY,
    REFUSED_NOT, Refusal,
)
from pooler.tables.client_names cimport (
    ClientStatement, client_statement_find, client_statement_link,
    client_statement_new, client_statement_unlink, client_statements_take,
)
from pooler.tables.custom_names cimport custom_take
from pooler.tables.effect_queue cimport (
    EFFECT_ADDS_NAME, EFFECT_DROPS_NAME, EFFECT_DUPLICATE, EFFECT_EXECUTES,
    EFFECT_LIMITED, EFFECT_REFUSED,
)
from pooler.tables.query_names cimport (
    NameStep, RenamedName, STEP_ADDS, STEP_DROPS, STEP_FORGETS, query_names_begin,
    query_names_bytes, query_names_end, query_names_keep, query_names_row,
    query_names_step,
)
from pooler.tables.server_statements cimport (
    ServerStatement, server_statement_closing, server_statement_find,
    server_statement_named, server_statements_have_read, server_statements_read,
)
from pooler.tables.texts cimport (
    statement_executes, statement_ref, statement_unref, statement_used,
)
from pooler._wire cimport HEADER_BYTES, put_header
from pooler.session.batch cimport hold_until_settled, transaction_has_failed
from pooler.session.changes cimport is_resetting
from pooler.session.counters cimport count_bind, count_client_parse, count_server_parse
from pooler.session.tracking cimport prepare_sent

cdef const char *REFUSED_WORD = b"EXECUTE "
cdef const char *FLUSH = b"H\0\0\0\4"


# ---------------------------------------------------------------- what is replaced

cdef void renaming_begin(
    Renaming *r, ServerSession *s, uint8_t flags
) noexcept nogil:
    """Nothing is renamed yet; ``renaming_end`` has to follow."""
    query_names_begin(&r.names, &r.room)
    r.flags = flags
    r.alone = r.fails = r.forgets = r.guarded = False
    r.in_block = s.xact_status == c"T" and not s.batch.open and (
        s.requests.head == s.requests.tail
    )
    r.executed = NULL
    memset(&r.effect, 0, sizeof(Effect))
    server_statements_read(&s.statements)


cdef void renaming_end(
    StatementTable *t, ServerSession *s, Renaming *r
) noexcept nogil:
    """The Query is queued, and its effect has what it needs; or it is given up."""
    server_statements_have_read(&s.statements)
    steps_undo(t, s, &r.names)
    query_names_end(&r.names, &r.room)


cdef int add_written(
    Renaming *r, const SqlCommand *command, const uint8_t *name, size_t n
) noexcept nogil:
    """``name`` is as it will stand in the text, quotes included; -1 without memory."""
    cdef RenamedName *row = query_names_row(&r.names, &r.room)
    cdef uint8_t *room = query_names_bytes(&r.names, &r.room, n + command.name_n)
    if row == NULL or room == NULL:
        return -1
    memcpy(room, name, n)
    memcpy(room + n, command.name, command.name_n)
    row.start = <uint32_t> command.name_start
    row.end = <uint32_t> command.name_end
    row.name_at = r.names.byte_n
    row.name_n = <uint32_t> n
    row.extra = 0
    row.shown_at = row.name_at + row.name_n
    row.shown_n = command.name_n
    row.command = command.index
    r.names.byte_n += row.name_n + row.shown_n
    return 0


cdef int add_rename(
    Renaming *r, const SqlCommand *command, const char *name, size_t n
) noexcept nogil:
    """A name of ours stands in quotes: what is beside it may have no blank between."""
    cdef uint8_t written[WRITTEN_BYTES]
    return add_written(r, command, written, put_quoted(written, name, n))


cdef int rename_missing(
    const StatementTable *t, Renaming *r, const SqlCommand *command,
    const uint8_t *name, size_t name_n,
) noexcept nogil:
    """A name that the client has not given; one that could be ours becomes another."""
    cdef uint8_t written[WRITTEN_BYTES]
    cdef size_t n = 1
    cdef size_t i
    written[0] = c'"'
    for i in range(name_n):
        if name[i] == c'"':
            written[n] = c'"'
            n += 1
        written[n] = name[i]
        n += 1
    if looks_like_ours(t, name, name_n):
        written[n] = c"?"
        n += 1
    written[n] = c'"'
    return add_written(r, command, written, n + 1)


cdef int add_step(
    Renaming *r, uint8_t kind, ClientStatement *entry, Statement *st, uint32_t command
) noexcept nogil:
    """Takes the reference to ``st``; -1 without memory."""
    cdef NameStep *step = query_names_step(&r.names, &r.room)
    if step == NULL:
        return -1
    step.kind = kind
    step.entry = entry
    step.statement = st
    step.command = command
    return 0


# ---------------------------------------------------------------- one command

cdef inline bint is_failed(const ServerSession *s) noexcept nogil:
    """Whether the Query surely comes into a transaction that has failed."""
    return transaction_has_failed(s) and not s.batch.unsynced


cdef int guard(
    const StatementTable *t, ServerSession *s, Output *out, Renaming *r
) noexcept nogil:
    """What is prepared from here on shall not fail the block that the Query is in."""
    if r.guarded or not r.in_block:
        return 0
    r.guarded = True
    return guard_begin(t, s, out)


cdef Statement *use_here(
    StatementTable *t, ServerSession *s, Output *out, ClientStatement *entry,
    Renaming *r, uint32_t command,
) noexcept nogil:
    """A statement of the client's that the server has at this place of the Query.

    NULL without memory. ``command``: which of its commands needs it.
    """
    cdef Statement *st = entry.statement
    cdef ServerStatement *there = server_statement_find(&s.statements, st)
    if server_statement_named(&s.statements, there):
        if not there.closing and there.instead == 0:
            return st
        st = own_copy(t, st)  # dropped by the Query, under another name
        if st == NULL:
            return NULL
        statement_unref(t, entry.statement)
        entry.statement = st
    if is_failed(s) and not server_has(s, there):
        return st  # PostgreSQL carries nothing out, and would not prepare it either
    if command and not server_has(s, there) and guard(t, s, out, r) < 0:
        return NULL
    if ensure_since(t, s, out, st, True, entry.born) < 0:
        return NULL
    there = server_statement_find(&s.statements, st)
    there.named_in = s.statements.reading
    return st


cdef void place_changes(
    StatementTable *t, ClientSession *c, ServerSession *s, Statement *st,
    const uint8_t *text, const SqlCommand *command,
) noexcept nogil:
    """A PREPARE in a Query that sets what follows its client: before, or behind that?

    In:      text, with its terminator: that of the whole Query
    """
    cdef uint8_t flags = sql_flags(t, c)
    cdef size_t end = command.end + (text[command.end] == c";")
    if not st.is_unheard or s.changes.tracked_sent != 1:
        return
    if not CHANGE_TRACKED & sql_changes(
        text, command.name_start, t.params, s.params, flags
    ):
        st.is_unheard = st.is_adrift = False  # it comes first
    elif CHANGE_TRACKED & sql_changes(
        text + end, strlen(<const char *> text + end), t.params, s.params, flags
    ):
        st.is_unheard = False
        st.is_lost = True
    custom_take(t.params.custom)  # of the whole Query, which has noted them


cdef Statement *name_here(
    StatementTable *t, ServerSession *s, Output *out, ClientStatement *entry,
    Renaming *r, uint32_t command,
) noexcept nogil:
    """As ``use_here``, for a command that needs no more than the name."""
    cdef ServerStatement *there = server_statement_find(&s.statements, entry.statement)
    if is_failed(s) or server_has(s, there) or (
        server_statement_named(&s.statements, there)
    ):
        return use_here(t, s, out, entry, r, command)
    there = put_stand_in(t, s, out, entry.statement, NULL)
    if there == NULL:
        return NULL
    there.named_in = s.statements.reading
    return entry.statement


cdef Statement *new_here(
    StatementTable *t, ClientSession *c, ServerSession *s, const uint8_t *text,
    const SqlCommand *command,
) noexcept nogil:
    """The statement of a PREPARE; the caller owns a reference. NULL without memory.

    If the Query has used this text under another name, it is there, and stays.
    """
    cdef Statement *st = intern_sql(t, c, text, command)
    cdef Statement *copy
    if st != NULL:
        place_changes(t, c, s, st, text, command)
    if st == NULL or not server_statement_named(
        &s.statements, server_statement_find(&s.statements, st)
    ):
        return st
    copy = own_copy(t, st)
    statement_unref(t, st)
    return copy


cdef int query_taken(
    StatementTable *t, ServerSession *s, Output *out, ClientStatement *entry,
    const SqlCommand *command, Renaming *r,
) noexcept nogil:
    """PREPARE of a name that is taken, which is so on the server, too."""
    cdef Statement *st = entry.statement
    cdef ServerStatement *there = server_statement_find(&s.statements, st)
    cdef char name[OWN_NAME_BYTES]
    cdef int n = taken_name(t, s, out, st, name)
    if n < 0:
        return -1
    if server_has(s, there):
        there.named_in = s.statements.reading
    r.fails = True
    if r.alone:
        r.effect.entry = client_statement_new(entry.name, entry.name_n, st)
        if r.effect.entry == NULL:
            return -1
        r.effect.flags = EFFECT_DUPLICATE
        r.effect.installed = statement_ref(st)
    prepare_sent(s)
    return add_rename(r, command, name, <size_t> n)


cdef int query_refused(
    StatementTable *t, ServerSession *s, Output *out, const SqlCommand *command,
    Renaming *r, Refusal why,
) noexcept nogil:
    """PREPARE of one statement too many: it finds its name taken, in its turn.

    Behind a DEALLOCATE ALL no name is surely taken: there the whole Query is refused.
    """
    cdef char name[OWN_NAME_BYTES]
    cdef int n
    r.fails = True
    r.effect.refusal = <uint8_t> why
    if r.forgets:
        r.effect.flags = EFFECT_REFUSED
        return 0
    n = put_taken(t, s, out, name)
    if n < 0:
        return -1
    r.effect.flags = EFFECT_LIMITED
    prepare_sent(s)
    return add_rename(r, command, name, <size_t> n)


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
    if entry != NULL:
        return query_taken(t, s, out, entry, command, r)
    if names_of(c) == NULL:
        return -1
    why = over_limit(t, c.statements, command.end - command.name_end)
    st = new_here(t, c, s, text, command) if why == REFUSED_NOT else NULL
    if st == NULL:
        return query_refused(
            t, s, out, command, r, why if why != REFUSED_NOT else REFUSED_MEMORY
        )
    entry = client_statement_new(command.name, command.name_n, st)
    if entry == NULL:
        return -1
    client_statement_link(c.statements, entry)
    entry.pending = True
    if make_room(t, s, out, st) < 0 or end_own_batch(s, out) < 0:
        return -1
    there = note_installed(t, s, st)
    if there == NULL:
        return -1
    there.named_in = s.statements.reading
    prepare_sent(s)
    count_client_parse(s.pool)
    count_server_parse(s.pool)
    if not r.alone:
        if add_step(r, STEP_ADDS, entry, st, command.index) < 0:
            return -1
    else:
        r.effect.entry = entry
        r.effect.flags = EFFECT_ADDS_NAME
        r.effect.installed = st
    return add_rename(r, command, st.name, st.name_n)


cdef int query_execute(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *text, const SqlCommand *command, Renaming *r,
) noexcept nogil:
    cdef ClientStatement *entry = client_statement_find(
        c.statements, command.name, command.name_n
    )
    cdef Statement *st
    cdef Statement *executed
    # what a PREPARE by Parse does to names nobody would see here: it is not found
    if entry == NULL or meaning_is_lost(s, entry.statement, entry.born) or (
        entry.statement.called != NULL and not statement_executes(entry.statement)
    ):
        if looks_like_ours(t, command.name, command.name_n):
            return rename_missing(t, r, command, command.name, command.name_n)
        return 0
    if statement_executes(entry.statement):
        st = entry.statement
        if not is_failed(s):
            if not target_in_query(c, s, st, r.names.step_n != 0):
                return rename_missing(t, r, command, st.called, st.called_n)
            if command.index and guard(t, s, out, r) < 0:
                return -1
            if ensure_in_query(t, c, s, out, st, entry.born) < 0:
                return -1
    st = use_here(t, s, out, entry, r, command.index)
    if st == NULL:
        return -1
    count_bind(s.pool)
    statement_used(st)
    runs_statement(t, s, st)
    if statement_executes(st):
        executed = target_meaning(c, st)
        if executed != NULL:
            runs_statement(t, s, executed)
        if r.effect.called == NULL:
            r.effect.called = client_statement_new(st.called, st.called_n, st.target)
        if r.effect.called == NULL:
            return -1
    elif r.alone:
        r.executed = st
        r.executed_end = command.end
        r.effect.entry = entry
        r.effect.flags = EFFECT_EXECUTES
    return add_rename(r, command, st.name, st.name_n)


cdef int query_deallocate(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *text, const SqlCommand *command, Renaming *r,
) noexcept nogil:
    """The server really drops the statement: it is its answer that counts."""
    cdef ClientStatement *entry = client_statement_find(
        c.statements, command.name, command.name_n
    )
    cdef ServerStatement *there
    cdef Statement *st
    if entry == NULL:
        if looks_like_ours(t, command.name, command.name_n):
            return rename_missing(t, r, command, command.name, command.name_n)
        return 0
    st = name_here(t, s, out, entry, r, command.index)
    if st == NULL or add_rename(r, command, st.name, st.name_n) < 0:
        return -1
    if not r.alone:
        if add_step(r, STEP_DROPS, entry, statement_ref(st), command.index) < 0:
            return -1
    else:
        r.effect.removed = statement_ref(st)
        r.effect.entry = entry
        r.effect.flags = EFFECT_DROPS_NAME
    there = server_statement_find(&s.statements, st)
    if there != NULL:
        server_statement_closing(&s.statements, there)
    client_statement_unlink(c.statements, entry)
    return 0


cdef int query_forget_all(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *text, const SqlCommand *command, Renaming *r,
) noexcept nogil:
    """All names go; when nothing else stands in the Query, its tag says so."""
    if r.alone:
        hold_until_settled(c)
        return 0
    r.forgets = True
    if names_of(c) == NULL:
        return -1
    return add_step(
        r, STEP_FORGETS, client_statements_take(c.statements), NULL, command.index
    )

ctypedef int (*OnCommand)(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *text, const SqlCommand *command, Renaming *r,
) noexcept nogil

cdef OnCommand ON_COMMAND[<int> SQL_FORGET_ALL + 1]
ON_COMMAND[<int> SQL_PREPARE] = query_prepare
ON_COMMAND[<int> SQL_EXECUTE] = query_execute
ON_COMMAND[<int> SQL_DEALLOCATE] = query_deallocate
ON_COMMAND[<int> SQL_FORGET_ALL] = query_forget_all


cdef int query_command(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *text, const SqlCommand *command, Renaming *r,
) noexcept nogil:
    """Do to the client's names what one command does, and replace its name.

    Out:     out: what the server needs in front of the Query; -1 without memory
    """
    if have_name_noticed(t, c, s, out, text, command) < 0:
        return -1
    return ON_COMMAND[command.verb](t, c, s, out, text, command, r)


# ---------------------------------------------------------------- a whole Query

cdef bint ends_with(const uint8_t *text, size_t n, size_t at) noexcept nogil:
    """Whether nothing but blanks and semicolons stands from ``at`` on."""
    while at < n and (text[at] <= c" " or text[at] == c";"):
        at += 1
    return at == n


cdef int read_query(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    SqlText *walk, SqlCommand *command, Backs *backs, Renaming *r,
) noexcept nogil:
    """Go over the commands from the first of ours on, up to one that surely fails."""
    r.alone = command.index == 0 and ends_with(walk.text, walk.n, command.end)
    while True:
        if backs_add(t, c, backs, command.name_start, &r.names, &r.room) < 0:
            return -1
        if query_command(t, c, s, out, walk.text, command, r) < 0:
            return -1
        if r.fails or not sql_next(walk, command):
            return 0


cdef void place_names(Renaming *r, const uint8_t *text) noexcept nogil:
    """Find out what moves in the text that the server gets, for errors."""
    cdef uint32_t at = 0  # in the client's text
    cdef uint32_t characters = 0  # of it
    cdef int32_t moved_by = 0
    cdef uint32_t i
    cdef uint32_t written
    cdef RenamedName *row
    for i in range(r.names.row_n):
        row = &r.names.rows[i]
        characters += count_characters(text + at, row.start - at, r.flags)
        written = count_characters(text + row.start, row.end - row.start, r.flags)
        at = row.end
        row.behind = <uint32_t> (<int32_t> characters + moved_by) + row.name_n
        moved_by += <int32_t> row.name_n - <int32_t> written
        row.moved_by = moved_by
        characters += written


cdef int put_query(
    Output *out, const uint8_t *text, size_t n, const QueryNames *names
) noexcept nogil:
    """The Query with all its names replaced."""
    cdef size_t size = n
    cdef size_t at = 0
    cdef uint32_t i
    cdef uint8_t *room
    cdef const RenamedName *row
    for i in range(names.row_n):
        size += names.rows[i].name_n
        size -= names.rows[i].end - names.rows[i].start
    room = output_room(out, HEADER_BYTES + size + 1)
    if room == NULL:
        return -1
    room += put_header(room, c"Q", <uint32_t> (4 + size + 1))
    for i in range(names.row_n):
        row = &names.rows[i]
        memcpy(room, text + at, row.start - at)
        room += row.start - at
        memcpy(room, names.bytes + row.name_at, row.name_n)
        room += row.name_n
        at = row.end
    memcpy(room, text + at, n - at)
    room[n - at] = 0
    return 0


cdef void steps_sent(ServerSession *s, const QueryNames *names) noexcept nogil:
    """What the Query prepares is there from its own batch on."""
    cdef uint32_t i
    cdef ServerStatement *there
    for i in range(names.step_n):
        if names.steps[i].kind != STEP_ADDS:
            continue
        there = server_statement_find(&s.statements, names.steps[i].statement)
        if there != NULL and not there.closing:
            there.batch = batch_number(&s.requests)


cdef int queue_renamed(
    ServerSession *s, Renaming *r, const uint8_t *text
) noexcept nogil:
    """Queue a Query, with its effect if it has one; -1 without memory.

    text: the client's, as far as its last name.
    """
    cdef Effect *effect
    cdef QueryNames *kept = NULL
    if r.names.row_n == 0 and r.names.step_n == 0 and r.effect.flags == 0:
        return requests_push(&s.requests, c"Q")
    place_names(r, text)
    if not r.alone and r.effect.flags & EFFECT_REFUSED == 0:
        kept = query_names_keep(&r.names, &r.room)
        if kept == NULL:
            return -1
        query_names_begin(&r.names, &r.room)
        steps_sent(s, kept)
    elif r.names.row_n:
        r.effect.moved_from = r.names.rows[0].behind
        r.effect.moved_by = r.names.rows[0].moved_by
    r.effect.query = kept
    effect = push_with_effect(s, REQUEST_SQL)
    if effect == NULL:
        return -1
    effect[0] = r.effect
    return 0


cdef int put_refused_query(
    const StatementTable *t, ServerSession *s, Output *out
) noexcept nogil:
    """A Query that PostgreSQL fails, in the place of one that may not be."""
    cdef char name[OWN_NAME_BYTES]
    cdef size_t n = own_name(t, b"refused", name)
    cdef uint8_t *room = output_room(out, HEADER_BYTES + 8 + n + 2 + 1)
    if room == NULL:
        return -1
    room += put_header(room, c"Q", <uint32_t> (4 + 8 + n + 2 + 1))
    memcpy(room, REFUSED_WORD, 8)
    room[8 + put_quoted(room + 8, name, n)] = 0
    return 0


cdef bint sql_names(
    const StatementTable *t, const ClientSession *c, const uint8_t *text, size_t n
) noexcept nogil:
    """Whether any command of a Query is one of these."""
    cdef SqlText walk
    cdef SqlCommand command
    if not sql_concerns(text, n):
        return False
    sql_begin(&walk, text, n, sql_flags(t, c))
    return sql_next(&walk, &command)


cdef bint needs_more(
    StatementTable *t, ClientSession *c, ServerSession *s, SqlText walk,
    SqlCommand command,
) noexcept nogil:
    """Whether something of ours may have to be sent in front of a Query.

    In:      the walk behind its first command of ours; both are copies
    Cost:    O(one command): with several of them, something may
    """
    cdef ClientStatement *entry
    cdef SqlCommand second
    cdef Statement *st
    cdef bint found
    if command.verb == SQL_FORGET_ALL:
        return sql_next(&walk, &second)
    if sql_next(&walk, &second):
        return True
    entry = client_statement_find(c.statements, command.name, command.name_n)
    if entry != NULL and statement_executes(entry.statement):
        return True
    if command.name_whole:
        return entry != NULL or command.verb == SQL_PREPARE
    if entry != NULL:
        return not server_has(
            s, server_statement_find(&s.statements, entry.statement)
        )
    if command.verb != SQL_PREPARE:
        return False
    if names_of(c) == NULL or (
        s.statements.count + 1 >= s.pool.config.max_prepared_statements
        or over_limit(t, c.statements, walk.n) != REFUSED_NOT
    ):
        return True
    st = intern_sql(t, c, walk.text, &command)
    if st == NULL:
        return True
    found = server_statement_find(&s.statements, st) != NULL
    statement_unref(t, st)
    return found


cdef inline bint may_reset(const ServerSession *s) noexcept nogil:
    """Whether a Query that was looked at may have a RESET, also one that it undoes."""
    return s.changes.pending & CHANGE_TRACKED or is_resetting(s)


cdef bint goes_back_inside(
    StatementTable *t, const ClientSession *c, const ServerSession *s,
    const uint8_t *text, size_t n,
) noexcept nogil:
    """Whether a Query reads something behind a RESET of what its client has asked for.
    """
    cdef Backs backs
    return may_reset(s) and backs_find(t, c, s, text, n, sql_flags(t, c), &backs)


cdef void flush(Output *out) noexcept nogil:
    """Have the server answer what it has got, before a Sync comes."""
    output_add(out, <const uint8_t *> FLUSH, HEADER_BYTES)


cdef PrepareResult send_renamed(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *text, size_t n, bint quiet, Renaming *r,
) noexcept nogil:
    """The commands have been read: send what has become of the Query."""
    cdef bint refused = r.effect.flags & EFFECT_REFUSED != 0
    if r.names.row_n == 0 and r.names.step_n == 0 and r.effect.flags == 0:
        return PREPARE_FORWARD
    if end_own_batch(s, out) < 0 or (r.guarded and guard_end(t, s, out) < 0):
        return PREPARE_NO_MEMORY
    if c.statements != NULL:
        c.statements.names_batch = batch_number(&s.requests)
    if quiet and r.executed != NULL and ends_with(text, n, r.executed_end):
        replay_arm_query(
            t, s, out, r.executed, text + r.names.rows[0].end,
            r.executed_end - r.names.rows[0].end,
        )
    if refused:
        if put_refused_query(t, s, out) < 0:
            return PREPARE_NO_MEMORY
    elif put_query(out, text, n, &r.names) < 0:
        return PREPARE_NO_MEMORY
    if queue_renamed(s, r, text) < 0:
        return PREPARE_NO_MEMORY
    return PREPARE_DONE


cdef PrepareResult rename_query(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *text, size_t n,
) noexcept nogil:
    """A Query that is all here: text[0:n) is its SQL. FORWARD: it has no names of ours.

    What the server lacks is prepared in front of it, in a batch that ends with a Sync,
    or by a Query of its own. WAIT: while an extended message that no Sync has followed
    may fail yet, nothing can be sent in front: PostgreSQL would skip it, and our Sync
    would end what has the client's Query skipped.
    """
    cdef Renaming r
    cdef SqlText walk
    cdef SqlCommand command
    cdef PrepareResult result = PREPARE_NO_MEMORY
    cdef bint quiet = s.requests.closing_count == 0  # before anything of ours
    cdef bint names
    cdef Backs backs
    backs.count = backs.added = 0
    sql_begin(&walk, text, n, sql_flags(t, c))
    names = sql_concerns(text, n) and sql_next(&walk, &command)
    if may_reset(s):
        backs_find(t, c, s, text, n, walk.flags, &backs)
    if not names and backs.count == 0:
        return PREPARE_FORWARD
    if names and s.batch.unsynced and requests_may_skip(&s.requests) and (
        needs_more(t, c, s, walk, command)
    ):
        flush(out)
        return PREPARE_WAIT
    renaming_begin(&r, s, walk.flags)
    if (
        (not names or read_query(t, c, s, out, &walk, &command, &backs, &r) == 0)
        and backs_add(t, c, &backs, n, &r.names, &r.room) == 0
    ):
        result = send_renamed(t, c, s, out, text, n, quiet, &r)
    renaming_end(t, s, &r)
    return result
