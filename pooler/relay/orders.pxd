# SPDX-License-Identifier: MIT
"""Orders: what a step decides, for the io layer to carry out.

Relay layer, sans-IO, hot. One step leaves a few rows, in the order in which they are
to be carried out; bytes are borrowed until then. That a send to a client failed is told
to the step (``step_client_end``) before the next order.
"""

from libc.stdint cimport uint8_t, uint32_t

from pooler.session.records cimport ClientSession, CloseReason, Pool, ServerSession

cdef enum OrderKind:
    ORDER_SEND_TO_CLIENT  # src[0:n); what cannot be sent now is queued
    ORDER_SEND_TO_SERVER
    ORDER_READ_CLIENT  # read it again, unless something holds it back
    ORDER_READ_SERVER
    ORDER_CLOSE_CLIENT  # ``reason``; ``tell``: send FATAL with its text first
    ORDER_CLOSE_SERVER
    ORDER_CANCEL  # have PostgreSQL cancel what the server is at; then step_cancelled
    ORDER_LAUNCH  # the pool wants servers
    ORDER_TELL_CHANGED  # a client has left something new in a server of the pool
    ORDER_INQUIRED  # what a server of the pool was asked is answered
    ORDER_LEARNED  # what a server has made of a client's values is kept for Python
    ORDER_OFFER  # server: ``n`` is the row of the worker that should have it
    ORDER_UNEVEN  # of the pool: clients wait in one worker beside a server of another
    ORDER_KINDS

cdef enum:
    ORDERS_MAX = 32  # far above what one step can leave

cdef struct Order:
    uint8_t kind
    uint8_t reason
    bint tell  # a client: why; a server: it has answered somebody
    bint at_work  # of a server that is closed: it is in the middle of something
    ClientSession *client  # borrow
    ServerSession *server  # borrow
    Pool *pool  # borrow
    const uint8_t *src  # borrow
    size_t n

cdef struct Orders:
    Order rows[ORDERS_MAX]
    uint32_t count


cdef void order_send_to_client(
    Orders *o, ClientSession *c, const uint8_t *src, size_t n
) noexcept nogil
cdef void order_send_to_server(
    Orders *o, ServerSession *s, const uint8_t *src, size_t n
) noexcept nogil
cdef void order_read_client(Orders *o, ClientSession *c) noexcept nogil
cdef void order_read_server(Orders *o, ServerSession *s) noexcept nogil
cdef void order_close_client(
    Orders *o, ClientSession *c, CloseReason reason, bint tell
) noexcept nogil
cdef void order_close_server(
    Orders *o, ServerSession *s, CloseReason reason, bint at_work, bint answered
) noexcept nogil
cdef void order_cancel(Orders *o, ServerSession *s) noexcept nogil
cdef void order_launch(Orders *o, Pool *p) noexcept nogil
cdef void order_tell_changed(Orders *o, Pool *p) noexcept nogil
cdef void order_inquired(Orders *o, Pool *p) noexcept nogil
cdef void order_learned(Orders *o, Pool *p) noexcept nogil
cdef void order_offer(Orders *o, ServerSession *s, int row) noexcept nogil
cdef void order_uneven(Orders *o, Pool *p) noexcept nogil
