# SPDX-License-Identifier: MIT
"""The readiness loop of a worker: epoll_wait, every ready connection, again.

IO layer, hot. It comes back to Python only when a descriptor of Python's is ready, a
notice waits, a signal arrived or the time is over.
"""

from libc.stdint cimport uint64_t

from pooler.io.conn cimport Loop

cdef int loop_init(Loop *L, size_t recv_bytes) noexcept nogil
cdef void loop_free(Loop *L) noexcept nogil
cdef void loop_run(Loop *L, uint64_t deadline_us) noexcept nogil
cdef void free_dead(Loop *L) noexcept nogil
