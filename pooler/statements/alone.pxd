# SPDX-License-Identifier: MIT
"""Prepared statements: requests that are answered for a client without a server.

Statements layer, sans-IO, hot. Source: PostgreSQL documentation, "Extended Query".
"""

from libc.stdint cimport uint8_t

from pooler.wire.buffers cimport Output
from pooler.session.records cimport ClientSession
from pooler.tables.texts cimport StatementTable

cdef size_t prepare_alone(
    StatementTable *t, ClientSession *c, Output *to_client, const uint8_t *message,
    size_t here,
) noexcept nogil
