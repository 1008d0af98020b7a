# SPDX-License-Identifier: MIT
"""Walks over all connections of a worker. IO layer, warm.

For what is rare (a cancel request, a pool that is retired, the end): each costs a visit
to every connection, and spares every connection a place in one more list.
"""

from libc.stdint cimport uint32_t, uint8_t

from pooler.io.conn cimport Loop
from pooler.session.records cimport ClientSession, CloseReason, Pool

cdef void close_all(Loop *L) noexcept nogil
cdef void limits_changed(Loop *L, const Pool *p) noexcept nogil
cdef uint32_t send_clients_away(Loop *L, uint32_t most, bint idle_only) noexcept nogil
cdef void retire_servers(Loop *L, Pool *p) noexcept nogil
cdef void pause_servers(Loop *L, Pool *p) noexcept nogil
cdef void retire_again(Loop *L, Pool *p) noexcept nogil
cdef uint32_t count_obsolete(const Loop *L, const Pool *p) noexcept nogil
cdef void kill_pool(Loop *L, Pool *p, CloseReason reason) noexcept nogil
cdef list client_users(const Loop *L)
cdef object client_of_id(const Loop *L, uint32_t id)
cdef ClientSession *cancel_owner(
    Loop *L, const uint8_t *key, size_t n
) noexcept nogil
