# SPDX-License-Identifier: MIT
"""Carries out orders; see ``carry_out.pxd``."""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcpy
from libc.stdlib cimport free

from pooler.io.conn cimport (
    ClientConn, NOTICE_CANCEL, NOTICE_CHANGED, NOTICE_CLIENT_CLOSED, NOTICE_INQUIRED,
    NOTICE_LAUNCH, NOTICE_LEARNED, NOTICE_OFFER, NOTICE_SERVER_CLOSED, NOTICE_UNEVEN,
    NoticeRow, ServerConn, conn_handle, conn_leave, conn_of_client, conn_of_server,
    notice,
)
from pooler.io.logins cimport count_clients, login_end, login_give_place
from pooler.io.part cimport part
from pooler.io.poll cimport WATCH_READ, WATCH_WRITE, watch
from pooler.io.syscalls cimport ENOMEM
from pooler.io.tls cimport tls_error
from pooler.io.transport cimport stream_flush, stream_swallow, stream_write
from pooler.relay.orders cimport (
    ORDER_CANCEL, ORDER_CLOSE_CLIENT, ORDER_CLOSE_SERVER, ORDER_INQUIRED, ORDER_KINDS,
    ORDER_LAUNCH, ORDER_LEARNED, ORDER_OFFER, ORDER_READ_CLIENT, ORDER_READ_SERVER,
    ORDER_SEND_TO_CLIENT, ORDER_SEND_TO_SERVER, ORDER_TELL_CHANGED, ORDER_UNEVEN,
    Order,
)
from pooler.relay.step cimport (
    client_held_back, server_held_back, step_client_end, step_is_over, step_more,
)
from pooler.session.records cimport CLOSE_LOGIN_SERVER_DOWN, CLOSE_LOGIN_TIMEOUT
from pooler.wire.buffers cimport queue_reset
from pooler._wire cimport error_response_bytes, put_error_response

cdef enum:
    REASON_TEXT_BYTES = 80
    REASONS_MAX = 64

cdef struct ReasonText:
    char text[REASON_TEXT_BYTES]
    char sqlstate[6]

cdef ReasonText REASON_TEXTS[REASONS_MAX]

cdef const char *UNUSED_SERVER = b"unused"
cdef const char *TOLD_CLIENT = b"told"


cdef int fill_close_reasons(object rows) except -1:
    """Copy ``errors.CLOSE_REASON_ROWS`` to where the engine can read it."""
    cdef bytes text
    cdef bytes sqlstate
    for i, (_, message, code) in enumerate(rows):
        text = message.encode()
        sqlstate = (code or "08P01").encode()
        if len(text) >= REASON_TEXT_BYTES or len(sqlstate) != 5 or i >= REASONS_MAX:
            raise ImportError(f"close reason does not fit: {message!r}")
        memcpy(REASON_TEXTS[<int> i].text, <const char *> text, len(text) + 1)
        memcpy(REASON_TEXTS[<int> i].sqlstate, <const char *> sqlstate, 6)
    return 0


# ---------------------------------------------------------------- sends and reads

cdef void send_to_client(Loop *L, const Order *order) noexcept nogil:
    cdef ClientConn *cc = conn_of_client(order.client)
    if cc.conn.fd >= 0 and stream_write(
        L, &cc.conn, &order.client.stream.out, order.src, order.n
    ) < 0:
        step_client_end(&L.relay, order.client)


cdef void send_to_server(Loop *L, const Order *order) noexcept nogil:
    """A failed send is not the end yet: what the server said last is still to be read.

    Then its end of file closes both sides. What can neither be sent nor queued is
    lost, so that server is brought to its end of file.
    """
    cdef ServerConn *sc = conn_of_server(order.server)
    if sc.conn.fd >= 0 and stream_write(
        L, &sc.conn, &order.server.stream.out, order.src, order.n
    ) == -ENOMEM:
        sc.conn.transport.abort(&sc.conn)


cdef void read_client(Loop *L, const Order *order) noexcept nogil:
    cdef ClientConn *cc = conn_of_client(order.client)
    if cc.conn.fd >= 0 and not client_held_back(order.client):
        watch(L, &cc.conn, WATCH_READ | (cc.conn.watched & WATCH_WRITE))


cdef void read_server(Loop *L, const Order *order) noexcept nogil:
    cdef ServerConn *sc = conn_of_server(order.server)
    if sc.conn.fd >= 0 and not server_held_back(order.server):
        watch(L, &sc.conn, WATCH_READ | (sc.conn.watched & WATCH_WRITE))


# ---------------------------------------------------------------- ends

cdef void tell_client(Loop *L, ClientConn *cc, uint8_t reason) noexcept nogil:
    """Send FATAL with the reason, as far as the transport takes it."""
    cdef uint8_t message[256]
    cdef size_t n
    cdef const ReasonText *row = &REASON_TEXTS[reason]
    if error_response_bytes(row.text) > sizeof(message):
        return
    n = put_error_response(message, b"FATAL", row.sqlstate, row.text)
    stream_flush(L, &cc.conn, &cc.session.stream.out)
    stream_write(L, &cc.conn, &cc.session.stream.out, message, n)
    stream_swallow(L, &cc.conn)


