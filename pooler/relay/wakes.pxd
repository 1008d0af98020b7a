# SPDX-License-Identifier: MIT
"""Pools whose waiting clients may be served, and pools that want servers.

Relay layer, sans-IO, hot. A released server wakes waiting clients only after the step
that released it is over, so nothing recurses.
"""

from pooler.relay.shared cimport Relay
from pooler.session.records cimport Pool

cdef void wake_pool(Relay *r, Pool *p) noexcept nogil
cdef void no_wake(Relay *r) noexcept nogil
cdef void want_servers(Relay *r, Pool *p) noexcept nogil
