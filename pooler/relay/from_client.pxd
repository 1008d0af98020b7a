# SPDX-License-Identifier: MIT
"""The relay from client to server.

Relay layer, sans-IO, hot. Attaches a server when one is needed, notes what
PostgreSQL will have to answer, and forwards. Messages that concern prepared
statements go through ``statements.requests``.

Source: PostgreSQL documentation, "Message Flow".
"""

from libc.stdint cimport uint8_t

from pooler.relay.shared cimport Relay, RelayStatus
from pooler.session.records cimport ClientSession

cdef RelayStatus relay_client_bytes(
    Relay *r, ClientSession *c, const uint8_t *src, size_t n, size_t *consumed
) noexcept nogil
