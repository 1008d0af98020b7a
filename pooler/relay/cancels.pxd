# SPDX-License-Identifier: MIT
"""Cancel requests under way to servers.

Relay layer, sans-IO, warm. Owns ``cancels``: a server is not used again while one of
them may still strike.

Source: PostgreSQL documentation, "Canceling Requests in Progress".
"""

from pooler.relay.shared cimport Relay
from pooler.session.records cimport ServerSession

cdef void cancel_begins(ServerSession *s) noexcept nogil
cdef void cancel_work(Relay *r, ServerSession *s) noexcept nogil
cdef void cancel_when_aligned(ServerSession *s) noexcept nogil
cdef void cancel_if_late(Relay *r, ServerSession *s) noexcept nogil
cdef void cancel_ended(ServerSession *s) noexcept nogil
