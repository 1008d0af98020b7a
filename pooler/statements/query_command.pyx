# SPDX-License-Identifier: MIT
"""What one command of a Query does to names; see ``query_command.pxd``."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport strlen

from pooler.statements.guard cimport guard_begin
from pooler.statements.install cimport (
    OWN_NAME_BYTES, end_own_batch, ensure_since, looks_like_ours, make_room,
    meaning_is_lost, note_installed, put_taken, taken_name,
)
from pooler.statements.long_name cimport have_name_noticed
from pooler.statements.targets cimport ensure_in_query, target_in_query, target_meaning
from pooler.session.records cimport CHANGE_TRACKED, server_has
from pooler.statements.sql_changes cimport sql_changes
from pooler.statements.sql_names cimport (
    intern_sql, names_of, over_limit, own_copy, sql_flags,
)
from pooler.statements.runs cimport runs_statement
from pooler.statements.stand_in cimport put_stand_in
from pooler.statements.sql_text cimport (
    SQL_DEALLOCATE, SQL_EXECUTE, SQL_FORGET_ALL, SQL_PREPARE,
)
from pooler.statements.outcomes cimport REFUSED_MEMORY, REFUSED_NOT, Refusal
from pooler.tables.client_names cimport (
    ClientStatement, client_statement_find, client_statement_link,
    client_statement_new, client_statement_unlink, client_statements_take,
)
from pooler.tables.custom_names cimport custom_take
from pooler.tables.effect_queue cimport (
    EFFECT_ADDS_NAME, EFFECT_DROPS_NAME, EFFECT_DUPLICATE, EFFECT_EXECUTES,
    EFFECT_LIMITED, EFFECT_REFUSED,
)
from pooler.tables.query_names cimport STEP_ADDS, STEP_DROPS, STEP_FORGETS
from pooler.tables.server_statements cimport (
    ServerStatement, server_statement_closing, server_statement_find,
    server_statement_named,
)
from pooler.tables.texts cimport (
    Statement, statement_executes, statement_ref, statement_unref, statement_used,
)
from pooler.session.batch cimport hold_until_settled, transaction_has_failed
from pooler.session.counters cimport count_bind, count_client_parse, count_server_parse
from pooler.session.tracking cimport prepare_sent
from pooler.statements.renaming cimport add_rename, rename_missing, add_step


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
