# SPDX-License-Identifier: MIT
"""An empty text that stands in for a statement which the server lacks.

Statements layer, sans-IO. Some requests are answered from a statement's name and
parameters alone: a Bind with the wrong number of values, any Bind in a transaction
that has failed, a Describe of what returns no rows, a DEALLOCATE. PostgreSQL reads
nothing anew for them; we should have to, which may fail where they do not (the table is
gone, the transaction has failed). An empty text with the same parameters can be parsed
at any time, and PostgreSQL answers the client's own request from it. It is closed
before the statement itself is needed.

Source: PostgreSQL documentation, "Extended Query"; "Message Formats" (Bind, Describe).
"""

from libc.stdint cimport uint8_t

from pooler.wire.buffers cimport Output
from pooler.session.records cimport ClientSession, ServerSession
from pooler.tables.client_names cimport ClientStatement
from pooler.tables.server_statements cimport ServerStatement
from pooler.tables.texts cimport Statement, StatementTable
from pooler._wire cimport Found

cdef const uint8_t *stand_in_for(
    const StatementTable *t, const ClientSession *c, ServerSession *s, Statement *st,
    const ClientStatement *entry, const Found *found, const uint8_t *message,
    size_t here, size_t name_end,
) noexcept nogil
cdef const uint8_t *types_of(
    const StatementTable *t, const Statement *st, const ClientStatement *entry
) noexcept nogil
cdef ServerStatement *put_stand_in(
    StatementTable *t, ServerSession *s, Output *out, Statement *st,
    const uint8_t *types,
) noexcept nogil
