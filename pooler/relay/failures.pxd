# SPDX-License-Identifier: MIT
"""What becomes of an error of a server: who hears of it, when, in whose words.

Relay layer, sans-IO, cold. A request of the client that has failed is told as if its
own text had been sent. What we have sent in front of a Query and has failed is told
when that Query comes to what it was for, as PostgreSQL would, or never.

Source: PostgreSQL documentation, "Message Flow" (Simple Query, Extended Query).
"""

from libc.stdint cimport uint32_t, uint8_t

from pooler.relay.server_walk cimport Walk
from pooler.session.records cimport ServerSession
from pooler.tables.texts cimport Statement

cdef struct Needed:  # the client's request for which one of ours was sent
    uint8_t by  # its code; P: Describe of a portal; 0: none, or one for a Query
    Statement *described  # borrow: by Describe, if that tells types; NULL: not known

cdef void needs_what_failed(ServerSession *s, Needed *needed) noexcept nogil
cdef void undo_failed(
    Walk *w, uint32_t skipped, const Needed *needed
) noexcept nogil
