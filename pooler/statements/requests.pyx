# SPDX-License-Identifier: MIT
"""Requests that concern prepared statements; see ``requests.pxd``."""

from libc.stdint cimport uint64_t, uint8_t
from libc.string cimport memcmp, memcpy

from pooler.statements.effects cimport push_with_effect
from pooler.statements.execute_names cimport (
    describe_executes, describe_or_close_portal, ensure_named, has_own_columns,
    own_unnamed, runs_bound,
)
from pooler.statements.install cimport (
    describe_first, ensure_since, looks_like_ours, meaning_is_lost, put_close,
    put_named,
)
from pooler.statements.long_query cimport rename_first
from pooler.statements.parse cimport (
    NAMES_MOST_BYTES, absorb, after_cstring, names_missing, names_unsettled,
    no_room, prepare_parse, refuse_cut, unnamed_may_stay,
)
from pooler.statements.peek cimport is_kept_bind, knows_columns, sends_binary
from pooler.statements.portals cimport portal_bind, portal_find, portal_forget
from pooler.statements.replay cimport replay_arm
from pooler.statements.run_names cimport cursors_now
from pooler.statements.runs cimport runs_quietly, runs_values
from pooler.session.records cimport Portal, server_has
from pooler.session.requests cimport (
    REQUEST_DESCRIBE, REQUEST_FAKE, REQUEST_SKIP, batch_number, batch_unsettled,
    requests_push,
)
from pooler.statements.sql_name cimport SqlCommand
from pooler.statements.sql_text cimport sql_first, sql_first_concerns
from pooler.statements.sql_names cimport names_of, sql_flags
from pooler.statements.sql_query cimport (
    flush, goes_back_inside, rename_query, sql_names,
)
from pooler.statements.stand_in cimport put_stand_in, stand_in_for
from pooler.statements.outcomes cimport (
    PREPARE_DONE, PREPARE_FORWARD, PREPARE_HOLD, PREPARE_NO_MEMORY, PREPARE_WAIT,
    REFUSED_COUNT, REFUSED_STALE,
)
from pooler.tables.client_names cimport (
    ClientStatement, ClientStatements, STATEMENT_NAME_BYTES, client_statement_bound,
    client_statement_find, client_statement_unlink,
)
from pooler.tables.effect_queue cimport (
    EFFECT_DESCRIBES, EFFECT_DROPS_NAME, EFFECT_TELLS_TYPES, EFFECT_UNNAMED, Effect,
)
from pooler.tables.server_statements cimport (
    ServerStatement, server_statement_find, server_statement_use,
)
from pooler.tables.texts cimport (
    Statement, TARGET_NONE, statement_executes, statement_ref, statement_unref,
    statement_used,
)
from pooler._wire cimport HEADER_BYTES
from pooler.session.batch cimport batch_bind
from pooler.session.changes cimport back_is_bound, goes_back
from pooler.session.counters cimport count_bind

cdef const char *DESCRIBE_PORTAL = b"D\0\0\0\6P"


# ---------------------------------------------------------------- Bind and the like

cdef int close_unnamed(ServerSession *s, Output *out) noexcept nogil:
    """Whatever unnamed statement the server has, it is not this client's."""
    if not s.tracking.unnamed_maybe:
        return 0
    if push_with_effect(s, c"C" | REQUEST_SKIP) == NULL:
        return -1
    return put_close(out, c"S", b"", 0)


cdef PrepareResult find_named(
    ClientSession *c, ServerSession *s,
    const uint8_t *name, size_t name_n, ClientStatement **found,
) noexcept nogil:
    """The client's entry of this name; FORWARD when it has given none."""
    if names_unsettled(c, s):
        return PREPARE_WAIT
    found[0] = client_statement_find(c.statements, name, name_n)
    return PREPARE_FORWARD if found[0] == NULL else PREPARE_DONE


cdef PrepareResult find_unnamed(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    Statement **found,
) noexcept nogil:
    """The client's unnamed statement.

    FORWARD: it is the server's own, or there is none and PostgreSQL says so.
    """
    cdef Statement *st
    if c.statements != NULL and batch_unsettled(
        &s.requests, c.statements.unnamed_batch
    ):
        return PREPARE_WAIT
    st = c.statements.unnamed if c.statements != NULL else NULL
    if statement_executes(st) and names_unsettled(c, s):
        return PREPARE_WAIT
    if s.tracking.unnamed_own:
        return PREPARE_FORWARD
    if st == NULL:
        return PREPARE_FORWARD if close_unnamed(s, out) == 0 else PREPARE_NO_MEMORY
    found[0] = st
    return PREPARE_DONE


