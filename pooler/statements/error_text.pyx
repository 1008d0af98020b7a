# SPDX-License-Identifier: MIT
"""Errors in a client's own words; see ``error_text.pxd``."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport strtol
from libc.string cimport memchr, memcmp, memcpy, strlen

from pooler.wire.buffers cimport Output, Queue, output_room, queue_size
from pooler.session.records cimport Portal
from pooler.statements.outcomes cimport REFUSED_STALE, refusal_sqlstate, refusal_text
from pooler.statements.server_names cimport behind_prefix, is_statements, name_bytes
from pooler.tables.client_names cimport ClientStatement, ClientStatements
from pooler.tables.effect_queue cimport (
    EFFECT_ADDS_NAME, EFFECT_DROPS_NAME, EFFECT_DUPLICATE, EFFECT_EXECUTES,
)
from pooler.tables.query_names cimport QueryNames, RenamedName
from pooler.tables.texts cimport Statement
from pooler._wire cimport (
    HEADER_BYTES, error_response_bytes, put_cstring, put_error_response, put_header,
    store_be32,
)

cdef extern from "<stdio.h>" nogil:
    int snprintf(char *p, size_t n, const char *form, ...)

cdef enum:
    ROUTINE_BYTES = 24
    STATE_BYTES = 5
    NAMED_COUNT = 4
    # effects whose entry is what the request names
    NAMES_ONE = EFFECT_EXECUTES | EFFECT_DROPS_NAME | EFFECT_ADDS_NAME

cdef const char *ROUTINE = b"RevalidateCachedQuery"

# Errors in whose text a statement is named.
cdef const char *NAMED_STATES[NAMED_COUNT]
cdef const char *NAMED_ROUTINES[NAMED_COUNT]
NAMED_STATES[:] = [b"26000", b"42P05", b"42601", b"08P01"]
NAMED_ROUTINES[:] = [
    b"FetchPreparedStatement", b"StorePreparedStatement", b"EvaluateParams",
    b"exec_bind_message",
]

cdef struct Name:
    const uint8_t *text  # borrow
    size_t n


cdef void put_refusal(Output *out, uint8_t refusal) noexcept nogil:
    """An error of ours for a request that was made to fail."""
    cdef const char *text = refusal_text(refusal)
    cdef size_t room_n = error_response_bytes(text) + ROUTINE_BYTES
    cdef size_t n
    cdef uint8_t *room = output_room(out, room_n)
    if room == NULL:
        return
    out.n -= room_n
    n = put_error_response(room, b"ERROR", refusal_sqlstate(refusal), text)
    if refusal == REFUSED_STALE:  # drivers know it by its routine
        room[n - 1] = c"R"
        n += put_cstring(room + n, ROUTINE, strlen(ROUTINE))
        room[n] = 0
        n += 1
        put_header(room, c"E", <uint32_t> (n - 1))
    out.n += n


cdef bint name_in_query(
    const QueryNames *q, const uint8_t *name, size_t n, Name *found
) noexcept nogil:
    """What the command that has failed calls this statement, or another one of them.

    In the text that was sent the name stands in quotes.
    """
    cdef const RenamedName *row
    cdef uint32_t i
    found.text = NULL
    for i in range(q.row_n):
        row = &q.rows[i]
        if row.name_n == n + 2 and memcmp(q.bytes + row.name_at + 1, name, n) == 0:
            found.text = q.bytes + row.shown_at
            found.n = row.shown_n
            if row.command >= q.answered:
                break
    return found.text != NULL


cdef inline bint field_is(
    const uint8_t *field, size_t n, const char *text
) noexcept nogil:
    return n == strlen(text) and memcmp(field, text, n) == 0


cdef bint names_statement(const uint8_t *message, size_t n) noexcept nogil:
    """Whether PostgreSQL puts the name of a statement into the text of this error.

    What it does so in is told by the routine (field R, which is never translated) and
    the SQLSTATE. All else that looks like a name of ours is the user's own.
    Source: PostgreSQL's prepare.c (FetchPreparedStatement, StorePreparedStatement,
    EvaluateParams) and postgres.c (exec_bind_message).
    """
    cdef const uint8_t *state = NULL
    cdef const uint8_t *routine = NULL
    cdef size_t routine_n = 0
    cdef size_t at = HEADER_BYTES
    cdef const uint8_t *end
    cdef int i
    while at < n and message[at] != 0:
        end = <const uint8_t *> memchr(message + at, 0, n - at)
        if end == NULL:
            return False
        if message[at] == c"C" and end - message - at == STATE_BYTES + 1:
            state = message + at + 1
        elif message[at] == c"R":
            routine = message + at + 1
            routine_n = <size_t> (end - routine)
        at = <size_t> (end - message) + 1
    for i in range(NAMED_COUNT):
        if (
            state != NULL
            and memcmp(state, NAMED_STATES[i], STATE_BYTES) == 0
            and (
                routine == NULL  # some servers do not say
                or field_is(routine, routine_n, NAMED_ROUTINES[i])
            )
        ):
            return True
    return False


cdef inline bint is_named(
    const Statement *st, const uint8_t *name, size_t n
) noexcept nogil:
    return st.name_n == n and memcmp(st.name, name, n) == 0


cdef void name_in_portal(
    const ClientSession *c, const uint8_t *name, size_t n, Name *found
) noexcept nogil:
    """What a portal calls this statement in SQL, which a FETCH may have run."""
    cdef const Portal *portal = c.server.portals if c.server != NULL else NULL
    while portal != NULL:
        if portal.statement.target != NULL and (
            is_named(portal.statement.target, name, n)
        ):
            found.text = portal.statement.called
            found.n = portal.statement.called_n
            return
        portal = portal.next


cdef void name_of_client(
    const ClientSession *c, const Effect *effect,
    const uint8_t *name, size_t n, Name *found,
) noexcept nogil:
    """What the client calls the statement that servers know by this name.

    One that it has no name for was its unnamed statement when it sent the request; of
    several names that which it has bound last, also where others are bound behind it.
    """
    cdef const ClientStatements *names = c.statements
    cdef const ClientStatement *entry
    cdef uint64_t bound_at = 0
    cdef uint32_t i
    if effect != NULL and effect.flags & EFFECT_DUPLICATE:
        found.text = <const uint8_t *> effect.entry.name
        found.n = effect.entry.shown_n
        return
    if effect != NULL and effect.called != NULL and (
        is_named(effect.called.statement, name, n)
    ):
        found.text = <const uint8_t *> effect.called.name
        found.n = effect.called.shown_n
        return
    if effect != NULL and effect.query != NULL and name_in_query(
        effect.query, name, n, found
    ):
        return
    if effect != NULL and effect.flags & NAMES_ONE and effect.entry != NULL and (
        is_named(effect.entry.statement, name, n)
    ):
        found.text = <const uint8_t *> effect.entry.name
        found.n = effect.entry.shown_n
        return
    found.text = NULL
    found.n = 0
    name_in_portal(c, name, n, found)
    if names == NULL:
        return
    if names.unnamed != NULL and is_named(names.unnamed, name, n):
        bound_at = names.unnamed_bound_at
    for i in range(names.mask + 1):
        entry = names.buckets[i]
        while entry != NULL:
            if entry.bound_at >= bound_at and is_named(entry.statement, name, n):
                bound_at = entry.bound_at
                found.text = <const uint8_t *> entry.name
                found.n = entry.shown_n
            entry = entry.next


cdef bint is_quoted(const uint8_t *text, size_t at) noexcept nogil:
    """Whether the first quote of a text stands before ``at``, of whatever language.

    Other than ASCII's they need two bytes or more, and perhaps a blank behind them.
    """
    if at and text[at - 1] == c" ":
        at -= 1
    elif at and text[at - 1] == c'"':
        return memchr(text, c'"', at) == text + at - 1
    return at > 1 and text[at - 1] >= 0x80


cdef void put_renamed(
    Output *out, const StatementTable *t, const ClientSession *c, const Effect *effect,
    const uint8_t *text, size_t n,
) noexcept nogil:
    """Bytes in which the client's name stands where ours did.

    It stands in quotes of whatever language, and before all other quotes.
    """
    cdef const uint8_t *end = text + n
    cdef const uint8_t *done = text
    cdef const uint8_t *rest = behind_prefix(&t.forms, text, n)
    cdef const uint8_t *at = NULL
    cdef size_t rest_n
    cdef size_t name_n
    cdef Name name
    if rest != NULL:
        at = rest - t.forms.prefix_n
    if at != NULL and is_quoted(text, <size_t> (at - text)):
        rest_n = name_bytes(rest, end)
        name_n = t.forms.prefix_n + rest_n
        if at + name_n < end and at[name_n] == c"?":  # a name made to be missing
            put_bytes(out, done, <size_t> (at - done) + name_n)
            done = at + name_n + 1
        elif is_statements(&t.forms, rest, rest_n) or (
            effect != NULL and effect.flags & EFFECT_DUPLICATE
        ):
            put_bytes(out, done, <size_t> (at - done))
            name_of_client(c, effect, at, name_n, &name)
            put_bytes(out, name.text, name.n)
            done = at + name_n
    put_bytes(out, done, <size_t> (end - done))


cdef void put_position(
    Output *out, const Effect *effect, const uint8_t *digits
) noexcept nogil:
    """A position in the text that the client has sent, which was not the server's."""
    cdef char text[24]
    cdef long position = strtol(<const char *> digits, NULL, 10)
    cdef long moved_by = 0
    cdef uint32_t i
    if effect.query == NULL:
        if position > <long> effect.moved_from:
            moved_by = effect.moved_by
    else:
        for i in range(effect.query.row_n):
            if position <= <long> effect.query.rows[i].behind:
                break
            moved_by = effect.query.rows[i].moved_by
    position -= moved_by
    put_bytes(
        out, <const uint8_t *> text, snprintf(text, sizeof(text), b"%ld", position) + 1
    )


