# SPDX-License-Identifier: MIT
"""Long Queries; see ``long_query.pxd``."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from pooler._wire cimport HEADER_BYTES, put_header
from pooler.session.requests cimport (
    REQUEST_SQL, batch_number, requests_may_skip,
)
from pooler.statements.effects cimport push_with_effect
from pooler.statements.install cimport end_own_batch, make_room, note_installed
from pooler.statements.long_name cimport have_name_noticed
from pooler.statements.outcomes cimport (
    PREPARE_DONE, PREPARE_FORWARD, PREPARE_NO_MEMORY, PREPARE_WAIT, REFUSED_MEMORY,
    REFUSED_NOT, Refusal,
)
from pooler.session.records cimport CHANGE_SEQUENCES, Changes
from pooler.statements.runs cimport put_discard_query, query_sent, runs_query
from pooler.statements.sql_names cimport names_of, over_limit, sql_flags
from pooler.statements.query_command cimport query_command
from pooler.statements.renaming cimport (
    Renaming, add_rename, renaming_begin, renaming_end,
)
from pooler.statements.sql_query cimport (
    put_refused_query, queue_renamed, rename_query,
)
from pooler.statements.sql_scan cimport sql_end
from pooler.statements.sql_text cimport SQL_FORGET_ALL, SQL_PREPARE
from pooler.tables.client_names cimport (
    ABSORB_DROP, ABSORB_NONE, ABSORB_TEE, ClientStatement, ClientStatements,
    absorbed_free, client_statement_find, client_statement_link, client_statement_new,
)
from pooler.tables.effect_queue cimport (
    EFFECT_REFUSED, EFFECT_STREAMS, Effect, effects_at,
)
from pooler.tables.query_names cimport (
    NameStep, QueryNames, RenamedName, STEP_ADDS, query_names_step,
)
from pooler.tables.params cimport ParamSet, params_context
from pooler.tables.server_statements cimport ServerStatement
from pooler.tables.texts cimport (
    STATEMENT_SQL, Statement, statement_discard, statement_draft, statement_publish,
    statement_ref, statement_unref,
)
from pooler.wire.buffers cimport output_add, output_room
from pooler.session.batch cimport batch_open
from pooler.session.changes cimport changes_not_sent, wait_for_resets
from pooler.session.counters cimport count_client_parse, count_server_parse
from pooler.session.tracking cimport prepare_sent


cdef const char *FLUSH = b"H\0\0\0\4"


cdef int put_beginning(
    Output *out, const Found *found, const uint8_t *text, const QueryNames *names
) noexcept nogil:
    """The Query up to its first name, which is replaced; its rest follows as it is."""
    cdef const RenamedName *row = &names.rows[0]
    cdef uint8_t *room = output_room(out, HEADER_BYTES + row.start + row.name_n)
    if room == NULL:
        return -1
    room += put_header(
        room, c"Q", <uint32_t> (found.length + row.name_n - (row.end - row.start))
    )
    memcpy(room, text, row.start)
    memcpy(room + row.start, names.bytes + row.name_at, row.name_n)
    return 0


cdef PrepareResult send_beginning(
    ClientSession *c, ServerSession *s, Output *out, const Found *found,
    const uint8_t *text, Renaming *r, size_t *taken,
) noexcept nogil:
    """Queue a Query whose first name is replaced, and send its beginning."""
    if end_own_batch(s, out) < 0:
        return PREPARE_NO_MEMORY
    if c.statements != NULL:
        c.statements.names_batch = batch_number(&s.requests)
    taken[0] = HEADER_BYTES + r.names.rows[0].end
    if put_beginning(out, found, text, &r.names) < 0 or (
        queue_renamed(s, r, text) < 0
    ):
        return PREPARE_NO_MEMORY
    return PREPARE_DONE


cdef PrepareResult refuse_prepare(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, size_t here, Refusal why, size_t *taken,
) noexcept nogil:
    """Have PostgreSQL fail in the place of this PREPARE; its rest is dropped."""
    cdef Effect *effect
    if end_own_batch(s, out) < 0 or put_refused_query(t, s, out) < 0:
        return PREPARE_NO_MEMORY
    effect = push_with_effect(s, REQUEST_SQL)
    if effect == NULL:
        return PREPARE_NO_MEMORY
    effect.flags = EFFECT_REFUSED
    effect.refusal = <uint8_t> why
    if here <= found.length:
        c.statements.absorbing = ABSORB_DROP
    taken[0] = here
    return PREPARE_DONE


cdef ClientStatement *new_draft(
    StatementTable *t, ClientSession *c, const SqlCommand *first, size_t n
) noexcept nogil:
    """A name whose statement has room for a text of n bytes; NULL without memory."""
    cdef ParamSet *context = params_context(t.params, c.params)
    cdef Statement *st = NULL
    cdef ClientStatement *entry
    if context != NULL:
        st = statement_draft(t, context, STATEMENT_SQL, n)
    if st == NULL:
        return NULL
    entry = client_statement_new(first.name, first.name_n, st)
    if entry == NULL:
        statement_discard(t, st)
        return NULL
    statement_unref(t, st)
    return entry


cdef PrepareResult begin_draft(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, const uint8_t *message, size_t here, const SqlCommand *first,
    size_t *taken,
) noexcept nogil:
    """PREPARE of a name that is free: forward it, and keep a copy as it comes.

    Its effect is empty before the whole text is here.
    """
    cdef const uint8_t *text = message + HEADER_BYTES
    cdef size_t n = found.length - 4 - first.name_end  # with the terminator
    cdef ClientStatements *names = names_of(c)
    cdef Statement *st
    cdef Renaming r
    cdef PrepareResult result
    cdef Refusal why
    if names == NULL:
        return PREPARE_NO_MEMORY
    why = over_limit(t, names, n)
    if why == REFUSED_NOT:
        names.draft = new_draft(t, c, first, n)
        why = REFUSED_NOT if names.draft != NULL else REFUSED_MEMORY
    if why != REFUSED_NOT:
        return refuse_prepare(t, c, s, out, found, here, why, taken)
    st = names.draft.statement
    renaming_begin(&r, s, sql_flags(t, c))
    r.effect.flags = EFFECT_STREAMS
    result = PREPARE_NO_MEMORY
    if add_rename(&r, first, st.name, st.name_n) == 0 and (
        make_room(t, s, out, st) == 0
    ):
        result = send_beginning(c, s, out, found, text, &r, taken)
    renaming_end(t, s, &r)
    if result != PREPARE_DONE:
        return result
    prepare_sent(s)
    count_client_parse(s.pool)
    count_server_parse(s.pool)
    names.absorbing = ABSORB_TEE
    names.part_n = <uint32_t> n
    names.part_have = <uint32_t> (here - taken[0])
    memcpy(st.text, message + taken[0], names.part_have)
    return end_draft(t, c, s) if here > found.length else PREPARE_DONE


cdef PrepareResult end_draft(
    StatementTable *t, ClientSession *c, ServerSession *s
) noexcept nogil:
    """The text of a PREPARE that was copied as it passed by is complete.

    The client has its name from now on; it is taken back if PostgreSQL fails it.
    """
    cdef ClientStatements *names = c.statements
    cdef ClientStatement *entry = names.draft
    cdef Statement *st = entry.statement
    cdef Effect *effect = NULL
    cdef ServerStatement *there
    cdef NameStep *step
    cdef size_t end
    names.absorbing = ABSORB_NONE
    if s.effects.head != s.effects.tail:
        effect = effects_at(&s.effects, s.effects.tail - 1)
    if (
        effect == NULL or not effect.flags & EFFECT_STREAMS  # skipped meanwhile
        or st.text[st.n - 1] != 0
        or client_statement_find(names, entry.name, entry.name_n) != NULL
    ):
        absorbed_free(t, names)
        return PREPARE_DONE
    step = query_names_step(effect.query, NULL)
    if step == NULL:
        return PREPARE_NO_MEMORY
    end = sql_end(st.text, st.n - 1, 0, sql_flags(t, c))
    st.text[end] = 0
    names.draft = NULL
    st = statement_publish(t, st, end + 1)
    entry.statement = st
    client_statement_link(names, entry)
    entry.pending = True
    step.kind = STEP_ADDS
    step.entry = entry
    step.statement = statement_ref(st)
    step.command = 0
    there = note_installed(t, s, st)
    if there == NULL:
        return PREPARE_NO_MEMORY
    there.batch = batch_number(&s.requests) - 1  # the request is in the queue already
    return PREPARE_DONE


cdef PrepareResult rename_first(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, const uint8_t *message, size_t here, const SqlCommand *first,
    size_t *taken,
) noexcept nogil:
    """A Query whose first command is ``first``, of which here or more bytes are here.

    In:      as prepare_request; the name is complete
    Out:     likewise; FORWARD: no name of ours is in it
    Cost:    O(what is here)
    """
    cdef const uint8_t *text = message + HEADER_BYTES
    cdef Renaming r
    cdef PrepareResult result
    if first.verb == SQL_FORGET_ALL:
        if c.statements != NULL:  # its names wait until it is answered
            c.statements.names_batch = batch_number(&s.requests)
        return PREPARE_FORWARD
    if s.batch.unsynced and requests_may_skip(&s.requests):  # as rename_query does
        output_add(out, <const uint8_t *> FLUSH, HEADER_BYTES)
        return PREPARE_WAIT
    if first.verb == SQL_PREPARE and (
        client_statement_find(c.statements, first.name, first.name_n) == NULL
    ):
        if have_name_noticed(t, c, s, out, text, first) < 0:
            return PREPARE_NO_MEMORY
        return begin_draft(t, c, s, out, found, message, here, first, taken)
    renaming_begin(&r, s, sql_flags(t, c))
    result = PREPARE_NO_MEMORY
    if query_command(t, c, s, out, text, first, &r) == 0:
        result = PREPARE_FORWARD
        if r.names.row_n:
            result = send_beginning(c, s, out, found, text, &r, taken)
    renaming_end(t, s, &r)
    return result


cdef PrepareResult run_absorbed(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out
) noexcept nogil:
    """A Query that was kept goes out, unless something has to be answered first."""
    cdef const uint8_t *text = c.statements.part
    cdef size_t n = c.statements.part_n - 1
    cdef Changes before = s.changes
    cdef uint64_t changes = runs_query(t, s, text, n)
    cdef PrepareResult result
    batch_open(s, c.statements.in_batch)  # as it was in front of this Query
    if changes & CHANGE_SEQUENCES and put_discard_query(s, out) < 0:
        return PREPARE_NO_MEMORY
    result = rename_query(t, c, s, out, text, n)
    if result == PREPARE_WAIT:
        changes_not_sent(s, &before)
        return result
    batch_open(s, False)
    query_sent(s, changes)
    wait_for_resets(s)
    return result
