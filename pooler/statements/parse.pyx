# SPDX-License-Identifier: MIT
"""Parse; see ``parse.pxd``."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy

from pooler.wire.buffers cimport output_add
from pooler.statements.effects cimport push_with_effect
from pooler.statements.install cimport (
    OWN_NAME_BYTES, make_room, note_installed, own_name, put_named, put_parse,
    taken_name, use_target,
)
from pooler.session.records cimport CHANGE_SEQUENCES, server_has
from pooler.session.requests cimport (
    REQUEST_ALIGN, REQUEST_FAKE, batch_number, requests_at,
)
from pooler.statements.peek cimport bind_follows, bind_is_cut, types_are_given
from pooler.statements.replay cimport replay_arm_parse, replay_foresee
from pooler.statements.runs cimport look_once, runs_unseen
from pooler.statements.sql_names cimport (
    intern, intern_parse, is_stable, names_of, over_limit, query_has_name, query_names,
    sql_flags,
)
from pooler.statements.sql_name cimport SqlCommand
from pooler.statements.sql_scan cimport skip_blank
from pooler.statements.sql_text cimport (
    SQL_FORGET_ALL, sql_first, sql_first_concerns,
)
from pooler.statements.outcomes cimport (
    PREPARE_DONE, PREPARE_FORWARD, PREPARE_HOLD, PREPARE_NO_MEMORY, PREPARE_WAIT,
    REFUSED_MEMORY, REFUSED_NAME, REFUSED_NOT, Refusal,
)
from pooler.tables.client_names cimport (
    ABSORB_DROP, ABSORB_KEEP, ClientStatement, ClientStatements, client_statement_find,
    client_statement_link, client_statement_new,
)
from pooler.tables.params cimport ParamSet, params_context
from pooler.tables.effect_queue cimport (
    EFFECT_ADDS_NAME, EFFECT_DUPLICATE, EFFECT_REFUSED, EFFECT_UNNAMED, Effect,
    effects_at,
)
from pooler.tables.server_statements cimport (
    ServerStatement, server_statement_find, server_statement_use,
)
from pooler.tables.texts cimport (
    STATEMENT_PARSE, Statement, TARGET_NONE, next_parse, parses_of_today, schema_count,
    statement_find, statement_hash, statement_ref, statement_unref, text_seen,
)
from pooler._wire cimport HEADER_BYTES
from pooler.session.changes cimport meaning_comes_back, meaning_is_unsure
from pooler.session.counters cimport (
    count_client_parse, count_parse_hit, count_server_parse,
)
from pooler.session.tracking cimport unnamed_of_another, unnamed_sent

cdef enum:
    PARSE_HELD_BYTES = 16384  # a longer Parse is not held in the receive buffer
    UNNAMED_KEPT_BYTES = 1048576  # a longer unnamed statement is not remembered

cdef const char *REFUSED_SUFFIX = b"refused"
cdef const char *TAKEN_SUFFIX = b"taken"


# ---------------------------------------------------------------- refusals

cdef PrepareResult refuse(
    const StatementTable *t, ServerSession *s, Output *out, Refusal why
) noexcept nogil:
    """Have PostgreSQL fail where the client's request stood; the text will be ours."""
    cdef char name[OWN_NAME_BYTES]
    cdef size_t n = own_name(t, REFUSED_SUFFIX, name)
    cdef uint8_t kind = c"S"
    cdef Effect *effect = push_with_effect(s, c"P")
    if effect == NULL or put_named(out, c"D", &kind, 1, name, n, 0) < 0:
        return PREPARE_NO_MEMORY
    effect.flags = EFFECT_REFUSED
    effect.refusal = <uint8_t> why
    return PREPARE_DONE


cdef PrepareResult refuse_cut(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, size_t here, size_t *taken, Refusal why,
) noexcept nogil:
    """Refuse a message of which more may be to come: the rest is dropped as well."""
    if here <= found.length:
        if names_of(c) == NULL:
            return PREPARE_NO_MEMORY
        c.statements.absorbing = ABSORB_DROP
    taken[0] = here
    return refuse(t, s, out, why)


