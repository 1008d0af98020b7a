# SPDX-License-Identifier: MIT
"""What a ready connection sets off: one receive, one step, its orders.

IO layer, hot.
"""

from pooler.io.conn cimport Loop
from pooler.io.poll cimport Event

cdef void conn_ready(Loop *L, const Event *event) noexcept nogil
cdef void deadlines_ready(Loop *L) noexcept nogil
