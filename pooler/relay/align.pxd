# SPDX-License-Identifier: MIT
"""Parameters follow the client: a server is given those that its client expects.

Relay layer, sans-IO, hot. Owns ``params`` of both sessions and ``aligning``: while a
client is aligning, what it sends is held until its server has accepted our SET.

Source: PostgreSQL documentation, "Asynchronous Operations" (ParameterStatus).
"""

from libc.stdint cimport uint8_t

from pooler.relay.shared cimport Relay, RelayStatus
from pooler.session.records cimport ClientSession, ServerSession
from pooler.tables.params cimport ParamSet

cdef int make_custom(Relay *r, ServerSession *s) noexcept nogil
cdef RelayStatus align_server(
    Relay *r, ClientSession *c, ServerSession *s
) noexcept nogil
cdef void server_aligned(Relay *r, ServerSession *s, ClientSession *c) noexcept nogil
cdef bint note_parameter(
    Relay *r, ServerSession *s, bint for_client, const uint8_t *body, size_t n
) noexcept nogil
cdef bint is_going_back(
    const Relay *r, ServerSession *s, const uint8_t *body, size_t n
) noexcept nogil
cdef void resets_failed(Relay *r, ServerSession *s) noexcept nogil
cdef RelayStatus resets_answered(
    Relay *r, ServerSession *s, ClientSession *c, uint8_t status
) noexcept nogil
cdef void client_params_begin(ClientSession *c, ParamSet *values) noexcept nogil
cdef void client_params_end(Relay *r, ClientSession *c) noexcept nogil
cdef void server_params_begin(ServerSession *s, ParamSet *values) noexcept nogil
cdef void server_params_go_on(
    ServerSession *s, ParamSet *defaults, ParamSet *values
) noexcept nogil
cdef void server_params_end(Relay *r, ServerSession *s) noexcept nogil
cdef void stop_aligning(ClientSession *c) noexcept nogil