cdef bint shapes_differ(
    const ClientStatement *entry, const ServerStatement *there
) noexcept nogil:
    return entry.told_shape != there.shape or (
        entry.told_parameters != 0 and there.parameters != 0
        and entry.told_parameters != there.parameters
    )


cdef PrepareResult check_shape(
    StatementTable *t, ServerSession *s, Output *out, const ClientStatement *entry
) noexcept nogil:
    """Whether the server's statement returns what its client was told that it does.

    A client that binds without another Describe reads rows by what it remembers. If
    the server has not said yet what it returns, the client waits until it has: once
    for each server and statement. FORWARD: the rows would be others.
    """
    cdef ServerStatement *there = server_statement_find(&s.statements, entry.statement)
    cdef uint64_t since = entry.born
    if server_has(s, there) and there.shape != 0 and there.parse_number >= since:
        if not shapes_differ(entry, there):
            return PREPARE_DONE
        if there.parse_number >= entry.told_at:
            return PREPARE_FORWARD
        since = entry.told_at  # it was told of later rows
    if (
        ensure_since(t, s, out, entry.statement, False, since) < 0
        or describe_first(t, s, out, entry.statement) < 0
    ):
        return PREPARE_NO_MEMORY
    return PREPARE_WAIT


cdef int queue_describe(ServerSession *s, ClientStatement *entry) noexcept nogil:
    """A Describe of a client's statement; its answer is noted if it may be news."""
    cdef ServerStatement *there
    cdef Effect *effect
    if entry == NULL:
        return requests_push(&s.requests, c"D")
    there = server_statement_find(&s.statements, entry.statement)
    if server_has(s, there) and there.shape != 0 and not shapes_differ(entry, there):
        return requests_push(&s.requests, c"D")
    effect = push_with_effect(s, REQUEST_DESCRIBE)
    if effect == NULL:
        return -1
    effect.flags = EFFECT_DESCRIBES
    effect.installed = statement_ref(entry.statement)
    effect.entry = entry
    return 0


cdef PrepareResult put_renamed(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, const uint8_t *message, size_t name_at, size_t name_end,
    const Statement *st, ClientStatement *entry,
) noexcept nogil:
    """Send a message's beginning with another name in it; the rest goes as it is.

    Without a statement, a name that is unknown but looks like ours is made one that
    cannot be there.
    """
    cdef const char *name
    cdef size_t name_n
    cdef char missing[STATEMENT_NAME_BYTES + 2]
    if found.code == c"D" and statement_executes(st):
        if describe_executes(c, s, entry, st, EFFECT_TELLS_TYPES) != PREPARE_DONE:
            return PREPARE_NO_MEMORY
    elif found.code == c"D":
        if queue_describe(s, entry) < 0:
            return PREPARE_NO_MEMORY
    elif requests_push(&s.requests, found.code) < 0:
        return PREPARE_NO_MEMORY
    if st != NULL:
        name = <const char *> st.name
        name_n = st.name_n
    else:
        name_n = name_end - name_at
        memcpy(missing, message + name_at, name_n - 1)
        missing[name_n - 1] = c"?"
        name = missing
    if put_named(
        out, found.code, message + HEADER_BYTES, name_at - HEADER_BYTES, name, name_n,
        found.length + 1 - name_end,
    ) < 0:
        return PREPARE_NO_MEMORY
    return PREPARE_DONE


cdef inline bint note_bound(
    StatementTable *t, ClientSession *c, ServerSession *s, const uint8_t *message,
    size_t name_at, size_t name_n, Statement *st,
) noexcept nogil:
    """A Bind is about to be sent; False: its portal is one too many to be noted.

    ``st`` is NULL as well if the unnamed statement is the server's own.
    """
    if name_n == 0 and c.statements != NULL:
        st = c.statements.unnamed
    if st == NULL or st.target_use == TARGET_NONE:
        return True
    return portal_bind(t, s, message + HEADER_BYTES, name_at - 1 - HEADER_BYTES, st)


cdef inline uint64_t born_of(
    const ClientSession *c, const ClientStatement *entry
) noexcept nogil:
    """When the client has parsed it; entry NULL: its unnamed statement."""
    return entry.born if entry != NULL else c.statements.unnamed_born


cdef inline bint is_lost_here(
    ServerSession *s, const Statement *st, uint64_t born
) noexcept nogil:
    return s.xact_status != c"E" and meaning_is_lost(s, st, born)


