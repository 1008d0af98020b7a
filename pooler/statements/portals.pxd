# SPDX-License-Identifier: MIT
"""Portals in which PREPARE, EXECUTE or DEALLOCATE stands, from Bind to Execute.

Statements layer, sans-IO, hot. Writes ``ServerSession.portals``. They look at names
when they are run, and an Execute says only which portal. All others are not noted; most
clients never have one. A portal that PostgreSQL has dropped may stay in the list: its
Execute fails.

Source: PostgreSQL documentation, "Extended Query".
"""

from libc.stdint cimport uint8_t, uint64_t

from pooler.session.records cimport Portal, ServerSession
from pooler.tables.texts cimport Statement, StatementTable

cdef enum:
    PORTALS_MOST = 128

cdef Portal *portal_find(
    const ServerSession *s, const uint8_t *name, size_t n
) noexcept nogil
cdef bint portal_bind(
    StatementTable *t, ServerSession *s, const uint8_t *name, size_t n, Statement *st
) noexcept nogil
cdef void portal_runs(Portal *portal, const Statement *st) noexcept nogil
cdef void portal_closed(
    StatementTable *t, ServerSession *s, uint64_t number
) noexcept nogil
cdef void portal_forget(
    StatementTable *t, ServerSession *s, const uint8_t *name, size_t n
) noexcept nogil
cdef void portals_free(StatementTable *t, ServerSession *s) noexcept nogil
