# SPDX-License-Identifier: MIT
"""Commands that may change what a text means, or what it returns: counted, for all.

Statements layer, sans-IO, hot. The count is one cell of memory that all workers share
(``ipc/board``): it has changed before the client that asked for the command is told
that it is done. Others see the change when its transaction is over; what they prepare
until then is of before. So every answer up to that end is counted.

Source: PostgreSQL documentation, "Message Formats" (CommandComplete), "Function Type
Resolution", "Operator Type Resolution".
"""

from libc.stdint cimport uint8_t

from pooler.session.records cimport ServerSession
from pooler.tables.texts cimport StatementTable

cdef void schema_tag(
    StatementTable *t, ServerSession *s, const uint8_t *tag, size_t n
) noexcept nogil
cdef void schema_ready(StatementTable *t, ServerSession *s) noexcept nogil
