# SPDX-License-Identifier: MIT
"""EXECUTE by the extended protocol, up to its Execute: Bind, Describe, its portal.

Statements layer, sans-IO, hot. A Bind and a Describe look the name up as an Execute
does (``targets``). A Describe of another statement than an EXECUTE passes by here.

Source: PostgreSQL documentation, "EXECUTE", "Extended Query".
"""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from pooler._wire cimport Found
from pooler.session.records cimport ClientSession, Portal, ServerSession
from pooler.statements.outcomes cimport PrepareResult
from pooler.tables.client_names cimport ClientStatement
from pooler.tables.texts cimport Statement, StatementTable
from pooler.wire.buffers cimport Output

cdef PrepareResult describe_executes(
    const ClientSession *c, ServerSession *s, ClientStatement *entry,
    const Statement *st, uint16_t flags,
) noexcept nogil
cdef void runs_bound(
    StatementTable *t, ClientSession *c, ServerSession *s, Statement *st
) noexcept nogil
cdef bint has_own_columns(const ClientSession *c, const Statement *st) noexcept nogil
cdef int ensure_named(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, Statement *st,
    uint8_t code, uint64_t born,
) noexcept nogil
cdef PrepareResult own_unnamed(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, uint8_t code
) noexcept nogil
cdef PrepareResult describe_or_close_portal(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, const Portal *portal,
) noexcept nogil
