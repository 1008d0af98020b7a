# SPDX-License-Identifier: MIT
"""Fresh client sockets go to the worker that has fewest. IO layer, warm.

The kernel spreads connections by a hash, so some workers get more than others, and one
that has just been started has none. A worker that has accepted a socket, and has more
clients than its part, passes it on before a byte is read: by SCM_RIGHTS through the
*door* of another worker, a pair of Unix sockets made before the fork. A door is
accepted from like a listening socket. Sockets on their way are counted on the board
(``coming``), so that a burst does not all go to the same worker.

Source: man pages unix(7), cmsg(3).
"""

from libc.stdint cimport uint64_t

from pooler.io.conn cimport Loop

cdef int spread_target(const Loop *L) noexcept nogil
cdef bint spread_pass(Loop *L, int target, int fd) noexcept nogil
cdef void spread_arrived(uint64_t *coming) noexcept nogil
cdef void spread_count(Loop *L) noexcept nogil
