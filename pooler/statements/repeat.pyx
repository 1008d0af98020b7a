# SPDX-License-Identifier: MIT
"""A batch that is sent once more; see ``repeat.pxd``."""

from libc.stdint cimport uint8_t, uint32_t

from pooler.wire.buffers cimport Output, output_add
from pooler.statements.effects cimport effects_take, effects_undo, push_with_effect
from pooler.session.requests cimport (
    REQUEST_COPY_END, REQUEST_DESCRIBE, REQUEST_SKIP, batch_number, request_closes,
    requests_at, requests_fail, requests_push,
)
from pooler.tables.client_names cimport ClientStatement
from pooler.tables.effect_queue cimport EFFECT_DESCRIBES, Effect
from pooler.tables.texts cimport Statement, statement_ref
from pooler._wire cimport HEADER_BYTES, load_be32
from pooler.session.batch cimport batch_bind, batch_open, batch_synced
from pooler.session.counters cimport count_replay, count_server_parse
from pooler.statements.replay cimport replay_repeats
from pooler.statements.install cimport (
    end_own_batch, install, make_room, note_installed, only_name_of, put_parse,
    put_sync,
)


cdef int parse_again(
    StatementTable *t, ServerSession *s, Output *out, const Effect *before
) noexcept nogil:
    """Send the client's own Parse, whose unproven answer was not given.

    ``before``: the effect that it had in the queue.
    """
    cdef Statement *st = s.replay.statement
    cdef Effect *effect
    if make_room(t, s, out, st) < 0:
        return -1
    effect = push_with_effect(s, c"P")
    if (
        effect == NULL or note_installed(t, s, st) == NULL
        or put_parse(out, st, st.name, st.name_n) < 0
    ):
        return -1
    effect[0] = before[0]
    effect.installed = statement_ref(st)
    count_server_parse(s.pool)
    return 0


cdef int queue_again(ServerSession *s) noexcept nogil:
    """Queue the requests of the kept batch; -1 without memory.

    What a Describe says this time is noted for the name that its client has for the
    statement.
    """
    cdef const uint8_t *batch = s.replay.bytes
    cdef Statement *st = s.replay.statement
    cdef ClientStatement *name = only_name_of(s.client.statements, st)
    cdef Effect *effect
    cdef size_t at = 0
    cdef uint8_t code
    while at + HEADER_BYTES <= s.replay.n:
        code = batch[at]
        if code == c"D":
            effect = push_with_effect(s, REQUEST_DESCRIBE)
            if effect == NULL:
                return -1
            effect.flags = EFFECT_DESCRIBES
            effect.installed = statement_ref(st)
            effect.entry = name
        elif code == c"c" or code == c"f":
            if requests_push(&s.requests, REQUEST_COPY_END) < 0:
                return -1
        elif code != c"H" and code != c"d" and requests_push(&s.requests, code) < 0:
            return -1
        if code != c"H":
            batch_open(s, not request_closes(code))
        if request_closes(code):
            batch_bind(s, NULL)
        elif code == c"B" and batch[at + HEADER_BYTES] == 0:  # the unnamed portal
            batch_bind(s, name)
        at += 1 + <size_t> load_be32(batch + at + 1)
    return 0


cdef int send_again(
    StatementTable *t, ServerSession *s, Output *out
) noexcept nogil:
    """The kept batch has failed at its first request: send it once more.

    PostgreSQL skips to the Sync of the batch, or answers ReadyForQuery to the Query
    that it was; that answer is swallowed. An unproven Parse is sent this time.
    """
    cdef bint is_query = s.replay.bytes[0] == c"Q"
    cdef bint unproven = s.replay.unproven
    cdef Effect before
    cdef uint32_t skipped = 0
    cdef bint open = requests_fail(&s.requests, &skipped)
    if unproven:  # its effect is taken out, neither committed nor undone
        effects_undo(t, s, 1, skipped - 1)
        before = effects_take(s)
    else:
        effects_undo(t, s, 0, skipped)
    count_replay(s.pool)
    replay_repeats(s)
    if open:
        if put_sync(s, out) < 0:
            return -1
    else:
        requests_at(&s.requests, s.requests.head)[0] |= REQUEST_SKIP
    batch_synced(s)
    batch_open(s, False)
    if s.client.statements != NULL and unproven:
        s.client.statements.names_batch = batch_number(&s.requests)
        s.client.statements.unnamed_batch = batch_number(&s.requests)
    if unproven:
        if parse_again(t, s, out, &before) < 0:
            return -1
    elif install(t, s, out, s.replay.statement, is_query) < 0:
        return -1
    if is_query and end_own_batch(s, out) < 0:
        return -1
    if queue_again(s) < 0:
        return -1
    output_add(out, s.replay.bytes, s.replay.n)
    return 0 if not out.failed else -1
