# SPDX-License-Identifier: MIT
"""Orders; see ``orders.pxd``."""

cdef extern from "<stdlib.h>" nogil:
    void abort()


cdef Order *put_order(Orders *o, OrderKind kind) noexcept nogil:
    """The next row. A lost order would lose bytes or a connection, so there is none."""
    cdef Order *row
    if o.count == ORDERS_MAX:
        abort()
    row = &o.rows[o.count]
    o.count += 1
    row.kind = kind
    row.client = NULL
    row.server = NULL
    row.pool = NULL
    return row


cdef void order_send_to_client(
    Orders *o, ClientSession *c, const uint8_t *src, size_t n
) noexcept nogil:
    cdef Order *row
    if n:
        row = put_order(o, ORDER_SEND_TO_CLIENT)
        row.client = c
        row.src = src
        row.n = n


cdef void order_send_to_server(
    Orders *o, ServerSession *s, const uint8_t *src, size_t n
) noexcept nogil:
    cdef Order *row
    if n:
        row = put_order(o, ORDER_SEND_TO_SERVER)
        row.server = s
        row.src = src
        row.n = n


cdef void order_read_client(Orders *o, ClientSession *c) noexcept nogil:
    put_order(o, ORDER_READ_CLIENT).client = c


cdef void order_read_server(Orders *o, ServerSession *s) noexcept nogil:
    put_order(o, ORDER_READ_SERVER).server = s


cdef void order_close_client(
    Orders *o, ClientSession *c, CloseReason reason, bint tell
) noexcept nogil:
    cdef Order *row = put_order(o, ORDER_CLOSE_CLIENT)
    row.client = c
    row.reason = <uint8_t> reason
    row.tell = tell


cdef void order_close_server(
    Orders *o, ServerSession *s, CloseReason reason, bint at_work, bint answered
) noexcept nogil:
    cdef Order *row = put_order(o, ORDER_CLOSE_SERVER)
    row.server = s
    row.reason = <uint8_t> reason
    row.at_work = at_work
    row.tell = answered


cdef void order_cancel(Orders *o, ServerSession *s) noexcept nogil:
    put_order(o, ORDER_CANCEL).server = s


cdef void order_launch(Orders *o, Pool *p) noexcept nogil:
    put_order(o, ORDER_LAUNCH).pool = p


cdef void order_tell_changed(Orders *o, Pool *p) noexcept nogil:
    put_order(o, ORDER_TELL_CHANGED).pool = p


cdef void order_inquired(Orders *o, Pool *p) noexcept nogil:
    put_order(o, ORDER_INQUIRED).pool = p


cdef void order_learned(Orders *o, Pool *p) noexcept nogil:
    put_order(o, ORDER_LEARNED).pool = p


cdef void order_offer(Orders *o, ServerSession *s, int row) noexcept nogil:
    cdef Order *order = put_order(o, ORDER_OFFER)
    order.server = s
    order.n = <size_t> row


cdef void order_uneven(Orders *o, Pool *p) noexcept nogil:
    put_order(o, ORDER_UNEVEN).pool = p
