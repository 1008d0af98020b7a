# SPDX-License-Identifier: MIT
"""Recording of a batch; see ``replay.pxd``."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memcpy

from pooler.session.records cimport (
    REPLAY_ENDING, REPLAY_OFF, REPLAY_OPEN, REPLAY_WHOLE, Replay,
)
from pooler.tables.texts cimport statement_ref, statement_unref

cdef extern from "<string.h>" nogil:
    void *memmem(const void *text, size_t n, const void *part, size_t part_n)

cdef enum:
    FIRST_BYTES = 512


cdef void begin(
    StatementTable *t, ServerSession *s, const Output *out, Statement *st
) noexcept nogil:
    s.replay.n = 0
    s.replay.first = s.requests.tail
    s.replay.output_start = out.n
    s.replay.repeated = False
    if s.replay.statement != st:
        statement_unref(t, s.replay.statement)
        s.replay.statement = statement_ref(st)


cdef void replay_arm(
    StatementTable *t, ServerSession *s, const Output *out, Statement *st
) noexcept nogil:
    """The next request is the first of its batch that needs a prepared statement."""
    if (
        s.replay.state == REPLAY_OFF
        and s.xact_status == c"I"
        and not s.batch.executed
        and s.requests.closing_count == 0
    ):
        begin(t, s, out, st)
        s.replay.state = REPLAY_OPEN


cdef void replay_arm_query(
    StatementTable *t, ServerSession *s, const Output *out, Statement *st
) noexcept nogil:
    """The next request is a Query that is nothing but one EXECUTE."""
    if s.xact_status == c"I" and not s.batch.open:
        begin(t, s, out, st)
        s.replay.state = REPLAY_ENDING


cdef void replay_request(ServerSession *s, uint8_t code) noexcept nogil:
    """A request of the client is about to be sent."""
    if s.replay.state == REPLAY_OPEN and code == c"S":
        s.replay.state = REPLAY_ENDING
    elif s.replay.state != REPLAY_OPEN or (
        code != c"B" and code != c"D" and code != c"E"
    ):
        s.replay.state = REPLAY_OFF


cdef void replay_collect(ServerSession *s, const Output *out) noexcept nogil:
    """Copy what this read has added to the batch; a long batch is not kept."""
    cdef Replay *replay = &s.replay
    cdef size_t start = replay.output_start
    cdef size_t want
    cdef uint8_t *grown
    replay.output_start = 0
    if replay.state != REPLAY_OPEN and replay.state != REPLAY_ENDING:
        return
    want = replay.n + out.n - start
    if want > REPLAY_MAX_BYTES:
        replay.state = REPLAY_OFF
        return
    if want > replay.cap:
        want = want * 2 if want > FIRST_BYTES else FIRST_BYTES
        grown = <uint8_t *> realloc(replay.bytes, want)
        if grown == NULL:
            replay.state = REPLAY_OFF
            return
        replay.bytes = grown
        replay.cap = <uint32_t> want
    if out.n > start:
        memcpy(replay.bytes + replay.n, out.data + start, out.n - start)
        replay.n += <uint32_t> (out.n - start)
    if replay.state == REPLAY_ENDING:
        replay.state = REPLAY_WHOLE


cdef bint replay_possible(const ServerSession *s) noexcept nogil:
    """Whether the request that PostgreSQL answers now is the first of a kept batch."""
    return (
        s.replay.state != REPLAY_OFF
        and not s.replay.repeated
        and s.requests.head == s.replay.first
        and s.requests.head != s.requests.tail
        and s.xact_status == c"I"
        and s.client != NULL
        and s.client.scan.body_left == 0  # else half a message is under way
        and s.replay.n != 0
    )


cdef bint has_name_of_ours(
    const StatementTable *t, const uint8_t *body, size_t n
) noexcept nogil:
    """Whether a text names a statement as servers know it (a number, no suffix)."""
    cdef const uint8_t *end = body + n
    cdef const uint8_t *at = <const uint8_t *> memmem(
        body, n, t.prefix, t.prefix_n
    )
    cdef const uint8_t *digit
    if at == NULL:
        return False
    at += t.prefix_n
    digit = at
    while digit < end and c"0" <= digit[0] <= c"9":
        digit += 1
    return digit > at and not (digit < end and digit[0] == c"?")


cdef bint is_stale_plan(
    const StatementTable *t, const uint8_t *body, size_t n
) noexcept nogil:
    """Whether an ErrorResponse means that a statement must be prepared again.

    0A000 is also what PostgreSQL says of things that it does not support, so its
    routine (field R, which is never translated) decides. A name that the client made
    up is missing for good.
    """
    cdef size_t at = 0
    cdef const uint8_t *end
    cdef bint unsupported = False
    while at < n and body[at] != 0:
        end = <const uint8_t *> memchr(body + at, 0, n - at)
        if end == NULL:
            return False
        if body[at] == c"C" and end - body - at == 6:
            if memcmp(body + at + 1, b"26000", 5) == 0:
                return has_name_of_ours(t, body, n)
            unsupported = memcmp(body + at + 1, b"0A000", 5) == 0
        elif body[at] == c"R" and unsupported:
            return end - body - at == 22 and (
                memcmp(body + at + 1, b"RevalidateCachedQuery", 21) == 0
            )
        at = <size_t> (end - body) + 1
    return False


cdef void replay_free(StatementTable *t, ServerSession *s) noexcept nogil:
    statement_unref(t, s.replay.statement)
    free(s.replay.bytes)
    s.replay.statement = NULL
    s.replay.bytes = NULL
    s.replay.n = s.replay.cap = 0
    s.replay.state = REPLAY_OFF
