# SPDX-License-Identifier: MIT
"""Wakes; see ``wakes.pxd``."""

from pooler.relay.orders cimport order_launch
from pooler.session.pool cimport pool_ask_launch


cdef void wake_pool(Relay *r, Pool *p) noexcept nogil:
    """Let the waiting clients of a pool try again when the step is over."""
    if not p.wake_listed:
        p.wake_listed = True
        p.next_wake = r.wakes
        r.wakes = p


cdef void no_wake(Relay *r) noexcept nogil:
    """The first pool of the list has nobody left to serve."""
    cdef Pool *p = r.wakes
    r.wakes = p.next_wake
    p.wake_listed = False


cdef void want_servers(Relay *r, Pool *p) noexcept nogil:
    """Have servers opened for those who wait; ordered once until it is done."""
    if p.idle_head != NULL:
        wake_pool(r, p)  # to be checked first
    if pool_ask_launch(p):
        order_launch(&r.orders, p)
