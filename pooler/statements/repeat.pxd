# SPDX-License-Identifier: MIT
"""Prepared statements: a batch that has failed for a reason of ours is sent once more.

Statements layer, sans-IO. What is kept of it for that: ``replay``. Source: PostgreSQL
documentation, "Extended Query".
"""

from pooler.wire.buffers cimport Output
from pooler.session.records cimport ServerSession
from pooler.tables.texts cimport StatementTable

cdef int send_again(
    StatementTable *t, ServerSession *s, Output *out
) noexcept nogil