cdef inline ServerStatement *known_there(
    const ServerSession *s, const Statement *st, uint64_t born
) noexcept nogil:
    """What the server has of a statement that it needs to be sent nothing for; or NULL.

    It has it as its client knows it, and running it changes nothing.
    """
    cdef ServerStatement *there
    if not runs_quietly(s, st):
        return NULL
    there = server_statement_find(&s.statements, st)
    if server_has(s, there) and there.parse_number >= born:
        return there
    return NULL


cdef PrepareResult see_to(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, uint8_t code,
    const uint8_t *types, ServerStatement *there, Statement *st,
    ClientStatement *entry, bint told, bint knows,
) noexcept nogil:
    """The server has what a Bind or Describe needs of a statement when it comes to it.

    ``types``: an empty text with these may stand in for it. ``there``: it is known to
    have it. Else as ``check_shape``.
    """
    cdef PrepareResult result
    if types != NULL:
        if put_stand_in(t, s, out, st, types) == NULL:
            return PREPARE_NO_MEMORY
        return PREPARE_DONE
    if not told and s.xact_status != c"E":
        result = check_shape(t, s, out, entry)
        if result != PREPARE_DONE:
            return result
    if there != NULL:
        server_statement_use(&s.statements, there)
    elif ensure_named(t, c, s, out, st, code, born_of(c, entry)) < 0:
        return PREPARE_NO_MEMORY
    if told and not knows and not statement_executes(st):  # its name may be missing
        replay_arm(t, s, out, st)
    return PREPARE_DONE


cdef inline void bind_goes_out(
    StatementTable *t, ClientSession *c, ServerSession *s, Statement *st,
    ClientStatement *entry, bint quiet, bint unnamed_portal,
) noexcept nogil:
    """What a Bind means, behind what it needed; ``quiet``: it changes nothing."""
    if st != NULL:
        client_statement_bound(t, c.statements, entry)
        statement_used(st)
        if not quiet:
            runs_bound(t, c, s, st)
    if unnamed_portal:
        batch_bind(s, NULL if not quiet and has_own_columns(c, st) else entry)


cdef PrepareResult prepare_named(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, const uint8_t *message, size_t here, size_t name_at,
    size_t name_end, bint told, bint knows, bint binary, size_t *taken,
) noexcept nogil:
    """Bind or Describe of the statement whose name stands at ``name_at``.

    ``told``: the client hears in this batch what rows it gets. ``knows``: it has
    known before how many they are, so it may not be bound to others. ``binary``: it
    sends values that are garbage if the types are not those that it was told.
    """
    cdef const uint8_t *name = message + name_at
    cdef size_t name_n = name_end - 1 - name_at
    cdef ClientStatement *entry = NULL
    cdef Statement *st = NULL
    cdef ServerStatement *there = NULL
    cdef PrepareResult result
    if name_n == 0 and s.replay.unproven and c.statements.unnamed != (
        s.replay.statement
    ):
        return PREPARE_WAIT
    if name_n:
        result = find_named(c, s, name, name_n, &entry)
        st = entry.statement if entry != NULL else NULL
    else:
        result = find_unnamed(t, c, s, out, &st)
    if result == PREPARE_NO_MEMORY or result == PREPARE_WAIT:
        return result
    if found.code == c"B" and not note_bound(t, c, s, message, name_at, name_n, st):
        return refuse_cut(t, c, s, out, found, here, taken, REFUSED_COUNT)
    if s.replay.unproven and st != NULL and st != s.replay.statement:
        return PREPARE_WAIT  # what is put in front of it could not be sent again
    if name_n == 0 and s.tracking.unnamed_own:
        return own_unnamed(t, c, s, out, found.code)
    if st == NULL and not looks_like_ours(t, name, name_n):
        return PREPARE_FORWARD
    if binary and entry != NULL and entry.told_parameters != 0:
        knows = True
        told = False
    if st != NULL and is_lost_here(s, st, born_of(c, entry)):
        return refuse_cut(t, c, s, out, found, here, taken, REFUSED_STALE)
    told = told or entry == NULL or entry.told_shape == 0
    if st != NULL:
        there = known_there(s, st, born_of(c, entry))
        result = see_to(
            t, c, s, out, found.code,
            stand_in_for(t, c, s, st, entry, found, message, here, name_end)
            if there == NULL else NULL,
            there, st, entry, told, knows,
        )
        if result == PREPARE_FORWARD:
            return refuse_cut(t, c, s, out, found, here, taken, REFUSED_STALE)
        if result != PREPARE_DONE:
            return result
    if found.code == c"B":
        bind_goes_out(t, c, s, st, entry, there != NULL, name_at == HEADER_BYTES + 1)
    taken[0] = name_end
    return put_renamed(t, c, s, out, found, message, name_at, name_end, st, entry)