cdef bint put_renamed_error(
    Output *out, const StatementTable *t, const ClientSession *c, const Effect *effect,
    const uint8_t *message, size_t n, const char *routine,
) noexcept nogil:
    """An ErrorResponse as it would be if the client's own text had been sent.

    ``routine``: what stands in field R then, NULL: what stands there. False, and
    nothing is put, when it is that already.
    """
    cdef size_t start = out.n
    cdef size_t at = HEADER_BYTES
    cdef const uint8_t *end
    cdef bint moved = effect != NULL and (
        effect.moved_by != 0 or effect.query != NULL
    )
    cdef bint named = (
        behind_prefix(&t.forms, message, n) != NULL
        and names_statement(message, n)
    )
    if not moved and not named and routine == NULL:
        return False
    put_bytes(out, message, HEADER_BYTES)
    while at < n and message[at] != 0:
        end = <const uint8_t *> memchr(message + at, 0, n - at)
        if end == NULL:
            break
        put_bytes(out, message + at, 1)
        if moved and message[at] == c"P":
            put_position(out, effect, message + at + 1)
        elif routine != NULL and message[at] == c"R":
            put_bytes(out, <const uint8_t *> routine, strlen(routine) + 1)
        elif named and message[at] == c"M":
            put_renamed(
                out, t, c, effect, message + at + 1, <size_t> (end - message) - at
            )
        else:
            put_bytes(out, message + at + 1, <size_t> (end - message) - at)
        at = <size_t> (end - message) + 1
    put_bytes(out, message + at, n - at)
    if not out.failed:
        store_be32(
            out.scratch + start + 1, <uint32_t> (out.n - start - 1)
        )
    return True


