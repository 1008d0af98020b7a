# SPDX-License-Identifier: MIT
"""PREPARE, EXECUTE and DEALLOCATE by the extended protocol, when they are run.

Statements layer, sans-IO. A Parse reads them and no more. Each time that one is
executed, PostgreSQL looks at the name. What an EXECUTE finds then is seen to by
``targets``. The text that the server has of the other two names a *target*
that nobody else names, the same at every run. So in front of the Execute the server is
made to know the target's name or not, as the client's own name is taken then or free,
and PostgreSQL itself answers. A PREPARE really prepares its target, which gets the
client's name. The target of a DEALLOCATE is an empty text that stands in for what the
client's name means then; that one stays on the server, as after a Close.

Source: PostgreSQL documentation, "PREPARE", "DEALLOCATE", "Extended Query".
"""

from libc.stdint cimport uint8_t

from pooler.wire.buffers cimport Output
from pooler.session.records cimport ClientSession, ServerSession
from pooler.statements.outcomes cimport PrepareResult
from pooler.tables.texts cimport StatementTable
from pooler._wire cimport Found

cdef PrepareResult cursors_now(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out, bint for_query
) noexcept nogil
cdef PrepareResult run_names(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const Found *found, const uint8_t *message, size_t here, size_t *taken,
) noexcept nogil
