# SPDX-License-Identifier: MIT
"""What a request changes in the maps of prepared statements, and how it is taken back.

Statements layer, sans-IO, hot. A client's names and a server's statements change when a
request is sent, because the next message may build on it. Each Parse, Close and
REQUEST_SQL in the queue has an ``Effect``: it is committed when PostgreSQL has
answered, and undone, newest first, when PostgreSQL has skipped the request. Within a
batch that is enough, because PostgreSQL skips all that follows; a later batch waits
(PREPARE_WAIT) before it uses a name that an earlier one has changed.

Source: PostgreSQL documentation, "Pipelining", "Extended Query".
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from pooler.session.records cimport (
    ClientSession, REPLAY_OFF, REPLAY_OPEN, ServerSession,
)
from pooler.session.requests cimport REQUEST_DESCRIBE, REQUEST_SQL, requests_push
from pooler.tables.effect_queue cimport (
    EFFECT_NOTICES, Effect, effects_at, effects_push,
)
from pooler.tables.query_names cimport QueryNames
from pooler.tables.texts cimport StatementTable
from pooler.statements.replay cimport replay_forget


cdef inline Effect *push_with_effect(ServerSession *s, uint8_t request) noexcept nogil:
    """Queue a request and its effect, which is empty yet; NULL without memory.

    The effect's address holds until the next push. A batch that has one in its midst
    is not sent again.
    """
    if s.replay.state == REPLAY_OPEN and request != REQUEST_DESCRIBE:
        replay_forget(s)
    if requests_push(&s.requests, request) < 0:
        return NULL
    return effects_push(&s.effects)

cdef void steps_undo(
    StatementTable *t, ServerSession *s, QueryNames *q
) noexcept nogil
cdef void effects_commit(
    StatementTable *t, ServerSession *s, uint32_t count
) noexcept nogil
cdef Effect effects_take(ServerSession *s) noexcept nogil

cdef inline bint has_notices(ServerSession *s) noexcept nogil:
    """Whether what is answered now is asked for the notices of its answer."""
    return s.effects.head != s.effects.tail and (
        effects_at(&s.effects, s.effects.head).flags & EFFECT_NOTICES != 0
    )

cdef void note_parameters(ServerSession *s, uint64_t shape) noexcept nogil
cdef void note_types(
    const StatementTable *t, ServerSession *s, const uint8_t *types, size_t n
) noexcept nogil
cdef void note_shape(ServerSession *s, uint64_t shape) noexcept nogil
cdef void forget_entries(ServerSession *s) noexcept nogil
cdef void effects_undo(
    StatementTable *t, ServerSession *s, uint32_t after, uint32_t count
) noexcept nogil


cdef inline bint tag_tells(
    uint8_t request, const uint8_t *tag, size_t n
) noexcept nogil:
    """Whether note_tag has anything to do: PREPARE, DEALLOCATE, DISCARD, ROLLBACK.

    ``request``: the one that is being answered.
    """
    return request == REQUEST_SQL or (
        n != 0 and (tag[0] == c"P" or tag[0] == c"D" or tag[0] == c"R")
    )

cdef bint is_extra(ServerSession *s) noexcept nogil
cdef void extra_done(ServerSession *s) noexcept nogil
cdef void note_tag(
    StatementTable *t, ServerSession *s, ClientSession *c, const uint8_t *tag, size_t n
) noexcept nogil
cdef void session_statements_free(
    StatementTable *t, ServerSession *s
) noexcept nogil
cdef void read_otherwise(StatementTable *t, ServerSession *s) noexcept nogil
cdef void values_told(StatementTable *t, ServerSession *s) noexcept nogil
