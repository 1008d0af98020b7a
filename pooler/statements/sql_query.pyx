# SPDX-License-Identifier: MIT
"""Names in a Query; see ``sql_query.pxd``."""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcpy

from pooler.wire.buffers cimport output_add, output_room
from pooler.statements.effects cimport push_with_effect
from pooler.statements.guard cimport guard_end
from pooler.statements.install cimport (
    OWN_NAME_BYTES, end_own_batch, own_name, put_quoted,
)
from pooler.statements.replay cimport replay_arm_query
from pooler.session.records cimport CHANGE_TRACKED, server_has
from pooler.session.requests cimport (
    REQUEST_SQL, batch_number, requests_may_skip, requests_push,
)
from pooler.statements.sql_names cimport (
    count_characters, intern_sql, names_of, over_limit, sql_flags,
)
from pooler.statements.put_back cimport Backs, backs_add, backs_find
from pooler.statements.sql_text cimport (
    SQL_FORGET_ALL, SQL_PREPARE, SqlText, sql_begin, sql_concerns, sql_next,
)
from pooler.statements.outcomes cimport (
    PREPARE_DONE, PREPARE_FORWARD, PREPARE_NO_MEMORY, PREPARE_WAIT, REFUSED_NOT,
)
from pooler.tables.client_names cimport ClientStatement, client_statement_find
from pooler.tables.effect_queue cimport EFFECT_REFUSED, Effect
from pooler.tables.query_names cimport (
    QueryNames, RenamedName, STEP_ADDS, query_names_begin, query_names_keep,
)
from pooler.tables.server_statements cimport ServerStatement, server_statement_find
from pooler.tables.texts cimport Statement, statement_executes, statement_unref
from pooler._wire cimport HEADER_BYTES, put_header
from pooler.session.changes cimport is_resetting
from pooler.statements.renaming cimport renaming_begin, renaming_end
from pooler.statements.query_command cimport query_command
from pooler.statements.sql_name cimport SqlCommand

cdef const char *REFUSED_WORD = b"EXECUTE "
cdef const char *FLUSH = b"H\0\0\0\4"


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
