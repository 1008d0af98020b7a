# SPDX-License-Identifier: MIT
"""Commit and undo; see ``effects.pxd``."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp

from pooler.statements.portals cimport portal_closed, portals_free
from pooler.statements.replay cimport replay_free
from pooler.session.requests cimport REQUEST_SQL, batch_answered, requests_first
from pooler.tables.client_names cimport (
    ClientStatement, ClientStatements, client_statement_find, client_statement_free,
    client_statement_link, client_statement_unlink, client_statements_clear,
)
from pooler.tables.effect_queue cimport (
    EFFECT_ADDS_NAME, EFFECT_DESCRIBES, EFFECT_DROPS_NAME, EFFECT_DUPLICATE,
    EFFECT_FAILED, EFFECT_FORGETS, EFFECT_STANDS_IN, EFFECT_UNNAMED, effects_at,
)
from pooler.tables.query_names cimport (
    NameStep, QueryNames, RenamedName, STEP_ADDS, STEP_DROPS, STEP_FORGETS, STEP_NONE,
    query_names_free,
)
from pooler.tables.params cimport ParamSet, params_context, params_ref, params_unref
from pooler.tables.server_statements cimport (
    ServerStatement, server_statement_add, server_statement_find,
    server_statement_remove, server_statements_doubt, server_statements_doubt_since,
    server_statements_free,
)
from pooler.tables.texts cimport (
    Statement, schema_count, statement_intern, statement_ref, statement_types,
    statement_unref,
)
from pooler.session.batch cimport batch_bind
from pooler.session.changes cimport (
    change_undone, changes_discarded, values_were_these,
)
from pooler.session.settings_log cimport settings_forgotten
from pooler.session.tracking cimport (
    no_strays, owe_nothing, prepare_answered, unnamed_of_another,
)


cdef void effect_end(StatementTable *t, Effect *effect) noexcept nogil:
    statement_unref(t, effect.installed)
    statement_unref(t, effect.removed)
    statement_unref(t, effect.unnamed_before)
    query_names_free(effect.query)
    if effect.called != NULL:
        client_statement_free(t, effect.called)


cdef void doubt(ServerSession *s, Statement *st, bint known) noexcept nogil:
    """Nobody can say whether the server has a statement: it is closed before use.

    ``known``: only if it is in the map already.
    """
    cdef ServerStatement *entry = server_statement_find(&s.statements, st)
    if entry == NULL and known:
        return
    if entry == NULL or entry.closing:
        entry = server_statement_add(&s.statements, st)
    if entry != NULL:
        entry.generation = s.statements.generation - 1


cdef void closed(StatementTable *t, ServerSession *s, Statement *st) noexcept nogil:
    """The server has dropped a statement, unless it has been given it again since."""
    cdef ServerStatement *entry = server_statement_find(&s.statements, st)
    if entry != NULL and entry.closing:
        server_statement_remove(t, &s.statements, entry)


cdef void commit(StatementTable *t, ServerSession *s, Effect *effect) noexcept nogil:
    cdef ServerStatement *there
    if effect.query != NULL:
        steps_undo(t, s, effect.query)  # PostgreSQL has not come to these
    if effect.flags & EFFECT_ADDS_NAME and s.client != NULL:
        effect.entry.pending = False
    if effect.installed != NULL and not effect.flags & (
        EFFECT_DESCRIBES | EFFECT_STANDS_IN
    ):
        there = server_statement_find(&s.statements, effect.installed)
        if there != NULL:
            effect.installed.parsed_in = s.pool
            effect.installed.parsed_at = there.parsed_at  # when it was sent
    if effect.removed != NULL:
        closed(t, s, effect.removed)
    if effect.portal != 0:
        portal_closed(t, s, effect.portal)
    if effect.flags & EFFECT_DROPS_NAME:
        client_statement_free(t, effect.entry)
    if effect.flags & EFFECT_FORGETS:
        free_names(t, effect.entry)
    if effect.flags & EFFECT_DUPLICATE:
        # What came before it has failed, so the name was not taken after all. The
        # server has another text now under its name for it.
        doubt(s, effect.installed, False)
        if s.client == NULL or client_statement_find(
            s.client.statements, effect.entry.name, effect.entry.name_n
        ) != NULL:
            client_statement_free(t, effect.entry)
        else:
            client_statement_link(s.client.statements, effect.entry)
    effect_end(t, effect)


cdef void undo_unnamed(
    StatementTable *t, ServerSession *s, Effect *effect, uint32_t later
) noexcept nogil:
    """The client has its former unnamed statement, or what it has parsed since."""
    cdef Statement **restored = &s.client.statements.unnamed
    cdef uint64_t *born = &s.client.statements.unnamed_born
    cdef uint32_t at = later
    while at != s.effects.tail:
        if effects_at(&s.effects, at).flags & EFFECT_UNNAMED:
            restored = &effects_at(&s.effects, at).unnamed_before
            born = &effects_at(&s.effects, at).born_before
            break
        at += 1
    else:
        unnamed_of_another(s)
        if <int32_t> (
            s.client.statements.unnamed_batch - batch_answered(&s.requests)
        ) > 0:
            return  # a Query that was sent since has dropped it
    statement_unref(t, restored[0])
    restored[0] = NULL
    if not effect.flags & EFFECT_FAILED:  # PostgreSQL drops it before it reads the new
        restored[0] = effect.unnamed_before
        born[0] = effect.born_before
        effect.unnamed_before = NULL


cdef void restore_name(
    StatementTable *t, ClientSession *c, ClientStatement *entry
) noexcept nogil:
    """A name whose Close was skipped is its client's again; without one it is freed.

    Whatever has the name now came with a later request of the batch, skipped as well.
    """
    cdef ClientStatement *later
    if c == NULL:
        client_statement_free(t, entry)
        return
    later = client_statement_find(c.statements, entry.name, entry.name_n)
    if later != NULL:
        client_statement_unlink(c.statements, later)
        client_statement_free(t, later)
    client_statement_link(c.statements, entry)


cdef void restore_names(
    StatementTable *t, ClientSession *c, ClientStatement *entry
) noexcept nogil:
    """As ``restore_name``, for a list."""
    cdef ClientStatement *following
    while entry != NULL:
        following = entry.next
        restore_name(t, c, entry)
        entry = following


cdef void free_names(StatementTable *t, ClientStatement *entry) noexcept nogil:
    """A list of names is gone for good."""
    cdef ClientStatement *following
    while entry != NULL:
        following = entry.next
        client_statement_free(t, entry)
        entry = following


cdef void undo(
    StatementTable *t, ServerSession *s, Effect *effect, uint32_t later
) noexcept nogil:
    """Take back what a skipped request would have done.

    ``later``: index of the first effect behind the skipped ones.
    """
    cdef ClientSession *c = s.client
    if effect.query != NULL:
        steps_undo(t, s, effect.query)
    if effect.installed != NULL and not effect.flags & (
        EFFECT_DUPLICATE | EFFECT_DESCRIBES
    ):
        doubt(s, effect.installed, True)
    if effect.removed != NULL:
        doubt(s, effect.removed, False)
    if effect.flags & EFFECT_ADDS_NAME and c != NULL:
        client_statement_unlink(c.statements, effect.entry)
        client_statement_free(t, effect.entry)
    if effect.flags & EFFECT_DROPS_NAME:
        restore_name(t, c, effect.entry)
    if effect.flags & EFFECT_FORGETS:
        restore_names(t, c, effect.entry)
    if effect.flags & EFFECT_DUPLICATE:
        client_statement_free(t, effect.entry)
    if effect.flags & EFFECT_UNNAMED and c != NULL:
        undo_unnamed(t, s, effect, later)
    effect_end(t, effect)


# ---------------------------------------------------------------- steps of a Query

cdef inline bint is_tag(
    const uint8_t *tag, size_t n, const char *text, size_t text_n
) noexcept nogil:
    return n == text_n + 1 and memcmp(tag, text, text_n) == 0


cdef void settle_step(
    StatementTable *t, ServerSession *s, NameStep *step
) noexcept nogil:
    """The command has been carried out."""
    cdef ClientStatement *entry = step.entry
    if step.kind == STEP_ADDS:
        if s.client != NULL:
            entry.pending = False
        step.statement.parsed_in = s.pool
        step.statement.parsed_at = schema_count(t)
    elif step.kind == STEP_DROPS:
        closed(t, s, step.statement)
        client_statement_free(t, entry)
    else:
        free_names(t, entry)
    statement_unref(t, step.statement)


cdef void undo_step(
    StatementTable *t, ServerSession *s, NameStep *step
) noexcept nogil:
    """PostgreSQL has not come to the command, nor to those behind it."""
    cdef ClientSession *c = s.client
    cdef ClientStatement *entry = step.entry
    if step.kind == STEP_ADDS:
        doubt(s, step.statement, True)
        if c != NULL:
            client_statement_unlink(c.statements, entry)
            client_statement_free(t, entry)
    elif step.kind == STEP_DROPS:
        doubt(s, step.statement, False)
        restore_name(t, c, entry)
    else:
        restore_names(t, c, entry)
    statement_unref(t, step.statement)


cdef void steps_undo(
    StatementTable *t, ServerSession *s, QueryNames *q
) noexcept nogil:
    """The Query is over, or was never sent: take back what has not been done."""
    while q.step_n > q.settled:
        q.step_n -= 1
        undo_step(t, s, &q.steps[q.step_n])


cdef uint8_t step_of_tag(const uint8_t *tag, size_t n) noexcept nogil:
    """What a command with this tag does to names; STEP_NONE: nothing."""
    if is_tag(tag, n, b"PREPARE", 7):
        return STEP_ADDS
    if is_tag(tag, n, b"DEALLOCATE", 10):
        return STEP_DROPS
    if is_tag(tag, n, b"DEALLOCATE ALL", 14) or is_tag(tag, n, b"DISCARD ALL", 11):
        return STEP_FORGETS
    return STEP_NONE


cdef RenamedName *extra_row(ServerSession *s) noexcept nogil:
    """Where the Query that is being answered has a command of ours now, or NULL."""
    cdef QueryNames *q = NULL
    if s.effects.head != s.effects.tail:
        q = effects_at(&s.effects, s.effects.head).query
    if q == NULL:
        return NULL
    while q.extra_row < q.row_n and q.rows[q.extra_row].extra == 0:
        q.extra_row += 1
    if q.extra_row == q.row_n or q.rows[q.extra_row].command + 1 != q.answered:
        return NULL
    return &q.rows[q.extra_row]


cdef bint is_extra(ServerSession *s) noexcept nogil:
    """Whether the tag that comes is of a command that we have put into a Query.

    The first request is a Query with an effect.
    """
    return extra_row(s) != NULL


cdef void extra_done(ServerSession *s) noexcept nogil:
    extra_row(s).extra -= 1


cdef bint note_step(
    StatementTable *t, ServerSession *s, const uint8_t *tag, size_t n
) noexcept nogil:
    """A command of a Query is done; True if it has settled a step.

    PostgreSQL says so once for each command. One that says another thing than its text
    did has made or dropped names that nobody knows.
    """
    cdef QueryNames *q = NULL
    if requests_first(&s.requests) == REQUEST_SQL and (
        s.effects.head != s.effects.tail
    ):
        q = effects_at(&s.effects, s.effects.head).query
    if q == NULL:
        return False
    q.answered += 1
    if q.settled == q.step_n or q.steps[q.settled].command != q.answered - 1 or (
        q.steps[q.settled].kind != step_of_tag(tag, n)
    ):
        return False
    settle_step(t, s, &q.steps[q.settled])
    q.settled += 1
    return True


# ---------------------------------------------------------------- the queue

cdef void effects_commit(
    StatementTable *t, ServerSession *s, uint32_t count
) noexcept nogil:
    """The oldest requests that have effects are settled."""
    cdef Effect *effect
    while count and s.effects.head != s.effects.tail:
        effect = effects_at(&s.effects, s.effects.head)
        s.effects.head += 1
        if effect.flags & EFFECT_FAILED:
            undo(t, s, effect, s.effects.head)
        else:
            commit(t, s, effect)
        count -= 1


cdef void effects_undo(
    StatementTable *t, ServerSession *s, uint32_t after, uint32_t count
) noexcept nogil:
    """PostgreSQL has skipped ``count`` requests that have effects.

    The oldest ``after`` effects stay as they are; those behind the skipped ones too.
    """
    cdef uint32_t first = s.effects.head + after
    cdef uint32_t at
    if count > s.effects.tail - first:
        count = s.effects.tail - first
    at = first + count
    batch_bind(s, NULL)
    while at != first:  # newest first
        at -= 1
        undo(t, s, effects_at(&s.effects, at), first + count)
    for at in range(after):  # they move up to those behind
        effects_at(&s.effects, first + count - 1 - at)[0] = effects_at(
            &s.effects, first - 1 - at
        )[0]
    s.effects.head += count


cdef Effect effects_take(ServerSession *s) noexcept nogil:
    """Take the oldest effect out of the queue, neither committed nor undone."""
    s.effects.head += 1
    return effects_at(&s.effects, s.effects.head - 1)[0]


cdef void session_statements_free(
    StatementTable *t, ServerSession *s
) noexcept nogil:
    """A server goes away. Its client, if any, is going too."""
    effects_undo(t, s, 0, s.effects.tail - s.effects.head)
    owe_nothing(s)
    free(s.effects.ring)
    s.effects.ring = NULL
    s.effects.mask = s.effects.head = s.effects.tail = 0
    server_statements_free(t, &s.statements)
    portals_free(t, s)
    replay_free(t, s)


cdef Effect *described(ServerSession *s, ServerStatement **there) noexcept nogil:
    """The Describe that is being answered, and the server's entry of its statement.

    It is the oldest request that has an effect. Its ``entry`` is NULL when no client
    asked; both may be NULL.
    """
    cdef Effect *effect
    if s.effects.head == s.effects.tail:
        there[0] = NULL
        return NULL
    effect = effects_at(&s.effects, s.effects.head)
    there[0] = NULL
    if effect.installed != NULL:
        there[0] = server_statement_find(&s.statements, effect.installed)
    if s.client == NULL:
        effect.entry = NULL
    return effect


cdef void note_parameters(ServerSession *s, uint64_t shape) noexcept nogil:
    """A Describe whose answer matters is answered: ParameterDescription."""
    cdef ServerStatement *there
    cdef Effect *effect = described(s, &there)
    if there != NULL:
        there.parameters = shape
    if effect != NULL and effect.entry != NULL:
        effect.entry.told_parameters = shape


cdef void note_types(
    const StatementTable *t, ServerSession *s, const uint8_t *types, size_t n
) noexcept nogil:
    """The ParameterDescription that was noted last; an empty text says nothing new."""
    cdef ServerStatement *there
    cdef Effect *effect = described(s, &there)
    if there != NULL and there.generation == s.statements.generation:
        statement_types(t, effect.installed, there.parameters, types, n)


cdef void note_shape(ServerSession *s, uint64_t shape) noexcept nogil:
    """As note_parameters, for the RowDescription or NoData behind it."""
    cdef ServerStatement *there
    cdef Effect *effect = described(s, &there)
    if there != NULL:
        there.shape = shape
        if effect.installed.told != NULL:
            effect.installed.told.shape = shape
    if effect != NULL and effect.entry != NULL:
        effect.entry.told_shape = shape
        if there != NULL:
            effect.entry.told_at = there.parse_number


cdef void forget_entries(ServerSession *s) noexcept nogil:
    """The client's names go: no Describe under way may point to one."""
    cdef uint32_t at = s.effects.head
    batch_bind(s, NULL)
    while at != s.effects.tail:
        if effects_at(&s.effects, at).flags & EFFECT_DESCRIBES:
            effects_at(&s.effects, at).entry = NULL
        at += 1


