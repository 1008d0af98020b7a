# SPDX-License-Identifier: MIT
"""SQL that is about to run: what it may change is noted with its server.

Statements layer, sans-IO, hot. In session mode only parameters are noted: a server has
one client, and is reset behind it, but its defaults are not what that client asked for.

Source: PostgreSQL documentation, "Message Formats" (Query, Bind, FunctionCall).
"""

from libc.stdint cimport uint64_t, uint8_t

from pooler.session.records cimport MODE_SESSION, ServerSession
from pooler.tables.texts cimport Statement, StatementTable, TARGET_NONE
from pooler.wire.buffers cimport Output


cdef inline bint is_watched(const ServerSession *s) noexcept nogil:
    """Whether a server is shared, so that what is left in it could show."""
    return s.pool.config.mode != MODE_SESSION


cdef inline bint runs_quietly(
    const ServerSession *s, const Statement *st
) noexcept nogil:
    """Whether running a statement surely changes nothing that matters on its server.

    That was found out before, and its text names no other statement.
    """
    return st.target_use == TARGET_NONE and st.target == NULL and (
        (st.changes_known and st.changes == 0) or not is_watched(s)
    )

cdef uint64_t runs_query(
    StatementTable *t, ServerSession *s, const uint8_t *text, size_t n
) noexcept nogil
cdef void look_once(
    StatementTable *t, const ServerSession *s, Statement *st
) noexcept nogil
cdef int put_discard_query(ServerSession *s, Output *out) noexcept nogil
cdef int put_discard_before(
    StatementTable *t, ServerSession *s, Output *out, Statement *st
) noexcept nogil
cdef void query_sent(ServerSession *s, uint64_t changes) noexcept nogil
cdef void runs_statement(
    StatementTable *t, ServerSession *s, Statement *st
) noexcept nogil
cdef void runs_values(
    StatementTable *t, ServerSession *s, const uint8_t *message, size_t here,
    size_t length, size_t name_end,
) noexcept nogil
cdef void runs_unseen(ServerSession *s) noexcept nogil
cdef void runs_function(
    ServerSession *s, const uint8_t *body, size_t n
) noexcept nogil
