# SPDX-License-Identifier: MIT
"""The loop of a worker: wait, serve every ready connection and deadline, again.

IO layer, hot. It comes back to Python only when a descriptor of Python's is ready, a
notice waits, a signal arrived or the time is over.
"""

from libc.stdint cimport uint64_t

from pooler.io.conn cimport Loop

cdef int loop_init(Loop *L, size_t recv_bytes) except -1
cdef void loop_free(Loop *L) noexcept nogil
cdef void loop_now(Loop *L) noexcept nogil
cdef int loop_run(Loop *L, uint64_t deadline_us) noexcept nogil
