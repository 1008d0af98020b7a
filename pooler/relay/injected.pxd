# SPDX-License-Identifier: MIT
"""What we put into the streams of clients and servers ourselves.

Relay layer, sans-IO, warm. Everything is put in at a message boundary only.

Source: PostgreSQL documentation, "Extended Query", "COPY Operations".
"""

from libc.stdint cimport uint8_t

from pooler.relay.shared cimport Relay, RelayStatus
from pooler.session.records cimport ClientSession, Script, ServerSession

cdef void answer_fakes(Relay *r, ServerSession *s) noexcept nogil
cdef int inject_query(Relay *r, ServerSession *s, const Script *q) noexcept nogil
cdef int inject_end(Relay *r, ServerSession *s) noexcept nogil
cdef int inject_flush(Relay *r, ServerSession *s) noexcept nogil
cdef RelayStatus answer_cancelled(
    Relay *r, ClientSession *c, const uint8_t *src, size_t n, size_t *consumed
) noexcept nogil