cdef inline bint is_describe_of_unnamed_portal(
    const uint8_t *message, size_t n
) noexcept nogil:
    return n >= 7 and memcmp(message, DESCRIBE_PORTAL, 7) == 0


cdef PrepareResult prepare_bind(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, const uint8_t *message, size_t here, size_t behind,
    size_t *taken,
) noexcept nogil:
    cdef size_t portal_end = after_cstring(message, here, HEADER_BYTES)
    cdef size_t name_end = (
        after_cstring(message, here, portal_end) if portal_end else 0
    )
    cdef PrepareResult result
    cdef bint named = name_end > portal_end + 1
    cdef bint own = not named and s.tracking.unnamed_own  # PostgreSQL's own affair
    cdef bint told = False
    cdef bint knows = False
    if name_end == 0:
        return names_missing(t, c, s, out, found, here, taken)
    if here <= found.length and is_kept_bind(found.length):
        return PREPARE_HOLD  # its formats decide whether it may be sent twice
    if portal_end == HEADER_BYTES + 1:
        batch_bind(s, NULL)
    if s.portals != NULL:
        portal_forget(t, s, message + HEADER_BYTES, portal_end - 1 - HEADER_BYTES)
    if not own:
        knows = knows_columns(message, here, found.length, name_end)
        told = (
            not knows and portal_end == HEADER_BYTES + 1
            and is_describe_of_unnamed_portal(message + here, behind)
        )
    result = prepare_named(
        t, c, s, out, found, message, here, portal_end, name_end, told, knows,
        named and sends_binary(message, here, found.length, name_end), taken,
    )
    if t.params.custom.by_value:
        t.params.custom.by_value = False
        if result == PREPARE_DONE or result == PREPARE_FORWARD:
            runs_values(t, s, message, here, found.length, name_end)
    if portal_end != HEADER_BYTES + 1 and goes_back(s):
        back_is_bound(s, 0, 0)  # it is another portal that is to be executed
    if result != PREPARE_WAIT:
        count_bind(s.pool)
        if own and c.statements != NULL and c.statements.unnamed != NULL:
            statement_used(c.statements.unnamed)
    return result


cdef PrepareResult prepare_close(
    StatementTable *t, ClientSession *c, ServerSession *s,
    const uint8_t *name, size_t name_n, size_t here, size_t *taken,
) noexcept nogil:
    """Close of a statement: the name goes, the server keeps the statement."""
    cdef ClientStatement *entry
    cdef Effect *effect
    if names_of(c) == NULL:
        return PREPARE_NO_MEMORY
    if name_n and names_unsettled(c, s):
        return PREPARE_WAIT
    if name_n == 0 and s.tracking.unnamed_own:  # it is really there
        effect = push_with_effect(s, c"C")
    else:
        effect = push_with_effect(s, c"C" | REQUEST_FAKE)
        taken[0] = here
    if effect == NULL:
        return PREPARE_NO_MEMORY
    if name_n == 0:
        effect.flags = EFFECT_UNNAMED
        effect.unnamed_before = c.statements.unnamed
        effect.born_before = c.statements.unnamed_born
        c.statements.unnamed = NULL
        c.statements.unnamed_batch = batch_number(&s.requests)
        return PREPARE_DONE
    entry = client_statement_find(c.statements, name, name_n)
    if entry != NULL:
        client_statement_unlink(c.statements, entry)
        if s.batch.bound == entry:
            batch_bind(s, NULL)
        c.statements.names_batch = batch_number(&s.requests)
        effect.flags = EFFECT_DROPS_NAME
        effect.entry = entry
    return PREPARE_DONE


cdef PrepareResult prepare_describe_or_close(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, const uint8_t *message, size_t here, size_t *taken,
) noexcept nogil:
    cdef size_t name_at = HEADER_BYTES + 1
    cdef size_t name_end
    cdef const Portal *portal
    cdef PrepareResult result
    if here <= found.length:
        return PREPARE_HOLD  # these are short messages
    if s.portals != NULL and found.code == c"D":
        result = cursors_now(t, c, s, out, False)
        if result != PREPARE_DONE:
            return result
    if s.portals != NULL and message[HEADER_BYTES] == c"P" and message[here - 1] == 0:
        portal = portal_find(s, message + name_at, here - name_at - 1)
        if portal != NULL:
            return describe_or_close_portal(t, c, s, out, found, portal)
    if s.batch.bound != NULL and is_describe_of_unnamed_portal(message, here):
        if queue_describe(s, s.batch.bound) < 0:
            return PREPARE_NO_MEMORY
        return PREPARE_DONE
    if message[HEADER_BYTES] != c"S":
        return PREPARE_FORWARD
    name_end = after_cstring(message, here, name_at)
    if name_end != here:
        return PREPARE_FORWARD  # malformed
    if found.code == c"C":
        return prepare_close(
            t, c, s, message + name_at, name_end - 1 - name_at, here, taken
        )
    return prepare_named(
        t, c, s, out, found, message, here, name_at, name_end, True, False, False,
        taken,
    )


