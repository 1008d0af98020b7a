# SPDX-License-Identifier: MIT
"""Inquiries: an idle server is asked what it makes of a value, for a client's login.

Relay layer, sans-IO, hot. Owns ``inquiry`` of a pool. At most one is under way in a
pool; its server is in state TESTED meanwhile and goes back by ``clean_server``. The
query must leave nothing behind. What the server answers, an error too, is kept for
Python (ORDER_INQUIRED); an empty answer means that the server was lost, or that the
answer was too long.

What a SET in front of a client's message has shown is kept for Python as well
(ORDER_LEARNED), as far as there is room.

Source: PostgreSQL documentation, "Message Flow", "Simple Query".
"""

from libc.stdint cimport uint8_t

from pooler.relay.shared cimport Relay
from pooler.session.records cimport Pool, ServerSession
from pooler.tables.params cimport ParamValue

cdef bint inquiry_begin(
    Relay *r, Pool *p, const uint8_t *message, size_t n
) noexcept nogil
cdef void inquiry_bytes(
    Relay *r, ServerSession *s, const uint8_t *src, size_t n
) noexcept nogil
cdef void inquiry_lost(Relay *r, Pool *p) noexcept nogil
cdef void inquiry_forget(Pool *p) noexcept nogil
cdef void words_learned(
    Relay *r, Pool *p, int index, const ParamValue *asked, const ParamValue *told
) noexcept nogil
cdef void words_forget(Pool *p) noexcept nogil
