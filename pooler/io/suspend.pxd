# SPDX-License-Identifier: MIT
"""SUSPEND: nothing is accepted or read, and no time is up. IO layer, warm.

What was read before is still sent, so buffers drain. What was not read waits in the
kernel, whole and in order, for RESUME. The mark of a connection is heeded by ``watch``,
so whatever wants to read one in between needs no care.
"""

from libc.stdint cimport uint32_t

from pooler.io.conn cimport Loop
from pooler.session.records cimport Pool

cdef void loop_suspend(Loop *L) noexcept nogil
cdef void loop_resume(Loop *L) noexcept nogil
cdef void spare_pool(Loop *L, const Pool *p) noexcept nogil
cdef uint32_t count_unflushed(const Loop *L) noexcept nogil
cdef void close_unflushed(Loop *L) noexcept nogil
