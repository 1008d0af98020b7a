# SPDX-License-Identifier: MIT
"""Cancel requests; see ``cancels.pxd``."""

from pooler.relay.orders cimport order_cancel


cdef void cancel_begins(ServerSession *s) noexcept nogil:
    """A request goes out; ``cancel_ended`` is due once."""
    s.cancels += 1


cdef void cancel_work(Relay *r, ServerSession *s) noexcept nogil:
    """Have PostgreSQL cancel what a server is at."""
    cancel_begins(s)
    order_cancel(&r.orders, s)


cdef void cancel_ended(ServerSession *s) noexcept nogil:
    """A request is over: PostgreSQL has sent its signal, or it never will."""
    if s.cancels:
        s.cancels -= 1
