# SPDX-License-Identifier: MIT
"""The notice of PostgreSQL that a name is too long (42622), where we replace the name.

Statements layer, sans-IO, cold. PostgreSQL gives it when it reads the text, in its own
language and only if client_min_messages has it. So a text of ours with the same name is
parsed in front of the Query, which is never run; of its answer the notices are told.

Source: PostgreSQL documentation, "Identifiers and Key Words", "client_min_messages".
"""

from libc.stdint cimport uint8_t

from pooler.wire.buffers cimport Output
from pooler.session.records cimport ClientSession, ServerSession
from pooler.statements.sql_name cimport SqlCommand
from pooler.tables.texts cimport StatementTable

cdef int have_name_noticed(
    const StatementTable *t, const ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *text, const SqlCommand *command,
) noexcept nogil
