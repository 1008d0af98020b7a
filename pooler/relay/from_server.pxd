# SPDX-License-Identifier: MIT
"""The relay from server to client.

Relay layer, sans-IO, hot. Settles the queue of outstanding requests, keeps what
answers requests of ours from the client, answers what the server does not know, and
follows parameters.

Source: PostgreSQL documentation, "Message Flow", "Asynchronous Operations".
"""

from libc.stdint cimport uint8_t

from pooler.relay.shared cimport Relay, RelayStatus
from pooler.session.records cimport ServerSession

cdef RelayStatus relay_server_bytes(
    Relay *r, ServerSession *s, const uint8_t *src, size_t n, size_t *consumed
) noexcept nogil
