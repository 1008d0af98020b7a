# SPDX-License-Identifier: MIT
"""How a server comes back to its pool, or goes.

Relay layer, sans-IO, hot (``settle``) and warm. A client that leaves may leave work
behind that has to be cancelled, rolled back and reset before anybody else may have its
server. All of that happens in state TESTED, a step each time the server is quiet.
"""

from pooler.relay.shared cimport Relay
from pooler.session.records cimport ClientSession, CloseReason, Pool, ServerSession

cdef void close_surplus(Relay *r, ServerSession *s) noexcept nogil
cdef void settle(Relay *r, ServerSession *s) noexcept nogil
cdef void take_over(Relay *r, ClientSession *c, CloseReason reason) noexcept nogil
cdef void note_unwanted(Relay *r, ServerSession *s, size_t n) noexcept nogil
cdef bint make_fit(Relay *r, Pool *p, ServerSession *s) noexcept nogil
cdef void clean_kept(Relay *r, ServerSession *s) noexcept nogil
cdef void clean_moved(Relay *r, ServerSession *s) noexcept nogil
cdef void close_server(
    Relay *r, ServerSession *s, CloseReason reason
) noexcept nogil
cdef void tested_too_long(Relay *r, ServerSession *s) noexcept nogil
cdef void cancel_again(Relay *r, ServerSession *s) noexcept nogil
