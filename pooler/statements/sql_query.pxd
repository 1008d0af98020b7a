# SPDX-License-Identifier: MIT
"""Names of prepared statements in the commands of a Query, each in its turn.

Statements layer, sans-IO, hot. The commands are read in their order, as PostgreSQL will
carry them out: what one prepares, the next may execute. A statement that the server
lacks is prepared in front of the Query. One that the Query has dropped under one name
and needs under another, or prepares although it needs it already, gets a second name on
servers for that.

What a Query does to names is done to the client's map as it is read; see
``tables.query_names`` for how it is taken back when PostgreSQL does not come to it.

Source: PostgreSQL documentation, "Multiple Statements in a Simple Query", "PREPARE",
"EXECUTE", "DEALLOCATE".
"""

from libc.stdint cimport uint8_t

from pooler.wire.buffers cimport Output
from pooler.session.records cimport ClientSession, ServerSession
from pooler.statements.outcomes cimport PrepareResult
from pooler.tables.texts cimport StatementTable
from pooler.statements.renaming cimport Renaming

cdef bint ends_with(const uint8_t *text, size_t n, size_t at) noexcept nogil
cdef int queue_renamed(
    ServerSession *s, Renaming *r, const uint8_t *text
) noexcept nogil
cdef int put_refused_query(
    const StatementTable *t, ServerSession *s, Output *out
) noexcept nogil
cdef bint sql_names(
    const StatementTable *t, const ClientSession *c, const uint8_t *text, size_t n
) noexcept nogil
cdef bint goes_back_inside(
    StatementTable *t, const ClientSession *c, const ServerSession *s,
    const uint8_t *text, size_t n,
) noexcept nogil
cdef void flush(Output *out) noexcept nogil
cdef PrepareResult rename_query(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *text, size_t n,
) noexcept nogil
