# SPDX-License-Identifier: MIT
"""PREPARE, EXECUTE and DEALLOCATE when they are run; see ``run_names.pxd``."""

from libc.stdint cimport uint8_t, uint16_t

from pooler.statements.effects cimport push_with_effect
from pooler.statements.install cimport (
    drop, end_own_batch, make_room, note_installed,
)
from pooler.statements.outcomes cimport (
    PREPARE_DONE, PREPARE_FORWARD, PREPARE_HOLD, PREPARE_NO_MEMORY, PREPARE_WAIT,
    REFUSED_NOT, Refusal,
)
from pooler.statements.parse cimport after_cstring, names_unsettled, refuse
from pooler.statements.portals cimport portal_find, portal_runs
from pooler.statements.replay cimport replay_forget
from pooler.statements.runs cimport runs_statement
from pooler.statements.sql_names cimport names_of, over_limit
from pooler.statements.sql_query cimport flush
from pooler.statements.stand_in cimport put_stand_in
from pooler.statements.targets cimport target_is_now, target_meaning, target_now
from pooler.session.batch cimport batch_bind, transaction_has_failed
from pooler.session.changes cimport meaning_is_unsure
from pooler.session.counters cimport count_client_parse, count_server_parse
from pooler.session.records cimport Portal, server_has
from pooler.session.requests cimport (
    REQUEST_NAMES, batch_number, requests_may_skip,
)
from pooler.session.tracking cimport prepare_sent
from pooler.tables.client_names cimport (
    ClientStatement, client_statement_find, client_statement_link,
    client_statement_new, client_statement_unlink, client_statements_take,
)
from pooler.tables.effect_queue cimport (
    EFFECT_ADDS_NAME, EFFECT_DROPS_NAME, EFFECT_DUPLICATE, EFFECT_EXECUTES,
    EFFECT_FORGETS, Effect, effects_at,
)
from pooler.tables.params cimport ParamSet, params_context
from pooler.tables.server_statements cimport (
    ServerStatement, server_statement_closing, server_statement_find,
    server_statements_doubt,
)
from pooler.tables.texts cimport (
    STATEMENT_SQL, Statement, TARGET_DEALLOCATED, TARGET_EXECUTED, TARGET_FORGOTTEN,
    TARGET_MISSING, TARGET_PREPARED, statement_executes, statement_intern,
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


cdef PrepareResult run_called(
    StatementTable *t, ServerSession *s, const Statement *st, uint16_t flags
) noexcept nogil:
    """Queue the Execute; an error that names the target shall say the client's name."""
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
    if flags == EFFECT_DUPLICATE:
        effect.entry = called
        effect.installed = statement_ref(st.target)
    else:
        effect.called = called
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
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, Portal *portal
) noexcept nogil:
    cdef Statement *st = portal.statement
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
        return run_called(t, s, st, EFFECT_DUPLICATE)
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
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, Portal *portal
) noexcept nogil:
    cdef Statement *st = portal.statement
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
        return run_called(t, s, st, 0)
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


cdef int execute_now(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, Portal *portal,
    bint for_query,
) noexcept nogil:
    """Have the server know what this portal executes, if it has not been run yet.

    A portal that was run goes on with its rows, whatever its name means now.
    """
    cdef Statement *executed = target_meaning(c, portal.statement)
    if target_now(t, c, s, out, portal.statement, for_query) < 0:
        return -1
    if executed != NULL and executed.id != portal.runs:
        runs_statement(t, s, executed)
        portal_runs(portal, executed)
    return 0


cdef void forget_all(
    ClientSession *c, ServerSession *s, Effect *effect
) noexcept nogil:
    """The Execute that was queued last takes all names away."""
    effect.flags |= EFFECT_FORGETS
    effect.entry = client_statements_take(c.statements)
    c.statements.names_batch = batch_number(&s.requests)
    server_statements_doubt(&s.statements)
    batch_bind(s, NULL)


cdef PrepareResult run_execute(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, Portal *portal
) noexcept nogil:
    cdef Statement *st = portal.statement
    cdef const Statement *executed = NULL
    if not transaction_has_failed(s):
        if execute_now(t, c, s, out, portal, False) < 0:
            return PREPARE_NO_MEMORY
        executed = target_meaning(c, st)
    if run_called(
        t, s, st, 0 if executed == NULL else EFFECT_EXECUTES
    ) != PREPARE_DONE:
        return PREPARE_NO_MEMORY
    if executed != NULL and executed.target_use == TARGET_FORGOTTEN:
        forget_all(c, s, effects_at(&s.effects, s.effects.tail - 1))
    return PREPARE_DONE

