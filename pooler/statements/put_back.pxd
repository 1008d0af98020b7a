# SPDX-License-Identifier: MIT
"""Parameters go back to what their client had, straight behind what resets them.

Statements layer, sans-IO, cold. What stands behind a RESET in the same Query or batch
is read under the value of the client's login, too: in a Query a SET is put behind the
command, in a batch a set_config() behind the Execute. Where a text may have set
something else, or resets a list, the end of the Query or batch decides (relay.align).

Source: PostgreSQL documentation, "RESET", "SET".
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from pooler.session.records cimport ClientSession, ServerSession
from pooler.tables.query_names cimport QueryNames, QueryNamesRoom
from pooler.tables.texts cimport StatementTable
from pooler.wire.buffers cimport Output

cdef enum:
    BACKS_MAX = 16  # of one Query

cdef struct Back:  # what stands behind one command
    size_t end  # of the command
    uint32_t command
    uint16_t session  # parameters
    uint16_t local  # likewise, for the transaction only

cdef struct Backs:
    Back back[BACKS_MAX]
    uint32_t count
    uint32_t added

cdef bint backs_find(
    StatementTable *t, const ClientSession *c, const ServerSession *s,
    const uint8_t *text, size_t n, uint8_t flags, Backs *backs,
) noexcept nogil
cdef int backs_add(
    const StatementTable *t, const ClientSession *c, Backs *backs, size_t before,
    QueryNames *names, const QueryNamesRoom *room,
) noexcept nogil
cdef void back_bound(
    const StatementTable *t, const ClientSession *c, ServerSession *s, uint64_t changes
) noexcept nogil
cdef int put_back_behind(
    StatementTable *t, const ClientSession *c, ServerSession *s, Output *out
) noexcept nogil
