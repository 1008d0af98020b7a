# SPDX-License-Identifier: MIT
"""What the engine counts, and who is at the other end, for Python. IO layer, cold."""

from pooler.io.conn cimport Loop, Peer
from pooler.session.records cimport Pool

cdef dict loop_counters(const Loop *L)
cdef dict pool_counters(const Pool *p)
cdef object peer_name(const Peer *peer)
