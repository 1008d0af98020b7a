# SPDX-License-Identifier: MIT
"""State edges; see ``records.pxd``."""

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from pooler.session.deadlines cimport (
    CLIENT_DEADLINES, DEADLINES_OF_ONE, DEADLINE_LOGIN, DEADLINE_QUERY_WAIT,
    DEADLINE_TESTED, NO_DEADLINE, SERVER_DEADLINES, Wheel, deadline_start,
    deadline_stop, timer_init,
)
from pooler.wire.debug cimport POOLER_DEBUG
from pooler._wire cimport HEADER_BYTES, put_cstring, put_header
from pooler.errors import CLOSE_REASON_ROWS
from pooler.session.requests cimport requests_init

cdef extern from "<stdlib.h>" nogil:
    void abort()

# Bit n of row s: the edge s -> n exists.
cdef uint8_t CLIENT_EDGES[6]
cdef uint8_t SERVER_EDGES[5]
# The deadline that runs while a session is in a state, or NO_DEADLINE.
cdef uint8_t CLIENT_STATE_DEADLINE[6]
cdef uint8_t SERVER_STATE_DEADLINE[5]

_CLIENT_EDGES = {
    CLIENT_FREE: (CLIENT_LOGIN,),
    CLIENT_LOGIN: (CLIENT_IDLE, CLIENT_CLOSED),
    CLIENT_IDLE: (CLIENT_WAITING, CLIENT_ACTIVE, CLIENT_CLOSED),
    CLIENT_WAITING: (CLIENT_ACTIVE, CLIENT_IDLE, CLIENT_CLOSED),
    CLIENT_ACTIVE: (CLIENT_IDLE, CLIENT_CLOSED),
    CLIENT_CLOSED: (),
}
_SERVER_EDGES = {
    SERVER_FREE: (SERVER_IDLE, SERVER_CLOSED),
    SERVER_IDLE: (SERVER_ACTIVE, SERVER_TESTED, SERVER_CLOSED),
    SERVER_ACTIVE: (SERVER_IDLE, SERVER_TESTED, SERVER_CLOSED),
    SERVER_TESTED: (SERVER_IDLE, SERVER_CLOSED),
    SERVER_CLOSED: (),
}
_CLIENT_DEADLINES = {CLIENT_LOGIN: DEADLINE_LOGIN, CLIENT_WAITING: DEADLINE_QUERY_WAIT}
_SERVER_DEADLINES = {SERVER_TESTED: DEADLINE_TESTED}


cdef void fill_edges() except *:
    for state, edges in _CLIENT_EDGES.items():
        CLIENT_EDGES[<int> state] = sum(1 << int(new) for new in edges)
    for state, edges in _SERVER_EDGES.items():
        SERVER_EDGES[<int> state] = sum(1 << int(new) for new in edges)
    for state in _CLIENT_EDGES:
        CLIENT_STATE_DEADLINE[<int> state] = _CLIENT_DEADLINES.get(state, NO_DEADLINE)
    for state in _SERVER_EDGES:
        SERVER_STATE_DEADLINE[<int> state] = _SERVER_DEADLINES.get(state, NO_DEADLINE)
    if max(int(CLIENT_DEADLINES), int(SERVER_DEADLINES)) > DEADLINES_OF_ONE:
        raise ImportError("a timer has too few deadlines (DEADLINES_OF_ONE)")
    if len(CLOSE_REASON_ROWS) != CLOSE_REASONS:
        raise ImportError("errors.CLOSE_REASON_ROWS and CloseReason differ")

fill_edges()


cdef inline uint64_t client_limit_us(
    const ClientSession *c, uint8_t deadline
) noexcept nogil:
    if c.pool == NULL:
        return c.timer.wheel.login_limit_us
    return c.pool.config.client_limit_us[deadline]


cdef void client_begin(ClientSession *c, Wheel *w, void *io) noexcept nogil:
    """A client whose memory is zero was accepted: it logs in."""
    c.io = io
    c.opened_us = w.now_us
    timer_init(&c.timer, w, c, False)
    set_client_state(c, CLIENT_LOGIN)


cdef void client_proved(ClientSession *c) noexcept nogil:
    """Its login waits for nothing but a server."""
    c.proved = True


cdef void client_may_wait(ClientSession *c) noexcept nogil:
    """Its login waits for others to leave: that is no time of the login."""
    deadline_stop(&c.timer, DEADLINE_LOGIN)


cdef void client_cancel_key(
    ClientSession *c, const uint8_t *key, uint8_t n
) noexcept nogil:
    """The key by which its requests can be cancelled, n <= CANCEL_KEY_MAX_BYTES."""
    memcpy(c.cancel_key, key, n)
    c.cancel_key_n = n


cdef void server_begin(ServerSession *s, Wheel *w, void *io) noexcept nogil:
    """A server whose memory is zero has logged in; no pool has it yet."""
    s.io = io
    s.opened_us = w.now_us
    s.xact_status = c"I"
    timer_init(&s.timer, w, s, True)
    requests_init(&s.requests)


cdef void server_goes_on(ServerSession *s, uint64_t opened_us) noexcept nogil:
    """It has logged in at another worker, then, and not just now."""
    s.opened_us = opened_us


cdef bint set_client_state(ClientSession *c, ClientState new) noexcept nogil:
    """Go along an edge; False (and no change) when there is none.

    The deadline of the old state ends, that of the new one begins.
    """
    cdef uint8_t deadline
    if not CLIENT_EDGES[c.state] >> new & 1:
        if POOLER_DEBUG:
            abort()
        return False
    deadline = CLIENT_STATE_DEADLINE[c.state]
    if deadline != NO_DEADLINE:
        deadline_stop(&c.timer, deadline)
    c.state = new
    deadline = CLIENT_STATE_DEADLINE[<int> new]
    if deadline != NO_DEADLINE:
        deadline_start(&c.timer, deadline, client_limit_us(c, deadline))
    return True


cdef bint set_server_state(ServerSession *s, ServerState new) noexcept nogil:
    """As ``set_client_state``."""
    cdef uint8_t deadline
    if not SERVER_EDGES[s.state] >> new & 1:
        if POOLER_DEBUG:
            abort()
        return False
    deadline = SERVER_STATE_DEADLINE[s.state]
    if deadline != NO_DEADLINE:
        deadline_stop(&s.timer, deadline)
    s.state = new
    deadline = SERVER_STATE_DEADLINE[<int> new]
    if deadline != NO_DEADLINE:
        deadline_start(&s.timer, deadline, s.pool.config.server_limit_us[deadline])
    return True


cdef int script_fill(Script *script, bytes sql) except -1:
    """Make a Query of some SQL; empty SQL makes none, ``b"\\0"`` an empty one."""
    cdef bytes body = sql.rstrip(b"\0")
    free(script.message)
    script.message = NULL
    script.n = 0
    if not sql:
        return 0
    script.message = <uint8_t *> malloc(HEADER_BYTES + len(body) + 1)
    if script.message == NULL:
        raise MemoryError
    put_header(script.message, c"Q", <uint32_t> (len(body) + 5))
    put_cstring(script.message + HEADER_BYTES, body, len(body))
    script.n = HEADER_BYTES + len(body) + 1
    return 0
