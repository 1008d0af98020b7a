# SPDX-License-Identifier: MIT
"""New clients: accept, and what they say before they are logged in. IO layer, warm."""

from libc.stdint cimport uint64_t

from pooler.io.conn cimport ClientConn, Conn, ListenerConn, Loop

cdef enum:
    # A startup packet has at most 10,000 bytes; what is not needed yet stays outside.
    LOGIN_READ_BYTES = 10240
    LOGIN_HELD_MAX_BYTES = 131072  # more than any one message of a login

cdef void accept_clients(Loop *L, ListenerConn *listener) noexcept nogil
cdef void login_readable(Loop *L, ClientConn *cc) noexcept nogil
cdef ListenerConn *open_listener(
    Loop *L, int fd, bint shared, uint64_t *coming
) noexcept nogil
cdef void close_listener(Loop *L, Conn *conn) noexcept nogil
cdef int listen_again(Loop *L, ListenerConn *listener) noexcept nogil
