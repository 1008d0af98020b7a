# SPDX-License-Identifier: MIT
"""What happens to a message: forward, drop, swallow, answer.

Session layer, sans-IO, hot. Bytes of one read and the session they belong to go in;
what must leave for the client and for the server comes out in two ``Output``s, each
of which the caller sends at once. Nothing here waits, logs or touches Python. The two
directions are ``_requests`` and ``_answers``.

Source: PostgreSQL documentation, "Message Flow".
"""

from libc.stdint cimport uint8_t, uint64_t

from pooler.wire.buffers cimport Output
from pooler.tables.params cimport ParamTable
from pooler.session.records cimport ClientSession, Script, ServerSession
from pooler.tables.statements cimport StatementTable

cdef enum RelayStatus:
    RELAY_OK
    RELAY_WAIT  # the client now waits for a server; hold what was not consumed
    RELAY_ALIGN  # hold the rest until the server has answered what was sent now
    RELAY_TERMINATE  # the client said goodbye
    RELAY_CLIENT_PROTO  # the client sent what no client may send
    RELAY_SERVER_PROTO  # the server sent what no server may send
    RELAY_SERVER_DEAD  # an idle server said that it goes away
    RELAY_ALIGN_FAILED  # the server refused the client's parameters; it was told
    RELAY_TEST_FAILED  # the server answered one of our own queries with an error
    RELAY_STATEMENT_XACT  # a transaction block was opened in statement mode
    RELAY_NO_MEMORY

cdef struct Relay:  # one per worker, lent to every call
    Output to_client
    Output to_server
    ParamTable params
    StatementTable statements
    uint64_t now_us
    bint resume  # the client's held bytes may go on

cdef void answer_fakes(Relay *r, ServerSession *s) noexcept nogil
cdef int relay_script(Relay *r, ServerSession *s, const Script *q) noexcept nogil
cdef int relay_abandon(Relay *r, ServerSession *s) noexcept nogil
cdef RelayStatus relay_cancel_waiting(
    Relay *r, ClientSession *c, const uint8_t *src, size_t n, size_t *consumed
) noexcept nogil