cdef void tell_closed(Loop *L, ClientConn *cc, const Order *order) noexcept nogil:
    """Python hears of a close that it logs, or has something to clear away for.

    The detail is why TLS has failed; of a client in a pool, whether it is told why.
    """
    cdef NoticeRow *row
    cdef const char *detail = tls_error(&cc.conn)
    if order.client.pool != NULL and order.tell:
        detail = TOLD_CLIENT
    if not L.logins.tell_closes and L.logins.on and detail == NULL and (
        not order.client.pool.config.dedicated if order.client.pool != NULL
        else not cc.by_python and order.reason != CLOSE_LOGIN_TIMEOUT
        and order.reason != CLOSE_LOGIN_SERVER_DOWN
    ):
        return
    row = notice(
        L, NOTICE_CLIENT_CLOSED, conn_handle(L, &cc.conn), <int32_t> order.reason
    )
    row.peer = cc.peer
    row.detail = detail
    row.age_us = L.relay.now_us - order.client.opened_us
    if order.client.pool != NULL:
        row.pool_id = <int32_t> order.client.pool.id
    if row != &L.lost_notice:
        row.user, cc.user = cc.user, NULL


cdef void close_client(Loop *L, const Order *order) noexcept nogil:
    cdef ClientConn *cc = conn_of_client(order.client)
    if cc.conn.fd < 0:
        return
    if order.tell:
        tell_client(L, cc, order.reason)
    tell_closed(L, cc, order)
    login_end(L, cc)
    free(cc.user)
    cc.user = NULL
    login_give_place(L, cc)
    if order.client.pool == NULL:
        L.login_count -= 1
    queue_reset(&order.client.stream.out)
    L.client_count -= 1
    L.uncounted_count -= cc.uncounted
    count_clients(L)
    conn_leave(L, &cc.conn)


cdef void close_server(Loop *L, const Order *order) noexcept nogil:
    cdef ServerConn *sc = conn_of_server(order.server)
    cdef NoticeRow *row
    if sc.conn.fd < 0:
        return
    row = notice(
        L, NOTICE_SERVER_CLOSED, conn_handle(L, &sc.conn), <int32_t> order.reason
    )
    row.pool_id = <int32_t> order.server.pool.id
    row.age_us = L.relay.now_us - order.server.opened_us
    row.detail = NULL if order.tell else UNUSED_SERVER
    queue_reset(&order.server.stream.out)
    L.server_count -= 1
    part(L, &sc.conn, order.at_work)


# ---------------------------------------------------------------- for Python

cdef void cancel(Loop *L, const Order *order) noexcept nogil:
    cdef ServerConn *sc = conn_of_server(order.server)
    if sc.conn.fd >= 0:
        notice(L, NOTICE_CANCEL, conn_handle(L, &sc.conn), 0)


cdef void launch(Loop *L, const Order *order) noexcept nogil:
    notice(L, NOTICE_LAUNCH, 0, 0).pool_id = <int32_t> order.pool.id


cdef void tell_changed(Loop *L, const Order *order) noexcept nogil:
    notice(L, NOTICE_CHANGED, 0, 0).pool_id = <int32_t> order.pool.id


cdef void inquired(Loop *L, const Order *order) noexcept nogil:
    notice(L, NOTICE_INQUIRED, 0, 0).pool_id = <int32_t> order.pool.id


cdef void learned(Loop *L, const Order *order) noexcept nogil:
    notice(L, NOTICE_LEARNED, 0, 0).pool_id = <int32_t> order.pool.id


cdef void offer(Loop *L, const Order *order) noexcept nogil:
    cdef ServerConn *sc = conn_of_server(order.server)
    cdef NoticeRow *row
    if sc.conn.fd < 0:
        return
    row = notice(L, NOTICE_OFFER, conn_handle(L, &sc.conn), <int32_t> order.n)
    row.pool_id = <int32_t> order.server.pool.id


cdef void uneven(Loop *L, const Order *order) noexcept nogil:
    notice(L, NOTICE_UNEVEN, 0, 0).pool_id = <int32_t> order.pool.id

ctypedef void (*CarryOut)(Loop *L, const Order *order) noexcept nogil

cdef CarryOut CARRY_OUT[<int> ORDER_KINDS]
CARRY_OUT[<int> ORDER_SEND_TO_CLIENT] = send_to_client
CARRY_OUT[<int> ORDER_SEND_TO_SERVER] = send_to_server
CARRY_OUT[<int> ORDER_READ_CLIENT] = read_client
CARRY_OUT[<int> ORDER_READ_SERVER] = read_server
CARRY_OUT[<int> ORDER_CLOSE_CLIENT] = close_client
CARRY_OUT[<int> ORDER_CLOSE_SERVER] = close_server
CARRY_OUT[<int> ORDER_CANCEL] = cancel
CARRY_OUT[<int> ORDER_LAUNCH] = launch
CARRY_OUT[<int> ORDER_TELL_CHANGED] = tell_changed
CARRY_OUT[<int> ORDER_INQUIRED] = inquired
CARRY_OUT[<int> ORDER_LEARNED] = learned
CARRY_OUT[<int> ORDER_OFFER] = offer
CARRY_OUT[<int> ORDER_UNEVEN] = uneven


cdef int check_orders() except -1:
    cdef int kind
    for kind in range(ORDER_KINDS):
        if CARRY_OUT[kind] == NULL:
            raise ImportError(f"nothing carries out order {kind}")
    return 0

check_orders()


cdef void carry_out(Loop *L) noexcept nogil:
    """Carry out all orders, and those that follow from them, until none is left."""
    cdef uint32_t i
    while True:
        i = 0
        while i < L.relay.orders.count:  # what fails may add to them
            CARRY_OUT[L.relay.orders.rows[i].kind](L, &L.relay.orders.rows[i])
            i += 1
        L.relay.orders.count = 0
        if step_is_over(&L.relay) or not step_more(&L.relay):
            return
