# SPDX-License-Identifier: MIT
"""What we put into streams ourselves; see ``injected.pxd``."""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from pooler.relay.orders cimport order_send_to_server
from pooler.relay.shared cimport RELAY_NO_MEMORY, RELAY_OK, RELAY_WAIT
from pooler.session.records cimport COPY_IN_OPEN
from pooler.session.requests cimport (
    REQUEST_FAKE, REQUEST_SKIP, request_is_fake, requests_first, requests_pop,
    requests_push,
)
from pooler.statements.effects cimport effects_commit
from pooler.statements.replay cimport replay_withholds
from pooler.wire.buffers cimport output_room
from pooler._wire cimport (
    ACTION_ATTACH, ACTION_ATTACH_UNLESS_KNOWN, Found, HEADER_BYTES, LONE_CLIENT_RULES,
    SCAN_MESSAGE, ScanState, error_response_bytes, put_error_response, put_header,
    scan_next,
)
from pooler.session.batch cimport batch_open, batch_synced
from pooler.session.copy_in cimport copy_end

cdef enum:
    SYNC_BYTES = 5
    FLUSH_BYTES = 5
    READY_BYTES = 6
    COPY_FAIL_BYTES = 17
    FAILURE_BYTES = 27

cdef const char *SYNC = b"S\0\0\0\4"
cdef const char *FLUSH = b"H\0\0\0\4"
cdef const char *READY_IDLE = b"Z\0\0\0\5I"
cdef const char *COPY_FAIL = b"f\0\0\0\x10client left\0"
# A Describe that must fail: of a portal that nobody has.
cdef const char *FAILURE = b"D\0\0\0\x1aP\1pooler: client left\0"
cdef const char *CANCEL_TEXT = b"canceling statement due to user request"


cdef void answer_fakes(Relay *r, ServerSession *s) noexcept nogil:
    """Answer the requests at the head of the queue that the server does not know.

    But not a Parse that may still have to be sent.
    """
    cdef uint8_t request = requests_first(&s.requests)
    cdef uint8_t *room
    while request_is_fake(request) and not replay_withholds(s):
        if s.client != NULL:
            room = output_room(&r.to_client, HEADER_BYTES)
            if room == NULL:
                return
            put_header(room, c"1" if request == (c"P" | REQUEST_FAKE) else c"3", 4)
        effects_commit(&r.statements, s, 1)
        requests_pop(&s.requests)
        request = requests_first(&s.requests)


cdef int inject_query(Relay *r, ServerSession *s, const Script *q) noexcept nogil:
    """Put a query of ours into the server's stream; -1 without memory."""
    if requests_push(&s.requests, c"Q" | REQUEST_SKIP) < 0:
        return -1
    order_send_to_server(&r.orders, s, q.message, q.n)
    return 0


cdef int inject_end(Relay *r, ServerSession *s) noexcept nogil:
    """End what a client that is gone has begun, so that ReadyForQuery comes.

    PostgreSQL rolls back what a connection that ends has not committed. So an open
    COPY is failed, and an open batch gets a request that fails before its Sync, which
    alone would commit it. -1 without memory.
    """
    if s.copy.state == COPY_IN_OPEN:
        order_send_to_server(
            &r.orders, s, <const uint8_t *> COPY_FAIL, COPY_FAIL_BYTES
        )
    copy_end(s)
    if not s.batch.failed and not s.batch.open:
        return 0
    if s.batch.open and not s.batch.failed:
        order_send_to_server(&r.orders, s, <const uint8_t *> FAILURE, FAILURE_BYTES)
        if requests_push(&s.requests, c"D" | REQUEST_SKIP) < 0:
            return -1
    order_send_to_server(&r.orders, s, <const uint8_t *> SYNC, SYNC_BYTES)
    batch_synced(s)
    batch_open(s, False)
    return requests_push(&s.requests, c"S" | REQUEST_SKIP)


cdef int inject_flush(Relay *r, ServerSession *s) noexcept nogil:
    """Have the server send what it has answered so far."""
    order_send_to_server(&r.orders, s, <const uint8_t *> FLUSH, FLUSH_BYTES)
    return 0


cdef RelayStatus answer_cancelled(
    Relay *r, ClientSession *c, const uint8_t *src, size_t n, size_t *consumed
) noexcept nogil:
    """A client whose request was not sent to a server yet has it cancelled.

    Its first held request is answered with an error, as PostgreSQL would: a simple
    Query or FunctionCall alone, a batch up to its Sync.

    In:      src[0:n) what the client holds
    Out:     r.to_client; RELAY_OK: *consumed bytes are answered, the rest is a new
             request; RELAY_WAIT: the batch has no Sync yet, or the rest of the request
             would go to the server that the client has: nothing was done
    """
    cdef ScanState scan = c.scan
    cdef Found found
    cdef size_t pos = 0
    cdef bint batch = False
    cdef size_t room_n
    cdef uint8_t *room
    while scan_next(
        &scan, LONE_CLIENT_RULES, src, n, &pos, &found
    ) == SCAN_MESSAGE:
        if found.code == c"S" or (
            not batch and (found.code == c"Q" or found.code == c"F")
        ):
            break
        if found.action == ACTION_ATTACH or found.action == ACTION_ATTACH_UNLESS_KNOWN:
            batch = True
    else:
        return RELAY_WAIT
    if scan.body_left and c.server != NULL:
        return RELAY_WAIT
    room_n = error_response_bytes(CANCEL_TEXT) + READY_BYTES
    room = output_room(&r.to_client, room_n)
    if room == NULL:
        return RELAY_NO_MEMORY
    r.to_client.n -= room_n
    room_n = put_error_response(room, b"ERROR", b"57014", CANCEL_TEXT)
    memcpy(room + room_n, READY_IDLE, READY_BYTES)
    r.to_client.n += room_n + READY_BYTES
    c.scan = scan
    consumed[0] = pos
    return RELAY_OK
