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

cdef enum:
    COUNTED_LETTERS = 0x2010D  # A, C, D, I, R: bit 0 is A


cdef inline bint tag_is_counted(
    const ServerSession *s, const uint8_t *tag, size_t n
) noexcept nogil:
    """Whether schema_tag may have anything to do."""
    cdef uint8_t letter = tag[0] - c"A" if n else 26
    return s.tracking.changing or (letter < 26 and COUNTED_LETTERS >> letter & 1)

cdef void schema_tag(
    StatementTable *t, ServerSession *s, const uint8_t *tag, size_t n
) noexcept nogil
cdef void schema_ready(StatementTable *t, ServerSession *s) noexcept nogil
