# SPDX-License-Identifier: MIT
"""EXECUTE by the extended protocol, up to its Execute; see ``execute_names.pxd``."""

from libc.stdint cimport uint16_t, uint64_t

from pooler.session.batch cimport transaction_has_failed
from pooler.session.changes cimport is_resetting
from pooler.session.requests cimport REQUEST_DESCRIBE
from pooler.statements.effects cimport push_with_effect
from pooler.statements.install cimport ensure_since
from pooler.statements.outcomes cimport (
    PREPARE_DONE, PREPARE_FORWARD, PREPARE_NO_MEMORY, PREPARE_WAIT,
)
from pooler.statements.parse cimport names_unsettled
from pooler.statements.portals cimport portal_runs
from pooler.statements.put_back cimport back_bound
from pooler.statements.runs cimport put_discard_before, runs_statement
from pooler.statements.targets cimport (
    ensure_as_parsed, ensure_bound, target_meaning, target_now,
)
from pooler.tables.client_names cimport client_statement_new
from pooler.tables.effect_queue cimport (
    EFFECT_DESCRIBES, EFFECT_EXECUTES, EFFECT_TELLS_TYPES, Effect,
)
from pooler.tables.texts cimport statement_executes, statement_ref


cdef PrepareResult describe_executes(
    const ClientSession *c, ServerSession *s, ClientStatement *entry,
    const Statement *st, uint16_t flags,
) noexcept nogil:
    """Queue a Describe of an EXECUTE: an error that names the target shall say what
    its client calls it.

    ``entry``: what its answer is noted for; NULL: it is not. ``flags``:
    EFFECT_TELLS_TYPES, or 0 if it is one of a portal.
    """
    cdef Effect *effect = push_with_effect(s, REQUEST_DESCRIBE)
    if effect == NULL:
        return PREPARE_NO_MEMORY
    effect.flags = EFFECT_DESCRIBES | flags
    if target_meaning(c, st) != NULL:
        effect.flags |= EFFECT_EXECUTES
    if entry != NULL:
        effect.installed = statement_ref(entry.statement)
        effect.entry = entry
    effect.called = client_statement_new(st.called, st.called_n, st.target)
    return PREPARE_DONE if effect.called != NULL else PREPARE_NO_MEMORY


cdef void runs_bound(
    StatementTable *t, ClientSession *c, ServerSession *s, Statement *st
) noexcept nogil:
    """A Bind of ``st`` is about to be sent: what it runs may change something.

    The portal of an EXECUTE was noted last; its name may mean something else when it is
    run.
    """
    cdef Statement *executed
    runs_statement(t, s, st)
    if st.custom_by_value:
        t.params.custom.by_value = True  # of the Bind under way
    if is_resetting(s):
        back_bound(t, c, s, st.changes)
    if not statement_executes(st):
        return
    executed = target_meaning(c, st)
    portal_runs(s.portals, executed)
    if executed != NULL:
        runs_statement(t, s, executed)


cdef bint has_own_columns(const ClientSession *c, const Statement *st) noexcept nogil:
    """Whether a portal of this statement may have other columns than that has."""
    return statement_executes(st) and target_meaning(c, st) != st.target


cdef int ensure_named(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, Statement *st,
    uint8_t code, uint64_t born,
) noexcept nogil:
    """The server has what a Bind or a Describe names; -1 without memory.

    And of sequences only what its client may be told.
    """
    if code == c"B" and put_discard_before(t, s, out, st) < 0:
        return -1
    if not statement_executes(st) or transaction_has_failed(s):
        return ensure_since(t, s, out, st, False, born)
    if code == c"B":
        return ensure_bound(t, c, s, out, st, born)
    return ensure_as_parsed(t, c, s, out, st, False, born)


cdef inline int look_up(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Statement *st,
) noexcept nogil:
    """The next message has PostgreSQL look up what an EXECUTE names."""
    if not statement_executes(st) or transaction_has_failed(s):
        return 0
    return target_now(t, c, s, out, st, False)


cdef PrepareResult own_unnamed(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, uint8_t code
) noexcept nogil:
    """A Bind or a Describe of the unnamed statement, which the server has itself."""
    cdef Statement *st = c.statements.unnamed if c.statements != NULL else NULL
    if st == NULL:
        return PREPARE_FORWARD
    if code == c"B" and put_discard_before(t, s, out, st) < 0:
        return PREPARE_NO_MEMORY
    if look_up(t, c, s, out, st) < 0:
        return PREPARE_NO_MEMORY
    if code == c"B":
        runs_bound(t, c, s, st)
    elif statement_executes(st):
        return describe_executes(c, s, NULL, st, EFFECT_TELLS_TYPES)
    return PREPARE_FORWARD


cdef PrepareResult describe_or_close_portal(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, const Portal *portal,
) noexcept nogil:
    """Describe or Close of a portal that was noted.

    Of one with an EXECUTE PostgreSQL looks the name up to say from which table its
    columns come. A Close is noted when it is answered: one that is skipped leaves the
    portal there, to be run when a savepoint is back.
    """
    cdef Effect *effect
    if found.code == c"C":
        effect = push_with_effect(s, c"C")
        if effect == NULL:
            return PREPARE_NO_MEMORY
        effect.portal = portal.number
        return PREPARE_DONE
    if not statement_executes(portal.statement):
        return PREPARE_FORWARD  # it has no columns
    if names_unsettled(c, s) or s.replay.unproven:
        return PREPARE_WAIT
    if look_up(t, c, s, out, portal.statement) < 0:
        return PREPARE_NO_MEMORY
    return describe_executes(
        c, s, s.batch.bound if portal.name_n == 0 else NULL, portal.statement, 0
    )