cdef PrepareResult names_missing(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, size_t here, size_t *taken,
) noexcept nogil:
    """A name in this message has no end here."""
    if here > found.length:
        return PREPARE_FORWARD  # nor anywhere: PostgreSQL says what it thinks of it
    if here > NAMES_MOST_BYTES:
        return refuse_cut(t, c, s, out, found, here, taken, REFUSED_NAME)
    return PREPARE_HOLD


cdef inline bint may_keep(const ServerSession *s) noexcept nogil:
    """Whether PostgreSQL would surely look at the text of a Parse.

    It does not in a failed transaction, nor can anybody say before what was sent
    earlier is answered, or while it would be read under settings that nobody knows.
    """
    return (
        s.xact_status != c"E" and s.requests.closing_count == 0
        and not meaning_is_unsure(s)
    )


cdef inline bint asks_sequences(
    StatementTable *t, const ServerSession *s, Statement *st
) noexcept nogil:
    """Whether something may have to be put in front of the Bind of a statement."""
    if not s.sequences.of_others:
        return False
    look_once(t, s, st)
    return st.changes & CHANGE_SEQUENCES != 0


cdef bint may_answer(
    StatementTable *t, ServerSession *s, Statement *st,
    const ServerStatement *there, size_t query_n,
) noexcept nogil:
    """Whether a Parse of what the server has, ``there``, may be answered here.

    It must be as if PostgreSQL had read the text now. So all types of its parameters
    are given (else they are found out anew), it names no other statement, a Bind comes
    behind it, not a Describe, and should that fail, the client's own Parse can still be
    sent (``replay``): no transaction block is open, and nothing was asked for before
    but the Close of names. Nor under settings that nobody knows.
    """
    cdef uint32_t at = s.requests.head
    cdef uint8_t request
    if (
        not s.replay.bind_follows or s.xact_status != c"I"
        or st.target_use != TARGET_NONE
        or not server_has(s, there) or there.parsed_at != schema_count(t)
        or meaning_is_unsure(s) or asks_sequences(t, s, st)
    ):
        return False
    while at != s.requests.tail:
        request = requests_at(&s.requests, at)[0]
        if request != (c"C" | REQUEST_FAKE) and request != REQUEST_ALIGN:
            return False
        at += 1
    return types_are_given(st.text, st.n, query_n)


cdef bint would_answer(
    StatementTable *t, ClientSession *c, ServerSession *s, const uint8_t *body, size_t n
) noexcept nogil:
    """Whether a Parse could be answered here if the right Bind came behind it."""
    cdef size_t name_end = after_cstring(body, n, 0)
    cdef size_t query_end = after_cstring(body, n, name_end)
    cdef ParamSet *context = params_context(t.params, c.params)
    cdef const uint8_t *text = body + name_end
    cdef Statement *st
    if query_end == 0 or context == NULL or (name_end == 1 and not t.cache_unnamed):
        return False
    st = statement_find(
        t, context, STATEMENT_PARSE, text, n - name_end,
        statement_hash(context, STATEMENT_PARSE, text, n - name_end),
    )
    if st == NULL:
        return False
    replay_foresee(s, True)
    return may_answer(
        t, s, st, server_statement_find(&s.statements, st), query_end - name_end - 1
    )


cdef Effect *answer_parse(
    StatementTable *t, ServerSession *s, const Output *out, ServerStatement *there
) noexcept nogil:
    """Answer a client's Parse here, once the Bind behind it has succeeded."""
    cdef Effect *effect
    server_statement_use(&s.statements, there)
    count_parse_hit(s.pool)
    effect = push_with_effect(s, c"P" | REQUEST_FAKE)
    if effect != NULL:
        replay_arm_parse(t, s, out, there.statement)
    return effect


cdef Effect *send_parse(
    StatementTable *t, ServerSession *s, Output *out, Statement *st
) noexcept nogil:
    """Send a client's Parse under the shared name; its effect, NULL without memory."""
    cdef Effect *effect
    if make_room(t, s, out, st) < 0:
        return NULL
    effect = push_with_effect(s, c"P")
    if (
        effect == NULL
        or note_installed(t, s, st) == NULL
        or put_parse(out, st, st.name, st.name_n) < 0
    ):
        return NULL
    effect.installed = statement_ref(st)
    count_server_parse(s.pool)
    return effect


