# SPDX-License-Identifier: MIT
"""How bytes of a connection travel. Another way is another ``Transport``.

IO layer, hot. ``stream_*`` are what the rest of io uses: they keep what the transport
does not take and see to it that it is tried again.

Source: man pages recv(2), send(2), shutdown(2).
"""

from libc.stdint cimport uint8_t

from pooler.io.conn cimport Conn, Loop, Transport
from pooler.io.syscalls cimport ssize_t
from pooler.wire.buffers cimport Queue

cdef Transport PLAIN  # a socket, as it is

cdef ssize_t stream_receive(
    Loop *L, Conn *conn, Queue *held, size_t most
) noexcept nogil
cdef int stream_write(
    Loop *L, Conn *conn, Queue *out, const uint8_t *src, size_t n
) noexcept nogil
cdef int stream_flush(Loop *L, Conn *conn, Queue *out) noexcept nogil
cdef void stream_swallow(Loop *L, Conn *conn) noexcept nogil
