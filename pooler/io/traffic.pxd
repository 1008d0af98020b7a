# SPDX-License-Identifier: MIT
"""What a ready connection sets off: one recv, the relay, one send to each side.

IO layer, hot.
"""

from libc.stdint cimport uint32_t

from pooler.io.conn cimport ClientConn, Conn, Loop, ServerConn

cdef void conn_ready(Loop *L, Conn *conn, uint32_t events) noexcept nogil
cdef void run_wakes(Loop *L) noexcept nogil
cdef void resume_client(Loop *L, ClientConn *cc) noexcept nogil
cdef bint cancel_waiting(Loop *L, ClientConn *cc) noexcept nogil
cdef void idle_server_bytes(Loop *L, ServerConn *sc) noexcept nogil
