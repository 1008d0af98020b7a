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


cdef void cancel_when_aligned(ServerSession *s) noexcept nogil:
    """Our SET runs in front of what is to be cancelled, and would be hit instead."""
    s.cancel_late = True


cdef void cancel_if_late(Relay *r, ServerSession *s) noexcept nogil:
    """Our SET is done."""
    if s.cancel_late:
        s.cancel_late = False
        cancel_work(r, s)


cdef void cancel_ended(ServerSession *s) noexcept nogil:
    """A request is over: PostgreSQL has sent its signal, or it never will."""
    if s.cancels:
        s.cancels -= 1
