# SPDX-License-Identifier: MIT
"""Descriptors of servers that move to another worker, or come from one. IO layer, warm.

Only a plain socket moves: of TLS a part of the state is in this process.
"""

from libc.stdint cimport uint8_t

from pooler.io.conn cimport Loop, ServerConn
from pooler.relay.moves cimport Thawed
from pooler.session.records cimport Pool
from pooler.wire.buffers cimport Queue

cdef int give_server(Loop *L, ServerConn *sc, Queue *record) noexcept nogil
cdef ServerConn *receive_server(
    Loop *L, int fd, Pool *p, Thawed *t
) noexcept nogil
