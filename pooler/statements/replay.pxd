# SPDX-License-Identifier: MIT
"""A copy of the batch under way, to send it once more if its plan has gone stale.

Statements layer, sans-IO. PostgreSQL refuses to run a prepared statement whose result
type has changed since it was prepared (0A000), and a name that it has lost (26000). A
client that shares its server is not to blame, so its statement is prepared again and
the batch repeated, once, if nothing of it can have been carried out: it runs outside a
transaction block, the request that failed is its first, and nothing was sent behind
it. For that a copy of a small batch is kept until its first answer.

Source: PostgreSQL documentation, "PREPARE" (Notes), "Pipelining".
"""

from libc.stdint cimport uint8_t

from pooler.wire.buffers cimport Output
from pooler.session.records cimport REPLAY_OFF, ServerSession
from pooler.tables.texts cimport Statement, StatementTable

cdef enum:
    REPLAY_MAX_BYTES = 16384

cdef inline void replay_forget(ServerSession *s) noexcept nogil:
    """The batch is not sent again, whatever comes of it."""
    s.replay.state = REPLAY_OFF


cdef inline void replay_repeats(ServerSession *s) noexcept nogil:
    """The batch is sent again, which happens once only."""
    s.replay.repeated = True


cdef void replay_arm(
    StatementTable *t, ServerSession *s, const Output *out, Statement *st
) noexcept nogil
cdef void replay_arm_query(
    StatementTable *t, ServerSession *s, const Output *out, Statement *st
) noexcept nogil
cdef void replay_request(ServerSession *s, uint8_t code) noexcept nogil
cdef void replay_collect(ServerSession *s, const Output *out) noexcept nogil
cdef bint replay_possible(const ServerSession *s) noexcept nogil
cdef bint is_stale_plan(
    const StatementTable *t, const uint8_t *body, size_t n
) noexcept nogil
cdef void replay_free(StatementTable *t, ServerSession *s) noexcept nogil
