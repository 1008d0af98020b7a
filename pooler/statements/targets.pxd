# SPDX-License-Identifier: MIT
"""What the name in an EXECUTE means when PostgreSQL looks it up.

Statements layer, sans-IO, hot. The text of an EXECUTE that came by Parse names its
*target*: what its client called so then, or an empty statement of its own if that was
nothing. PostgreSQL looks the name up at the Parse, at each Bind and when a portal is
run first. In front of these the server is made to have by the target's name what the
client's name means by then: the target itself, another statement in its place, or
nothing at all, so that PostgreSQL itself fails. What stands in another's place is not
taken for that one (``ServerStatement.instead``).

Source: PostgreSQL documentation, "EXECUTE", "Extended Query".
"""

from libc.stdint cimport uint64_t

from pooler.session.records cimport ClientSession, ServerSession
from pooler.tables.texts cimport Statement, StatementTable
from pooler.wire.buffers cimport Output

cdef Statement *target_meaning(
    const ClientSession *c, const Statement *st
) noexcept nogil
cdef bint target_is_now(
    const ClientSession *c, const ServerSession *s, const Statement *st
) noexcept nogil
cdef int target_now(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Statement *st, bint for_query,
) noexcept nogil
cdef int ensure_as_parsed(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, Statement *st,
    bint for_query, uint64_t born,
) noexcept nogil
cdef bint target_in_query(
    const ClientSession *c, const ServerSession *s, const Statement *st, bint changed
) noexcept nogil
cdef int ensure_in_query(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, Statement *st,
    uint64_t born,
) noexcept nogil
cdef int ensure_bound(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, Statement *st,
    uint64_t born,
) noexcept nogil
