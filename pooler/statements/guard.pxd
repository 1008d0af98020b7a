# SPDX-License-Identifier: MIT
"""A savepoint around what we prepare in front of a Query in a transaction block.

Statements layer, sans-IO. If a statement cannot be prepared there, the block would have
failed before the Query has begun, and what stands in the Query in front of the command
that needs it (a COMMIT, perhaps) would not be carried out. So the block is brought back
to where it was, whether that has failed or not: a prepared statement outlives a
savepoint that is rolled back.

Source: PostgreSQL documentation, "SAVEPOINT", "ROLLBACK TO SAVEPOINT", "PREPARE".
"""

from pooler.wire.buffers cimport Output
from pooler.session.records cimport ServerSession
from pooler.tables.texts cimport StatementTable

cdef int guard_begin(
    const StatementTable *t, ServerSession *s, Output *out
) noexcept nogil
cdef int guard_end(
    const StatementTable *t, ServerSession *s, Output *out
) noexcept nogil
