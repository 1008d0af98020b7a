# SPDX-License-Identifier: MIT
"""Long Queries; see ``long_query.pxd``."""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from pooler._wire cimport HEADER_BYTES, put_header
from pooler.session.requests cimport batch_number
from pooler.statements.install cimport end_own_batch, make_room, note_installed
from pooler.statements.outcomes cimport (
    PREPARE_DONE, PREPARE_FORWARD, PREPARE_NO_MEMORY, REFUSED_MEMORY, REFUSED_NOT,
    Refusal,
)
from pooler.statements.sql_names cimport (
    Rename, Renaming, add_rename, doubt_renamed, ends_with, names_of, over_limit,
    put_refused_query, query_deallocate, query_execute, query_prepare, queue_renamed,
    renaming_begin,
)
from pooler.statements.sql_text cimport (
    SQL_EXECUTE, SQL_FORGET_ALL, SQL_PREPARE, sql_end,
)
from pooler.tables.client_names cimport (
    ABSORB_DROP, ABSORB_NONE, ABSORB_TEE, ClientStatement, ClientStatements,
    absorbed_free, client_statement_find, client_statement_link, client_statement_new,
)
from pooler.tables.effect_queue cimport (
    EFFECT_ADDS_NAME, EFFECT_REFUSED, EFFECT_STREAMS, Effect, effects_at,
)
from pooler.tables.params cimport ParamSet, params_context
from pooler.tables.server_statements cimport ServerStatement
from pooler.tables.texts cimport (
    STATEMENT_SQL, Statement, statement_discard, statement_draft, statement_publish,
    statement_ref, statement_unref,
)
from pooler.wire.buffers cimport output_room
from pooler.session.counters cimport count_client_parse, count_server_parse
from pooler.session.tracking cimport prepare_sent


cdef int put_beginning(
    Output *out, const Found *found, const uint8_t *text, const Rename *row
) noexcept nogil:
    """The Query up to its first name, which is replaced; its rest follows as it is."""
    cdef uint8_t *room = output_room(out, HEADER_BYTES + row.start + row.n)
    if room == NULL:
        return -1
    room += put_header(
        room, c"Q", <uint32_t> (found.length + row.n - (row.end - row.start))
    )
    memcpy(room, text, row.start)
    memcpy(room + row.start, row.name, row.n)
    return 0


cdef PrepareResult send_beginning(
    ClientSession *c, ServerSession *s, Output *out, const Found *found,
    const uint8_t *text, const Renaming *r, size_t *taken,
) noexcept nogil:
    """Queue a Query whose first name is replaced, and send its beginning."""
    if end_own_batch(s, out) < 0:
        return PREPARE_NO_MEMORY
    if c.statements != NULL:
        c.statements.names_batch = batch_number(&s.requests)
    if queue_renamed(s, r) < 0 or put_beginning(out, found, text, &r.rows[0]) < 0:
        return PREPARE_NO_MEMORY
    taken[0] = HEADER_BYTES + r.rows[0].end
    return PREPARE_DONE


cdef PrepareResult refuse_prepare(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, size_t here, Refusal why, size_t *taken,
) noexcept nogil:
    """Have PostgreSQL fail in the place of this PREPARE; its rest is dropped."""
    cdef Renaming r
    renaming_begin(&r)
    r.effect.flags = EFFECT_REFUSED
    r.effect.refusal = <uint8_t> why
    if (
        end_own_batch(s, out) < 0
        or queue_renamed(s, &r) < 0
        or put_refused_query(t, out) < 0
    ):
        return PREPARE_NO_MEMORY
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
    renaming_begin(&r)
    add_rename(&r, first, st.name, st.name_n)
    r.effect.flags = EFFECT_STREAMS
    if make_room(t, s, out, st) < 0:
        return PREPARE_NO_MEMORY
    result = send_beginning(c, s, out, found, text, &r, taken)
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

    The client has its name from now on; it is taken back if PostgreSQL fails it. When
    more commands follow in the Query, nobody can say which of them has failed.
    """
    cdef ClientStatements *names = c.statements
    cdef ClientStatement *entry = names.draft
    cdef Statement *st = entry.statement
    cdef Effect *effect = NULL
    cdef ServerStatement *there
    cdef size_t end
    cdef bint alone
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
    end = sql_end(st.text, st.n - 1, 0)
    alone = ends_with(st.text, st.n - 1, end)
    st.text[end] = 0
    names.draft = NULL
    st = statement_publish(t, st, end + 1)
    entry.statement = st
    client_statement_link(names, entry)
    there = note_installed(t, s, st)
    if there == NULL:
        return PREPARE_NO_MEMORY
    there.batch = batch_number(&s.requests) - 1  # the request is in the queue already
    if alone:
        entry.pending = True
        effect.entry = entry
        effect.flags |= EFFECT_ADDS_NAME
        effect.installed = statement_ref(st)
    else:
        there.generation = s.statements.generation - 1
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
    cdef int code
    if first.verb == SQL_FORGET_ALL:
        if c.statements != NULL:  # its names wait until it is answered
            c.statements.names_batch = batch_number(&s.requests)
        return PREPARE_FORWARD
    renaming_begin(&r)
    if first.verb == SQL_EXECUTE:
        code = query_execute(t, c, s, out, first, &r)
    elif first.verb != SQL_PREPARE:
        code = query_deallocate(t, c, s, out, first, &r)
    elif client_statement_find(c.statements, first.name, first.name_n) == NULL:
        return begin_draft(t, c, s, out, found, message, here, first, taken)
    else:
        r.alone = True  # if it fails, then because of this name
        code = query_prepare(t, c, s, out, text, first, &r)
    if code < 0:
        return PREPARE_NO_MEMORY
    doubt_renamed(s, &r)
    if r.count == 0:
        return PREPARE_FORWARD
    return send_beginning(c, s, out, found, text, &r, taken)