cdef Statement *adrift_copy(StatementTable *t, Statement *st) noexcept nogil:
    """The same text as its client's own, of which nobody knows how it was read."""
    cdef Statement *own = statement_intern(
        t, st.context, st.kind, st.text, st.n, 0, False
    )
    if own != NULL:
        own.is_adrift = True
        own.target = statement_ref(st.target)
        own.target_use = st.target_use
    return own


cdef void make_adrift(
    StatementTable *t, ServerSession *s, uint32_t batch, Statement **at
) noexcept nogil:
    """If ``at`` was sent in this batch or later, it is its client's own from now on."""
    cdef ServerStatement *there
    cdef Statement *own
    if at[0] == NULL:
        return
    there = server_statement_find(&s.statements, at[0])
    if there == NULL or <int32_t> (there.batch - batch) < 0:
        return
    if at[0].is_private:
        at[0].is_adrift = True
        return
    own = adrift_copy(t, at[0])
    if own != NULL:
        statement_unref(t, at[0])
        at[0] = own


cdef void read_otherwise(StatementTable *t, ServerSession *s) noexcept nogil:
    """A parameter has changed that no text has told of: what was prepared since the
    last answered batch may have been read under another value than was believed.

    Others shall not get it, and whoever has prepared it keeps what it means now.
    """
    cdef uint32_t batch = batch_answered(&s.requests)
    cdef ClientStatements *names = NULL
    cdef ClientStatement *entry
    cdef uint32_t i
    if s.client != NULL:
        names = s.client.statements
    if names != NULL:
        for i in range(names.mask + 1):
            entry = names.buckets[i]
            while entry != NULL:
                make_adrift(t, s, batch, &entry.statement)
                entry = entry.next
        make_adrift(t, s, batch, &names.unnamed)
    server_statements_doubt_since(&s.statements, batch)


