# SPDX-License-Identifier: MIT
"""What becomes of an error of a server: who hears of it, when, in whose words.

Relay layer, sans-IO, cold. A request of the client that has failed is told as if its
own text had been sent. What we have sent in front of a Query and has failed is told
when that Query comes to what it was for, as PostgreSQL would, or never.

Source: PostgreSQL documentation, "Message Flow" (Simple Query, Extended Query).
"""

from libc.stdint cimport uint32_t

from pooler.relay.server_walk cimport Walk

cdef void undo_failed(Walk *w, uint32_t skipped) noexcept nogil