cdef void put_our_error(
    Output *out, const StatementTable *t, const ClientSession *c, Effect *effect,
    const uint8_t *message, size_t n,
) noexcept nogil:
    """The error of a request of ours, with the name and the place of its client's.

    ``effect``: of that request, or NULL. PostgreSQL counts from the beginning of the
    text of the PREPARE, which is taken for one that begins so and names it so.
    """
    cdef const Statement *st = effect.installed if effect != NULL else NULL
    cdef Name name
    if st != NULL and effect.moved_from != 0:
        name_of_client(c, NULL, <const uint8_t *> st.name, st.name_n, &name)
        effect.moved_by = <int32_t> st.name_n + 2 - <int32_t> name.n
    if not put_renamed_error(out, t, c, effect, message, n, NULL):
        put_bytes(out, message, n)


cdef void put_owed_error(Output *out, const ServerSession *s) noexcept nogil:
    """What we could not prepare in front of a Query is what fails in it now."""
    cdef const Queue *owed = &s.tracking.owed_error
    put_bytes(out, owed.data + owed.start, queue_size(owed))


cdef void put_bytes(Output *out, const uint8_t *p, size_t n) noexcept nogil:
    """Copy bytes into the client's stream."""
    cdef uint8_t *room
    if n:
        room = output_room(out, n)
        if room != NULL:
            memcpy(room, p, n)