cdef uint64_t born_now(
    StatementTable *t, const uint8_t *text, size_t n, size_t query_n
) noexcept nogil:
    """Since when a server must have parsed what a client parses now (``ensure_since``).

    What PostgreSQL finds out about parameters it finds out now; the rest, when the
    schema has changed last.
    """
    if types_are_given(text, n, query_n):
        return parses_of_today(t)
    return next_parse(t)


cdef inline void note_moved(Effect *effect, const Statement *st) noexcept nogil:
    """Where what stands in its client's text stands in that of a Parse, for errors."""
    if st != NULL:
        effect.moved_from = st.moved_from
        effect.moved_by = st.moved_by


cdef PrepareResult refuse_unnamed(
    const StatementTable *t, ClientSession *c, ServerSession *s, Output *out
) noexcept nogil:
    """A Parse of the unnamed statement for which there is no memory."""
    cdef ClientStatements *names = c.statements
    cdef Effect *effect
    names.unnamed_batch = batch_number(&s.requests)
    unnamed_of_another(s)
    if refuse(t, s, out, REFUSED_MEMORY) != PREPARE_DONE:
        return PREPARE_NO_MEMORY
    effect = effects_at(&s.effects, s.effects.tail - 1)
    effect.flags |= EFFECT_UNNAMED
    effect.unnamed_before = names.unnamed
    effect.born_before = names.unnamed_born
    names.unnamed = NULL
    return PREPARE_DONE


cdef int forward_unnamed(
    Output *out, const uint8_t *text, size_t n, const Statement *st, bint framed
) noexcept nogil:
    """Send a Parse of the unnamed statement; -1 without memory.

    ``framed``: its text stands in the message, which goes as it is, uncopied, unless
    ``st`` has another text.
    """
    if framed and (st == NULL or st.target == NULL):
        output_add(out, text - HEADER_BYTES - 1, HEADER_BYTES + 1 + n)
        return 0
    if put_named(out, c"P", NULL, 0, b"", 0, n if st == NULL else st.n) < 0:
        return -1
    if st == NULL:
        output_add(out, text, n)
    else:
        output_add(out, st.text, st.n)
    return 0


cdef PrepareResult parse_unnamed(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *text, size_t n, size_t query_n, bint framed,
) noexcept nogil:
    """A Parse of the unnamed statement; ``framed`` as above.

    The first time a text is met it goes to the server as it is. From the second time
    on the server keeps it under a name of ours, and need not read it again. A server
    that had it before reads it anew all the same when it is bound there later.
    """
    cdef ClientStatements *names = c.statements
    cdef Statement *st = (
        intern_parse(t, c, text, n, query_n, False)
        if sql_first_concerns(text, query_n) else intern(t, c, STATEMENT_PARSE, text, n)
    )
    cdef ServerStatement *entry
    cdef Effect *effect
    cdef bint cached = False
    cdef uint64_t born
    if st == NULL and query_has_name(text, query_n):
        return refuse_unnamed(t, c, s, out)  # its name would be the server's own
    born = next_parse(t)  # what its client is told of it is not remembered
    if (
        st != NULL and st.target_use == TARGET_NONE and t.cache_unnamed
        and s.xact_status == c"I" and not s.batch.open
        and may_keep(s)
    ):
        entry = server_statement_find(&s.statements, st)
        if may_answer(t, s, st, entry, query_n):
            cached = is_stable(t, st)
            if cached:
                effect = answer_parse(t, s, out, entry)
                born = entry.parse_number
        elif (entry != NULL or text_seen(t, st.text_hash)) and is_stable(t, st):
            cached = True
            effect = send_parse(t, s, out, st)
    if not cached:
        if st != NULL and st.target != NULL and use_target(t, s, out, st, False) < 0:
            return PREPARE_NO_MEMORY
        effect = push_with_effect(s, c"P")
        if forward_unnamed(out, text, n, st, framed) < 0:
            return PREPARE_NO_MEMORY
        count_server_parse(s.pool)
    if effect == NULL or out.failed:
        return PREPARE_NO_MEMORY
    if cached:
        unnamed_of_another(s)
    else:
        unnamed_sent(s)
    names.unnamed_batch = batch_number(&s.requests)
    note_moved(effect, st)
    effect.flags |= EFFECT_UNNAMED
    effect.unnamed_before = names.unnamed
    effect.born_before = names.unnamed_born
    names.unnamed = st
    names.unnamed_born = born
    return PREPARE_DONE


