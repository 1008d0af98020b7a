# SPDX-License-Identifier: MIT
"""A copy of the batch under way, to send it once more if its plan has gone stale.

Statements layer, sans-IO. PostgreSQL refuses to run a prepared statement whose result
type has changed since it was prepared (0A000), and a name that it has lost (26000). A
client that shares its server is not to blame, so its statement is prepared again and
the batch repeated, once, if nothing of it can have been carried out: it runs outside a
transaction block, the request that failed is its first, and nothing was sent behind
it. For that a copy of a small batch is kept until its first answer.

A repeat never does anything a second time. The first request of an extended batch is a
Bind or a Describe, before anything has run. A Query must be nothing but one EXECUTE,
which finds out that its name is missing before it evaluates its arguments, and that its
plan is stale behind that. What fails inside a function has a context (field W), and a
routine (field R) is what no SQL can make up.

A Parse of a known text may be *unproven*: it stands in the queue of requests, and is
answered when the Bind behind it has succeeded. If that fails, whatever the reason, the
client's own Parse is sent and the batch behind it. Until then its batch must stay one
that can be sent again (``replay_takes``).

Source: PostgreSQL documentation, "PREPARE" (Notes), "Pipelining", "Message Formats"
(ErrorResponse), "Error and Notice Message Fields".
"""

from libc.stdint cimport uint8_t, uint32_t

from pooler.wire.buffers cimport Output
from pooler.session.records cimport REPLAY_OFF, ServerSession
from pooler.tables.texts cimport Statement, StatementTable

cdef enum:
    REPLAY_MAX_BYTES = 16384

cdef enum StaleError:  # what an ErrorResponse says of a statement
    STALE_NOT  # nothing: it was cancelled, or could not be served
    STALE_PERHAPS  # it may be the fault of what was prepared earlier
    STALE_MISSING  # the server does not have it
    STALE_RESULT  # it returns something else than when it was prepared

cdef enum ReplayTakes:  # what becomes of a request behind an unproven Parse
    TAKES_IT
    TAKES_LATER  # it has to be here as a whole
    TAKES_NO_MORE  # it waits until the Parse is proven


cdef inline void replay_forget(ServerSession *s) noexcept nogil:
    """The batch is not sent again, whatever comes of it."""
    s.replay.state = REPLAY_OFF
    s.replay.unproven = False


cdef inline void replay_repeats(ServerSession *s) noexcept nogil:
    """The batch is sent again, which happens once only."""
    s.replay.repeated = True
    s.replay.unproven = False


cdef inline void replay_proven(ServerSession *s) noexcept nogil:
    """What was unproven is answered, or need not be."""
    s.replay.unproven = False


cdef inline void replay_foresee(ServerSession *s, bint bind_follows) noexcept nogil:
    """What comes behind the Parse that is looked at."""
    s.replay.bind_follows = bind_follows


cdef inline bint replay_withholds(const ServerSession *s) noexcept nogil:
    """Whether the request at the head is an unproven Parse: it is not answered yet."""
    return s.replay.unproven and s.requests.head == s.replay.first

cdef void replay_arm(
    StatementTable *t, ServerSession *s, const Output *out, Statement *st
) noexcept nogil
cdef void replay_arm_parse(
    StatementTable *t, ServerSession *s, const Output *out, Statement *st
) noexcept nogil
cdef void replay_arm_query(
    StatementTable *t, ServerSession *s, const Output *out, Statement *st,
    const uint8_t *arguments, size_t n,
) noexcept nogil
cdef void replay_request(ServerSession *s, uint8_t code) noexcept nogil
cdef ReplayTakes replay_takes(
    const ServerSession *s, const Output *out, size_t unsent, uint8_t code,
    uint32_t length, bint whole,
) noexcept nogil
cdef void replay_collect(ServerSession *s, const Output *out) noexcept nogil
cdef bint replay_possible(ServerSession *s) noexcept nogil
cdef bint replay_wanted(
    ServerSession *s, const uint8_t *body, size_t n
) noexcept nogil
cdef bint says_taken(
    const StatementTable *t, const uint8_t *body, size_t n
) noexcept nogil
cdef bint says_owed(
    const StatementTable *t, const ServerSession *s, const uint8_t *body, size_t n
) noexcept nogil
cdef bint says_stale(
    const StatementTable *t, const uint8_t *body, size_t n
) noexcept nogil
cdef void replay_free(StatementTable *t, ServerSession *s) noexcept nogil
