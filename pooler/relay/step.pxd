# SPDX-License-Identifier: MIT
"""THE step: everything that may happen to a worker's connections, decided here.

Relay layer, sans-IO, hot. What happened goes in: bytes of a client or a server, the
end of one, a queue that has drained, a deadline that has passed, a wish of Python's.
What is to be done about it comes out as ``Relay.orders``. Whoever drives it (the
engine, a test, a fuzzer) carries these out in order and calls ``step_more`` until it
says that nothing is left to decide:

    step_client_bytes(...)
    while True:
        carry out and empty relay.orders
        if not step_more(relay): break

Bytes that an order borrows stay until then: those that went in must too. A session
that was closed may be named in orders that were left before, which are then void; its
memory goes when all of that is over.
"""

from libc.stdint cimport uint32_t, uint8_t

from pooler.relay.moves cimport Thawed
from pooler.relay.shared cimport Relay
from pooler.session.records cimport (
    CLIENT_ACTIVE, CLIENT_WAITING, ClientSession, CloseReason, Pool, ServerSession,
)
from pooler.tables.params cimport ParamSet


cdef inline bint client_held_back(const ClientSession *c) noexcept nogil:
    """Whether a client may not be read now."""
    return (
        c.state == CLIENT_WAITING
        or c.aligning
        or c.settling
        or c.leaving
        or (c.server != NULL and c.server.stream.out.cap != 0)
    )


cdef inline bint client_may_vanish(const ClientSession *c) noexcept nogil:
    """Whether to look for the end of a client that is not read.

    Not behind a goodbye: it may have shut down its side only, and still be there for
    its answers. That it is not, the sends to it tell. But of a replication client: what
    its server streams has no end.
    """
    return c.state == CLIENT_WAITING or (
        c.leaving and c.pool != NULL and c.pool.config.dedicated
    )


cdef inline bint server_held_back(const ServerSession *s) noexcept nogil:
    """Whether a server may not be read now: its client does not take more."""
    return s.client != NULL and s.client.stream.out.cap != 0


cdef inline bint step_is_over(const Relay *r) noexcept nogil:
    """Whether ``step_more`` would find nothing to do."""
    return (
        r.pending.settle == NULL and r.pending.resume == NULL
        and r.pending.leave == NULL and r.wakes == NULL and r.pending.block.cap == 0
    )

cdef int relay_init(Relay *r) except -1
cdef void relay_free(Relay *r) noexcept nogil
cdef Pool *relay_add_pool(Relay *r, uint32_t max_servers) noexcept nogil
cdef void relay_drop_pool(Relay *r, Pool *p) noexcept nogil
cdef bint step_more(Relay *r) noexcept nogil
cdef bint step_deadline(Relay *r) noexcept nogil

cdef void step_client_admit(
    Relay *r, ClientSession *c, Pool *p, ParamSet *values
) noexcept nogil
cdef void step_client_bytes(
    Relay *r, ClientSession *c, const uint8_t *src, size_t n
) noexcept nogil
cdef void step_client_end(Relay *r, ClientSession *c) noexcept nogil
cdef void step_client_overflow(Relay *r, ClientSession *c) noexcept nogil
cdef void step_client_vanished(Relay *r, ClientSession *c) noexcept nogil
cdef void step_client_sent(Relay *r, ClientSession *c) noexcept nogil
cdef void step_client_close(
    Relay *r, ClientSession *c, CloseReason reason, bint tell
) noexcept nogil

cdef void step_server_begin(
    Relay *r, ServerSession *s, Pool *p, ParamSet *values,
    const uint8_t *early, size_t n,
) noexcept nogil
cdef void step_server_bytes(
    Relay *r, ServerSession *s, const uint8_t *src, size_t n
) noexcept nogil
cdef void step_server_end(Relay *r, ServerSession *s) noexcept nogil
cdef void step_server_overflow(Relay *r, ServerSession *s) noexcept nogil
cdef void step_server_sent(Relay *r, ServerSession *s) noexcept nogil
cdef void step_server_close(
    Relay *r, ServerSession *s, CloseReason reason
) noexcept nogil

cdef void step_server_stay(Relay *r, ServerSession *s) noexcept nogil
cdef void step_server_give(Relay *r, ServerSession *s) noexcept nogil
cdef void step_server_receive(
    Relay *r, ServerSession *s, Pool *p, Thawed *t
) noexcept nogil

cdef ServerSession *step_cancel(Relay *r, ClientSession *c) noexcept nogil
cdef void step_cancelled(Relay *r, ServerSession *s, bint uncertain) noexcept nogil
cdef void step_client_limits(ClientSession *c) noexcept nogil
cdef void step_server_limits(ServerSession *s) noexcept nogil
cdef void step_server_retire(Relay *r, ServerSession *s) noexcept nogil
cdef void step_server_pause(Relay *r, ServerSession *s) noexcept nogil
cdef bint step_pool_inquire(
    Relay *r, Pool *p, const uint8_t *message, size_t n
) noexcept nogil
cdef void step_pool_lets_go(Relay *r, Pool *p) noexcept nogil
cdef void step_pool_wants(Relay *r, Pool *p) noexcept nogil
cdef void step_pool_waits(Relay *r, Pool *p) noexcept nogil