cdef PrepareResult parse_duplicate(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    ClientStatement *entry, const uint8_t *name, size_t name_n,
    const uint8_t *text, size_t n,
) noexcept nogil:
    """A Parse with a name that the client has given already.

    The server is sent it with a name that is taken there, so that it finds in the
    text whatever it finds, and then that the name is taken (42P05).
    """
    cdef Statement *taken = entry.statement
    cdef Statement *st
    cdef ClientStatement *second
    cdef Effect *effect
    cdef char there[OWN_NAME_BYTES]
    cdef int there_n
    st = intern(t, c, STATEMENT_PARSE, text, n)
    if st == NULL:
        return refuse(t, s, out, REFUSED_MEMORY)
    second = client_statement_new(name, name_n, st)
    statement_unref(t, st)
    there_n = taken_name(t, s, out, taken, there) if second != NULL else -1
    if there_n < 0:
        return PREPARE_NO_MEMORY
    effect = push_with_effect(s, c"P")
    if (
        effect == NULL
        or put_named(out, c"P", NULL, 0, there, <size_t> there_n, n) < 0
    ):
        return PREPARE_NO_MEMORY
    output_add(out, text, n)
    effect.flags = EFFECT_DUPLICATE
    effect.entry = second
    effect.installed = statement_ref(taken)
    return PREPARE_DONE


cdef PrepareResult parse_named(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *name, size_t name_n, const uint8_t *text, size_t n, size_t query_n,
) noexcept nogil:
    cdef ClientStatements *names = c.statements
    cdef ClientStatement *entry = client_statement_find(names, name, name_n)
    cdef ServerStatement *there
    cdef Statement *st
    cdef Effect *effect
    cdef Refusal why
    if entry != NULL:
        return parse_duplicate(t, c, s, out, entry, name, name_n, text, n)
    why = over_limit(t, names, n)
    if why != REFUSED_NOT:
        return refuse(t, s, out, why)
    st = intern_parse(t, c, text, n, query_n, True)
    if st == NULL:
        return refuse(t, s, out, REFUSED_MEMORY)
    entry = client_statement_new(name, name_n, st)
    statement_unref(t, st)
    if entry == NULL:
        return PREPARE_NO_MEMORY
    client_statement_link(names, entry)
    entry.pending = True
    names.names_batch = batch_number(&s.requests)
    there = server_statement_find(&s.statements, st)
    if may_answer(t, s, st, there, query_n):
        effect = answer_parse(t, s, out, there)
        if effect == NULL:
            return PREPARE_NO_MEMORY
    else:
        entry.born = born_now(t, text, n, query_n)
        if st.target != NULL and use_target(t, s, out, st, False) < 0:
            return PREPARE_NO_MEMORY
        effect = send_parse(t, s, out, st)
        if effect == NULL:
            return PREPARE_NO_MEMORY
    note_moved(effect, st)
    effect.flags = EFFECT_ADDS_NAME
    effect.entry = entry
    return PREPARE_DONE


cdef PrepareResult parse_whole(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *body, size_t n, bint framed,
) noexcept nogil:
    """A Parse whose body is all here; ``framed``: behind its header. FORWARD: it is
    malformed.
    """
    cdef size_t name_end = after_cstring(body, n, 0)
    cdef size_t query_end = after_cstring(body, n, name_end) if name_end else 0
    if query_end == 0:
        return PREPARE_FORWARD
    if names_unsettled(c, s) and query_names(
        body + name_end, query_end - name_end - 1
    ):
        return PREPARE_WAIT
    if name_end > 1 and meaning_comes_back(s):
        return PREPARE_WAIT
    count_client_parse(s.pool)
    if name_end == 1:
        return parse_unnamed(
            t, c, s, out, body + 1, n - 1, query_end - 2, framed
        )
    return parse_named(
        t, c, s, out, body, name_end - 1, body + name_end, n - name_end,
        query_end - name_end - 1,
    )


