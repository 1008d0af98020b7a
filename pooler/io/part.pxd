# SPDX-License-Identifier: MIT
"""Connections that are closed here and not yet in PostgreSQL. IO layer, warm.

A backend counts for PostgreSQL (max_connections, pg_stat_activity) until it has ended,
and its end of file is what shows that. So a connection to PostgreSQL is not closed: it
says that nothing follows, what still comes is read and dropped, and Python hears of its
end. By then it has no session; its handle stays what it was.

The end is said by shutdown(2), because other processes may have the socket as well: the
master keeps a copy of each, and close(2) would end nothing.

Source: PostgreSQL documentation, "Termination"; man page shutdown(2).
"""

from pooler.io.conn cimport Conn, Loop

cdef void part(Loop *L, Conn *conn, bint at_work) noexcept nogil
cdef Conn *part_open(Loop *L, int fd) noexcept nogil
cdef void parting_ready(Loop *L, Conn *conn) noexcept nogil
cdef void parting_close(Loop *L, Conn *conn) noexcept nogil
