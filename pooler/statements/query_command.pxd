# SPDX-License-Identifier: MIT
"""What one PREPARE, EXECUTE, DEALLOCATE or DISCARD of a Query does to names.

Statements layer, sans-IO, hot. Source: PostgreSQL documentation, "PREPARE",
"EXECUTE", "DEALLOCATE".
"""

from libc.stdint cimport uint8_t

from pooler.wire.buffers cimport Output
from pooler.session.records cimport ClientSession, ServerSession
from pooler.statements.sql_name cimport SqlCommand
from pooler.tables.texts cimport StatementTable
from pooler.statements.renaming cimport Renaming

cdef int query_command(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *text, const SqlCommand *command, Renaming *r,
) noexcept nogil