cdef PrepareResult run_forget_all(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, Portal *portal
) noexcept nogil:
    """DEALLOCATE ALL, DISCARD ALL: what stands behind it finds no names any more."""
    cdef Effect *effect = push_run(s, portal.statement)
    if effect == NULL:
        return PREPARE_NO_MEMORY
    forget_all(c, s, effect)
    return PREPARE_DONE

ctypedef PrepareResult (*OnRun)(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, Portal *portal
) noexcept nogil

cdef OnRun ON_RUN[<int> TARGET_FORGOTTEN + 1]
ON_RUN[<int> TARGET_EXECUTED] = run_execute
ON_RUN[<int> TARGET_MISSING] = run_execute
ON_RUN[<int> TARGET_PREPARED] = run_prepare
ON_RUN[<int> TARGET_DEALLOCATED] = run_deallocate
ON_RUN[<int> TARGET_FORGOTTEN] = run_forget_all


# ---------------------------------------------------------------- cursors

cdef inline bint is_cursor(const Portal *portal) noexcept nogil:
    """Whether SQL can name the portal: FETCH runs the EXECUTE in it then."""
    return portal.name_n != 0 and statement_executes(portal.statement)


cdef const Portal *newer_of_target(
    const ClientSession *c, const ServerSession *s, const Portal *portal
) noexcept nogil:
    """A portal that needs by the same name of the server another statement."""
    cdef const Portal *other = s.portals
    while other != portal:
        if is_cursor(other) and other.statement.target == portal.statement.target and (
            target_meaning(c, other.statement) != target_meaning(c, portal.statement)
        ):
            return other
        other = other.next
    return NULL


cdef bint cursors_are_now(
    const ClientSession *c, const ServerSession *s
) noexcept nogil:
    """Whether the server has what they look up; all are gone with their transaction."""
    cdef const Portal *portal = s.portals
    if s.xact_status == c"I" and not s.batch.open and (
        s.requests.head == s.requests.tail
    ):
        return True
    while portal != NULL:
        if is_cursor(portal) and not target_is_now(c, s, portal.statement):
            return False
        portal = portal.next
    return True


cdef PrepareResult cursors_now(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, bint for_query
) noexcept nogil:
    """What comes next may FETCH from portals with an EXECUTE, and so run them.

    Out:     DONE: ``out`` has what comes in front of it; WAIT
    Cost:    O(noted portals), and those of one target with each other

    Two of them that were made of the same text, and whose names mean other things now,
    cannot both be served: neither is found.
    """
    cdef Portal *portal = s.portals
    cdef ServerStatement *there
    if s.xact_status == c"E" or cursors_are_now(c, s):
        return PREPARE_DONE
    if names_unsettled(c, s) or s.replay.unproven:
        return PREPARE_WAIT
    if for_query and s.batch.unsynced and requests_may_skip(&s.requests):
        flush(out)
        return PREPARE_WAIT
    while portal != NULL:
        if is_cursor(portal):
            if newer_of_target(c, s, portal) == NULL:
                if execute_now(t, c, s, out, portal, for_query) < 0:
                    return PREPARE_NO_MEMORY
            else:
                there = server_statement_find(
                    &s.statements, portal.statement.target
                )
                if there != NULL and not there.closing and (
                    drop(t, s, out, there) < 0
                ):
                    return PREPARE_NO_MEMORY
        portal = portal.next
    if for_query and end_own_batch(s, out) < 0:
        return PREPARE_NO_MEMORY
    return PREPARE_DONE


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
    cdef PrepareResult result
    cdef Refusal why
    taken[0] = 0
    if here <= found.length:
        return PREPARE_HOLD
    name_end = after_cstring(message, here, HEADER_BYTES)
    if name_end == 0:
        return PREPARE_FORWARD
    portal = portal_find(s, message + HEADER_BYTES, name_end - 1 - HEADER_BYTES)
    result = cursors_now(t, c, s, out, False)
    if result != PREPARE_DONE:
        return result
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
    if not statement_executes(portal.statement):
        c.statements.names_batch = batch_number(&s.requests)
    return ON_RUN[portal.statement.target_use](t, c, s, out, portal)
