# SPDX-License-Identifier: MIT
"""PREPARE and DEALLOCATE when they are run; see ``run_names.pxd``."""

from libc.stdint cimport uint8_t, uint16_t

from pooler.statements.effects cimport push_with_effect
from pooler.statements.install cimport make_room, note_installed
from pooler.statements.outcomes cimport (
    PREPARE_DONE, PREPARE_FORWARD, PREPARE_HOLD, PREPARE_NO_MEMORY, PREPARE_WAIT,
    REFUSED_NOT, Refusal,
)
from pooler.statements.parse cimport after_cstring, names_unsettled, refuse
from pooler.statements.portals cimport portal_find
from pooler.statements.replay cimport replay_forget
from pooler.statements.sql_names cimport names_of, over_limit
from pooler.statements.stand_in cimport put_stand_in
from pooler.session.batch cimport batch_bind
from pooler.session.changes cimport meaning_is_unsure
from pooler.session.counters cimport count_client_parse, count_server_parse
from pooler.session.records cimport Portal, server_has
from pooler.session.requests cimport REQUEST_NAMES, batch_number
from pooler.session.tracking cimport prepare_sent
from pooler.tables.client_names cimport (
    ClientStatement, client_statement_find, client_statement_link,
    client_statement_new, client_statement_unlink,
)
from pooler.tables.effect_queue cimport (
    EFFECT_ADDS_NAME, EFFECT_CALLED, EFFECT_DROPS_NAME, EFFECT_DUPLICATE, Effect,
)
from pooler.tables.params cimport ParamSet, params_context
from pooler.tables.server_statements cimport (
    ServerStatement, server_statement_closing, server_statement_find,
)
from pooler.tables.texts cimport (
    STATEMENT_SQL, Statement, TARGET_DEALLOCATED, TARGET_MISSING, TARGET_PREPARED,
    statement_intern,
    statement_ref, statement_unref,
)
from pooler._wire cimport HEADER_BYTES


cdef Effect *push_run(ServerSession *s, const Statement *st) noexcept nogil:
    """Queue the client's Execute; NULL without memory."""
    cdef Effect *effect = push_with_effect(s, REQUEST_NAMES)
    if effect != NULL:
        effect.moved_from = st.moved_from
        effect.moved_by = st.moved_by
    return effect


cdef PrepareResult run_surely_fails(
    StatementTable *t, ServerSession *s, const Statement *st, uint16_t flags
) noexcept nogil:
    """PostgreSQL finds the name taken or missing; the error shall say the client's."""
    cdef ClientStatement *called = client_statement_new(
        st.called, st.called_n, st.target
    )
    cdef Effect *effect
    if called == NULL:
        return PREPARE_NO_MEMORY
    effect = push_run(s, st)
    if effect == NULL:
        return PREPARE_NO_MEMORY
    effect.flags = flags
    effect.entry = called
    if flags == EFFECT_DUPLICATE:
        effect.installed = statement_ref(st.target)
    return PREPARE_DONE


cdef Statement *prepared_now(
    StatementTable *t, ClientSession *c, ServerSession *s, Statement *target
) noexcept nogil:
    """What a PREPARE prepares that is run now; the caller owns a reference.

    Its text is read when it is run. If other things are set then than were at its
    Parse, or at an earlier run, the name gets a statement of its own.
    """
    cdef ParamSet *context = params_context(t.params, c.params)
    if context == NULL:
        return NULL
    if meaning_is_unsure(s):
        target.is_adrift = True
    if target.is_adrift or context == target.context:
        return statement_ref(target)
    return statement_intern(
        t, context, STATEMENT_SQL, target.text, target.n, 0, False
    )