cdef PrepareResult absorb(
    StatementTable *t, ClientSession *c, const ServerSession *s, const Found *found,
    const uint8_t *message, size_t here, size_t *taken,
) noexcept nogil:
    """Keep a message of which more is to come; the relay brings the rest."""
    cdef ClientStatements *names = c.statements
    names.part = <uint8_t *> malloc(found.length)
    if names.part == NULL:
        return PREPARE_NO_MEMORY
    names.code = found.code
    names.in_batch = s.batch.open
    names.part_n = found.length - 4
    t.bytes += names.part_n
    names.part_have = <uint32_t> (here - HEADER_BYTES)
    memcpy(names.part, message + HEADER_BYTES, names.part_have)
    names.absorbing = ABSORB_KEEP
    taken[0] = here
    return PREPARE_DONE


cdef PrepareResult prepare_parse(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, const uint8_t *message, size_t here, size_t behind,
    size_t *taken,
) noexcept nogil:
    """A Parse; ``behind``: bytes of what follows it that are here as well."""
    cdef size_t name_end = after_cstring(message, here, HEADER_BYTES)
    cdef PrepareResult begins
    cdef Refusal why
    if name_end == 0:
        return names_missing(t, c, s, out, found, here, taken)
    if names_of(c) == NULL:
        return PREPARE_NO_MEMORY
    if name_end > HEADER_BYTES + 1 and names_unsettled(c, s):
        return PREPARE_WAIT
    if name_end > HEADER_BYTES + 1 or t.cache_unnamed:  # it may be answered here
        if here > found.length and found.length <= PARSE_HELD_BYTES and (
            bind_is_cut(message + here, behind)
            and would_answer(t, c, s, message + HEADER_BYTES, found.length - 4)
        ):
            return PREPARE_HOLD  # what comes behind it decides
        replay_foresee(s, here > found.length and bind_follows(
            message + here, behind, message + HEADER_BYTES, name_end - HEADER_BYTES
        ))
    if here > found.length:
        taken[0] = here
        return parse_whole(
            t, c, s, out, message + HEADER_BYTES, found.length - 4, True
        )
    if found.length <= PARSE_HELD_BYTES:
        return PREPARE_HOLD
    if name_end > HEADER_BYTES + 1 or found.length <= UNNAMED_KEPT_BYTES:
        why = REFUSED_NOT
        if name_end > HEADER_BYTES + 1:
            why = over_limit(t, c.statements, found.length)
        if why == REFUSED_NOT and no_room(t, found.length):
            why = REFUSED_MEMORY
        if why != REFUSED_NOT:
            return refuse_cut(t, c, s, out, found, here, taken, why)
        return absorb(t, c, s, found, message, here, taken)
    begins = begins_with_names(t, c, message + name_end, here - name_end)
    if begins == PREPARE_HOLD:
        return PREPARE_HOLD
    if begins == PREPARE_DONE:
        c.statements.absorbing = ABSORB_DROP
        taken[0] = here
        return refuse_unnamed(t, c, s, out)
    return stream_parse(c, s)


cdef PrepareResult begins_with_names(
    const StatementTable *t, const ClientSession *c, const uint8_t *text, size_t n
) noexcept nogil:
    """Whether a text of which n bytes are here is one command that has a name.

    DONE: it is, or nothing of it can be seen; HOLD: too little is here; FORWARD
    """
    cdef SqlCommand command
    cdef size_t look_n = min(n, <size_t> NAMES_MOST_BYTES)
    cdef bint found = sql_first(text, look_n, sql_flags(t, c), &command)
    if look_n < NAMES_MOST_BYTES and command.cut:
        return PREPARE_HOLD
    if (found and command.verb != SQL_FORGET_ALL) or (
        skip_blank(text, look_n, 0) >= look_n
    ):
        return PREPARE_DONE
    return PREPARE_FORWARD


cdef PrepareResult stream_parse(ClientSession *c, ServerSession *s) noexcept nogil:
    """Too long to be worth remembering: it streams, and lives as long as this link."""
    cdef Effect *effect
    runs_unseen(s)
    effect = push_with_effect(s, c"P")
    if effect == NULL:
        return PREPARE_NO_MEMORY
    effect.flags = EFFECT_UNNAMED
    effect.unnamed_before = c.statements.unnamed
    effect.born_before = c.statements.unnamed_born
    c.statements.unnamed = NULL
    unnamed_sent(s)
    c.statements.unnamed_batch = batch_number(&s.requests)
    count_client_parse(s.pool)
    count_server_parse(s.pool)
    return PREPARE_DONE
