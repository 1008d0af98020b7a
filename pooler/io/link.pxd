# SPDX-License-Identifier: MIT
"""Links: connections that Python talks on. IO layer, warm.

A server that logs in and a cancel request are links. They go through a transport as
all connections do, so what a transport can do, they can. ``links.py`` makes them
awaitable; a link that has logged in becomes a server (``link_becomes_server``).
"""

from libc.stdint cimport uint8_t

from pooler.io.conn cimport LinkConn, Loop, ServerConn

cdef LinkConn *open_link(Loop *L, int fd) noexcept nogil
cdef void close_link(Loop *L, LinkConn *link) noexcept nogil
cdef void part_link(Loop *L, LinkConn *link) noexcept nogil
cdef int link_send(
    Loop *L, LinkConn *link, const uint8_t *src, size_t n
) noexcept nogil
cdef int link_listen(Loop *L, LinkConn *link) noexcept nogil
cdef ServerConn *link_becomes_server(Loop *L, LinkConn *link) noexcept nogil