cdef PrepareResult run_prepare(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, Statement *st
) noexcept nogil:
    cdef Statement *target = st.target
    cdef Statement *now
    cdef ClientStatement *entry
    cdef ServerStatement *there = server_statement_find(&s.statements, target)
    cdef Effect *effect
    if client_statement_find(c.statements, st.called, st.called_n) != NULL:
        prepare_sent(s)
        if not server_has(s, there) and (
            put_stand_in(t, s, out, target, NULL) == NULL
        ):
            return PREPARE_NO_MEMORY
        return run_surely_fails(t, s, st, EFFECT_DUPLICATE)
    now = prepared_now(t, c, s, target)
    if now == NULL:
        return PREPARE_NO_MEMORY
    entry = client_statement_new(st.called, st.called_n, now)
    statement_unref(t, now)
    if entry == NULL:
        return PREPARE_NO_MEMORY
    client_statement_link(c.statements, entry)
    entry.pending = True
    if make_room(t, s, out, target) < 0:
        return PREPARE_NO_MEMORY
    there = note_installed(t, s, target)
    effect = push_run(s, st)
    if there == NULL or effect == NULL:
        return PREPARE_NO_MEMORY
    if now != target:
        there.generation = s.statements.generation - 1
    prepare_sent(s)
    count_client_parse(s.pool)
    count_server_parse(s.pool)
    effect.flags = EFFECT_ADDS_NAME
    effect.entry = entry
    effect.installed = statement_ref(target)
    return PREPARE_DONE


cdef PrepareResult run_deallocate(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, Statement *st
) noexcept nogil:
    cdef Statement *target = st.target
    cdef ClientStatement *entry = client_statement_find(
        c.statements, st.called, st.called_n
    )
    cdef ServerStatement *there
    cdef Effect *effect
    if entry == NULL:
        there = server_statement_find(&s.statements, target)
        if there != NULL and not there.closing and make_room(t, s, out, target) < 0:
            return PREPARE_NO_MEMORY
        return run_surely_fails(t, s, st, EFFECT_CALLED)
    there = put_stand_in(t, s, out, target, NULL)
    effect = push_run(s, st)
    if there == NULL or effect == NULL:
        return PREPARE_NO_MEMORY
    effect.flags = EFFECT_DROPS_NAME
    effect.entry = entry
    effect.removed = statement_ref(target)
    server_statement_closing(&s.statements, there)
    client_statement_unlink(c.statements, entry)
    if s.batch.bound == entry:
        batch_bind(s, NULL)
    return PREPARE_DONE


cdef PrepareResult run_missing(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, Statement *st
) noexcept nogil:
    """An EXECUTE of a name that only servers may know."""
    return run_surely_fails(t, s, st, EFFECT_CALLED)

ctypedef PrepareResult (*OnRun)(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, Statement *st
) noexcept nogil

cdef OnRun ON_RUN[<int> TARGET_DEALLOCATED + 1]
ON_RUN[<int> TARGET_PREPARED] = run_prepare
ON_RUN[<int> TARGET_MISSING] = run_missing
ON_RUN[<int> TARGET_DEALLOCATED] = run_deallocate


cdef PrepareResult run_names(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, const uint8_t *message, size_t here, size_t *taken,
) noexcept nogil:
    """An Execute while portals are noted; FORWARD: its portal is none of them.

    In:      message[0:here) borrowed, from its type byte on: the part that is here
    Out:     DONE: it is queued, and ``out`` has what comes in front of it; *taken: how
             many of its bytes are not to be sent, for it is refused
    Cost:    O(noted portals)
    """
    cdef size_t name_end
    cdef Portal *portal
    cdef Refusal why
    taken[0] = 0
    if here <= found.length:
        return PREPARE_HOLD
    name_end = after_cstring(message, here, HEADER_BYTES)
    if name_end == 0:
        return PREPARE_FORWARD
    portal = portal_find(s, message + HEADER_BYTES, name_end - 1 - HEADER_BYTES)
    if portal == NULL:
        return PREPARE_FORWARD
    if names_unsettled(c, s) or s.replay.unproven:
        return PREPARE_WAIT
    if names_of(c) == NULL:
        return PREPARE_NO_MEMORY
    replay_forget(s)  # what it does is not done twice
    if portal.statement.target_use == TARGET_PREPARED:
        why = over_limit(t, c.statements, portal.statement.target.n)
        if why != REFUSED_NOT:
            taken[0] = here
            return refuse(t, s, out, why)
    c.statements.names_batch = batch_number(&s.requests)
    return ON_RUN[portal.statement.target_use](t, c, s, out, portal.statement)
