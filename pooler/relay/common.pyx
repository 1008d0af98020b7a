# SPDX-License-Identifier: MIT
"""What the two directions of the relay share; see ``_relay.pxd``."""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from pooler.wire.buffers cimport output_add, output_room
from pooler.statements.effects cimport effects_commit
from pooler.session.records cimport (
    COPY_IN_NONE, COPY_IN_OPEN, REQUEST_FAKE, REQUEST_SKIP, request_is_fake,
    requests_first, requests_pop, requests_push,
)
from pooler._wire cimport (
    CLIENT_RULES, Found, HEADER_BYTES, RULE_OPENS, SCAN_MESSAGE, ScanState,
    error_response_bytes, put_error_response, put_header, scan_next,
)

cdef enum:
    SYNC_BYTES = 5
    READY_BYTES = 6
    COPY_FAIL_BYTES = 17

cdef const char *SYNC = b"S\0\0\0\4"
cdef const char *READY_IDLE = b"Z\0\0\0\5I"
cdef const char *COPY_FAIL = b"f\0\0\0\x10client left\0"
cdef const char *CANCEL_TEXT = b"canceling statement due to user request"


cdef void answer_fakes(Relay *r, ServerSession *s) noexcept nogil:
    """Answer the requests at the head of the queue that the server does not know."""
    cdef uint8_t request = requests_first(&s.requests)
    cdef uint8_t *room
    while request_is_fake(request):
        if s.client != NULL:
            room = output_room(&r.to_client, HEADER_BYTES)
            if room == NULL:
                return
            put_header(room, c"1" if request == (c"P" | REQUEST_FAKE) else c"3", 4)
        effects_commit(&r.statements, s, 1)
        requests_pop(&s.requests)
        request = requests_first(&s.requests)


cdef int relay_script(Relay *r, ServerSession *s, const Script *q) noexcept nogil:
    """Put a query of ours into the server's stream; -1 without memory."""
    if requests_push(&s.requests, c"Q" | REQUEST_SKIP) < 0:
        return -1
    output_add(&r.to_server, q.message, q.n)
    return 0


cdef int relay_abandon(Relay *r, ServerSession *s) noexcept nogil:
    """End what a lost client has begun, so that the server comes to ReadyForQuery.

    An open COPY is failed, an open batch gets its Sync; -1 without memory.
    Source: "COPY Operations", "Extended Query"
    """
    if s.copy_in == COPY_IN_OPEN:
        output_add(&r.to_server, <const uint8_t *> COPY_FAIL, COPY_FAIL_BYTES)
    s.copy_in = COPY_IN_NONE
    if s.skip_to_sync or s.batch_open:
        output_add(&r.to_server, <const uint8_t *> SYNC, SYNC_BYTES)
        s.skip_to_sync = s.batch_open = False
        return requests_push(&s.requests, c"S" | REQUEST_SKIP)
    return 0


cdef RelayStatus relay_cancel_waiting(
    Relay *r, ClientSession *c, const uint8_t *src, size_t n, size_t *consumed
) noexcept nogil:
    """A client that waits for a server has its request cancelled.

    Its first held request is answered with an error, as PostgreSQL would: a simple
    Query or FunctionCall alone, a batch up to its Sync.

    In:      src[0:n) what the client holds
    Out:     r.to_client; RELAY_OK: *consumed bytes are answered, the rest is a new
             request; RELAY_WAIT: the batch has no Sync yet, nothing was done
    """
    cdef ScanState scan = c.scan
    cdef Found found
    cdef size_t pos = 0
    cdef bint batch = False
    cdef size_t room_n
    cdef uint8_t *room
    while scan_next(&scan, CLIENT_RULES, src, n, &pos, &found) == SCAN_MESSAGE:
        if found.code == c"S" or (
            not batch and (found.code == c"Q" or found.code == c"F")
        ):
            break
        if found.flags & RULE_OPENS:
            batch = True
    else:
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
