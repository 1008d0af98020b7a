# SPDX-License-Identifier: MIT
"""A Query with names of prepared statements that is too long to be kept whole.

Sans-IO, hot. It has a long value in an EXECUTE or a long text in a PREPARE. The name in
its first command is replaced where it stands, and all that follows streams. So names
behind the first command are not seen: they are the server's own, as those are that
follow a command which does not concern us.

The text of a PREPARE has to be kept, because another server may need it; it is copied
as it passes by. Whether more commands follow it in the Query is known at its end.

Source: PostgreSQL documentation, "PREPARE", "EXECUTE", "DEALLOCATE".
"""

from libc.stdint cimport uint8_t

from pooler._wire cimport Found
from pooler.session.records cimport ClientSession, ServerSession
from pooler.statements.outcomes cimport PrepareResult
from pooler.statements.sql_name cimport SqlCommand
from pooler.tables.texts cimport StatementTable
from pooler.wire.buffers cimport Output

cdef PrepareResult rename_first(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, const uint8_t *message, size_t here, const SqlCommand *first,
    size_t *taken,
) noexcept nogil
cdef PrepareResult end_draft(
    StatementTable *t, ClientSession *c, ServerSession *s
) noexcept nogil
cdef PrepareResult run_absorbed(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out
) noexcept nogil
