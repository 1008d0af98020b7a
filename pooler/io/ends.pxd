# SPDX-License-Identifier: MIT
"""How a server comes back to its pool, and how connections end.

IO layer, hot (``settle``) and warm. Losing one side decides over the other: a client
that leaves may leave work behind that has to be cancelled, rolled back and reset, and
a server that is lost takes its client with it. A released server wakes waiting clients
only after the event that released it is over (``wake_pool``), so nothing recurses.
"""

from pooler.io.conn cimport ClientConn, Loop, ServerConn
from pooler.session.records cimport CloseReason, Pool, Script, ServerSession

cdef void settle(Loop *L, ServerSession *s) noexcept nogil
cdef void wake_pool(Loop *L, Pool *p) noexcept nogil
cdef void want_servers(Loop *L, Pool *p) noexcept nogil
cdef void send_to_server(Loop *L, ServerConn *sc) noexcept nogil
cdef void send_script(Loop *L, ServerSession *s, const Script *q) noexcept nogil
cdef void cancel_abandoned(Loop *L, ServerSession *s) noexcept nogil
cdef void close_client(
    Loop *L, ClientConn *cc, CloseReason reason, bint tell
) noexcept nogil
cdef void close_server(Loop *L, ServerConn *sc, CloseReason reason) noexcept nogil
cdef int fill_close_reasons(object rows) except -1