# ---------------------------------------------------------------- every request

cdef PrepareResult first_command(
    StatementTable *t, ClientSession *c, const uint8_t *text, size_t n, bint whole,
    SqlCommand *first, bint *ours,
) noexcept nogil:
    """Read the beginning of a Query that is not kept; HOLD: too little of it is here.

    ``ours``: its first command has a name, which is in ``first``.
    """
    cdef size_t look_n = n if n < NAMES_MOST_BYTES else NAMES_MOST_BYTES
    ours[0] = False
    if not sql_first_concerns(text, look_n):
        return PREPARE_DONE
    ours[0] = sql_first(text, look_n, sql_flags(t, c), first)
    if first.cut and look_n < n:
        ours[0] = False
    elif first.cut and not whole:
        return PREPARE_HOLD
    return PREPARE_DONE


cdef inline void drop_unnamed(
    StatementTable *t, ClientStatements *names, const ServerSession *s
) noexcept nogil:
    """A Query is sent; without a statement that it could drop it changes nothing."""
    if names.unnamed == NULL and not batch_unsettled(
        &s.requests, names.unnamed_batch
    ):
        return
    statement_unref(t, names.unnamed)
    names.unnamed = NULL
    names.unnamed_batch = batch_number(&s.requests)


cdef PrepareResult prepare_query(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, const uint8_t *message, size_t here, size_t *taken,
) noexcept nogil:
    """A Query drops the unnamed statement; PREPARE and the like are renamed.

    One that comes in parts is kept, for names may stand in any of its commands. Of one
    that is too long for that, the beginning says whether the first is one of these.
    """
    cdef const uint8_t *text = message + HEADER_BYTES
    cdef bint whole = here > found.length
    cdef size_t text_n = here - HEADER_BYTES - whole  # without the terminator
    cdef SqlCommand first
    cdef PrepareResult result
    cdef bint ours = False
    cdef bint streams = found.length > t.long_query_bytes or (
        not whole and no_room(t, found.length)
    )
    if streams:
        if first_command(t, c, text, text_n, whole, &first, &ours) == PREPARE_HOLD:
            return PREPARE_HOLD
    elif whole:
        ours = message[here - 1] == 0 and (
            sql_names(t, c, text, text_n) or goes_back_inside(t, c, s, text, text_n)
        )
    if ours and names_unsettled(c, s):
        return PREPARE_WAIT
    if s.portals != NULL:
        result = cursors_now(t, c, s, out, True)
        if result != PREPARE_DONE:
            return result
    if c.statements != NULL:
        if unnamed_may_stay(c.statements, s):
            flush(out)
            return PREPARE_WAIT
        drop_unnamed(t, c.statements, s)
    if streams and ours:
        return rename_first(t, c, s, out, found, message, here, &first, taken)
    if not streams and not whole:
        if names_of(c) == NULL:
            return PREPARE_NO_MEMORY
        return absorb(t, c, s, found, message, here, taken)
    if not ours:
        return PREPARE_FORWARD
    taken[0] = here
    return rename_query(t, c, s, out, text, text_n)


cdef PrepareResult prepare_request(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, const uint8_t *message, size_t here, size_t behind,
    size_t *taken,
) noexcept nogil:
    """Take a message that may name a prepared statement, or prepare one.

    In:      message[0:here) borrowed, from its type byte on: the part that is here;
             ``behind`` bytes of what follows it are there as well
    Out:     out: what goes to the server in its place; *taken: how many of its bytes
             that covers
    Cost:    O(names), for Parse and for SQL that names statements O(text)
    Source:  "Message Formats" (Parse, Bind, Describe, Close, Query)
    """
    taken[0] = 0
    if found.code == c"B":
        return prepare_bind(t, c, s, out, found, message, here, behind, taken)
    if found.code == c"Q":
        return prepare_query(t, c, s, out, found, message, here, taken)
    if found.code == c"P":
        return prepare_parse(t, c, s, out, found, message, here, behind, taken)
    return prepare_describe_or_close(t, c, s, out, found, message, here, taken)
