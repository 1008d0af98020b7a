# SPDX-License-Identifier: MIT
"""What follows when the time of a client or a server is over.

Layer relay, sans-IO. A deadline may have passed for something that is over: each
function looks whether its session is still at it. Texts and meaning are PgBouncer's,
but that ``query_timeout`` is none of a client that is idle in a transaction.
"""

from pooler.relay.shared cimport Relay
from pooler.session.records cimport ClientSession, ServerSession

cdef void login_too_long(Relay *r, ClientSession *c) noexcept nogil
cdef void waits_long(Relay *r, ClientSession *c) noexcept nogil
cdef void client_idle_long(Relay *r, ClientSession *c) noexcept nogil
cdef void query_too_long(Relay *r, ServerSession *s) noexcept nogil
cdef void xact_too_long(Relay *r, ServerSession *s) noexcept nogil
cdef void xact_idle_long(Relay *r, ServerSession *s) noexcept nogil
cdef void server_idle_long(Relay *r, ServerSession *s) noexcept nogil
cdef void server_aged(Relay *r, ServerSession *s) noexcept nogil