cdef void hear(
    StatementTable *t, Statement *st, ParamSet *context
) noexcept nogil:
    """The end of its batch has told under what it was read; NULL: it has not."""
    if st == NULL or not st.is_unheard:
        return
    st.is_unheard = False
    if context == NULL:
        st.is_lost = True
        return
    params_unref(t.params, st.context)
    st.context = params_ref(context)
    st.is_adrift = False


cdef void values_told(StatementTable *t, ServerSession *s) noexcept nogil:
    """Everything is answered, and a parameter may have changed that follows its client.

    What was prepared behind the change was read under what its client has now, if that
    was the only one. Cost: O(names of the client)
    """
    cdef ClientStatements *names = s.client.statements
    cdef ParamSet *context = NULL
    cdef ClientStatement *entry
    cdef uint32_t i
    if names == NULL:
        return
    if values_were_these(s):
        context = params_context(t.params, s.client.params)
    for i in range(names.mask + 1):
        entry = names.buckets[i]
        while entry != NULL:
            hear(t, entry.statement, context)
            entry = entry.next
    hear(t, names.unnamed, context)


cdef void note_tag(
    StatementTable *t, ServerSession *s, ClientSession *c, const uint8_t *tag, size_t n
) noexcept nogil:
    """A CommandComplete says what SQL has done to the server's statements.

    ``c``: whose names go with them, NULL when the command was ours. PREPARE of a name
    that is not ours is one that this client alone may see.
    Source: "Message Formats" (CommandComplete)
    """
    cdef bint in_query = note_step(t, s, tag, n)
    if n and tag[0] == c"R":
        if is_tag(tag, n, b"ROLLBACK", 8) and c != NULL:
            change_undone(s)
    elif n and tag[0] == c"P":
        if is_tag(tag, n, b"PREPARE", 7):
            prepare_answered(s)
    elif n and tag[0] == c"D":
        if is_tag(tag, n, b"DISCARD ALL", 11) and c != NULL:
            changes_discarded(s)
            settings_forgotten(c)
        if is_tag(tag, n, b"DEALLOCATE ALL", 14) or is_tag(tag, n, b"DISCARD ALL", 11):
            server_statements_doubt(&s.statements)
            no_strays(s)
            if c != NULL and c.statements != NULL and not in_query:
                forget_entries(s)
                client_statements_clear(t, c.statements)
