# SPDX-License-Identifier: MIT
"""What the parts of the engine have in common: its loop, and what handles mean."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from pooler.io.conn cimport ClientConn, LinkConn, Loop
from pooler.session.records cimport Pool
from pooler.tables.params cimport ParamSet
from pooler.wire.buffers cimport Queue


cdef const uint8_t *bytes_of(bytes data) except NULL
cdef bytes bytes_in(const Queue *q)


cdef class EngineLoop:
    cdef Loop loop
    cdef tuple tracked
    cdef uint32_t[::1] schema_cell  # shared with other workers; None: not
    cdef uint64_t[::1] parse_cell  # likewise
    cdef uint32_t[::1] databases_cell  # likewise
    cdef uint32_t[::1] id_cell  # likewise
    cdef uint64_t[:] client_cells  # of all workers, on the board; None: there is none
    cdef object page  # keeps the page of accounts; None: there is none
    cdef tuple spread_columns  # of the board, lent to the loop; None: none
    cdef object login_context  # TlsContext or None; the loop borrows from it
    cdef bint made  # there is a loop to close

    cpdef void close(self)
    cdef ClientConn *client(self, uint64_t handle) except? NULL
    cdef LinkConn *link(self, uint64_t handle) except? NULL
    cdef Pool *pool(self, uint32_t pool_id) except NULL
    cdef ParamSet *parameter_set(self, object parameters) except NULL
