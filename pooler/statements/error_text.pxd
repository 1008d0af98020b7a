# SPDX-License-Identifier: MIT
"""Errors of PostgreSQL in a client's own words.

Statements layer, sans-IO, cold. An error about a prepared statement bears its name on
the server; the client shall read the name that it gave. A request that we made fail on
purpose has a text of ours.
"""

from libc.stdint cimport uint8_t

from pooler.wire.buffers cimport Output
from pooler.session.records cimport ClientSession, ServerSession
from pooler.tables.effect_queue cimport Effect
from pooler.tables.texts cimport StatementTable

cdef void put_refusal(Output *out, uint8_t refusal) noexcept nogil
cdef void put_our_error(
    Output *out, const StatementTable *t, const ClientSession *c, Effect *effect,
    const uint8_t *message, size_t n,
) noexcept nogil
cdef void put_owed_error(Output *out, const ServerSession *s) noexcept nogil
cdef bint put_renamed_error(
    Output *out, const StatementTable *t, const ClientSession *c, const Effect *effect,
    const uint8_t *message, size_t n, const char *routine,
) noexcept nogil
