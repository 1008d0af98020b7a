# SPDX-License-Identifier: MIT
"""Prepared statements: a Query or Parse that comes in parts is kept until it is whole.

Statements layer, sans-IO. Source: PostgreSQL documentation, "Message Flow".
"""

from libc.stdint cimport uint8_t

from pooler.wire.buffers cimport Output
from pooler.session.records cimport ClientSession, ServerSession
from pooler.statements.outcomes cimport PrepareResult
from pooler.tables.client_names cimport ABSORB_WAITS
from pooler.tables.texts cimport StatementTable

cdef PrepareResult prepare_rest(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out,
    const uint8_t *src, size_t n,
) noexcept nogil
cdef PrepareResult prepare_absorbed(
    StatementTable *t, ClientSession *c, ServerSession *s, Output *out
) noexcept nogil


cdef inline bint absorbed_waits(const ClientSession *c) noexcept nogil:
    """Whether a message that was kept is complete, and could not go on yet."""
    return c.statements != NULL and c.statements.absorbing == ABSORB_WAITS
