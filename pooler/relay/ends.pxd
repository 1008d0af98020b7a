# SPDX-License-Identifier: MIT
"""How clients end, and servers that are lost while they work.

Relay layer, sans-IO, warm. Losing one side decides over the other: a client that
leaves may leave work behind, and a server that is lost takes its client with it.
"""

from pooler.relay.shared cimport Relay
from pooler.session.records cimport ClientSession, CloseReason, ServerSession

cdef void close_client(
    Relay *r, ClientSession *c, CloseReason reason, bint tell
) noexcept nogil
cdef void lose_server(Relay *r, ServerSession *s, CloseReason reason) noexcept nogil
cdef void note_goodbye(ClientSession *c) noexcept nogil
cdef void say_goodbye(Relay *r, ClientSession *c) noexcept nogil
cdef void let_leave(Relay *r, ClientSession *c) noexcept nogil
