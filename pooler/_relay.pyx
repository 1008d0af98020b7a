# SPDX-License-Identifier: MIT
"""The two directions of the relay; see ``_relay.pxd``."""

from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memchr, memcpy

from pooler._buf cimport output_add, output_room
from pooler._params cimport (
    PARAM_VALUE_MAX, ParamSet, params_index, params_ref, params_unref, params_with,
    put_set_query, set_query_bytes,
)
from pooler._pool cimport pool_take, pool_wait
from pooler._session cimport (
    CLIENT_WAITING, COPY_IN_FAILED, COPY_IN_NONE, COPY_IN_OPEN, ClientSession,
    MODE_STATEMENT, REQUEST_SKIP, Script, ServerSession, requests_copy_in,
    requests_fail, requests_first, requests_last, requests_pop, requests_push,
    requests_ready,
)
from pooler._wire cimport (
    CLIENT_RULES, Found, HEADER_BYTES, IDLE_SERVER_RULES, RULE_ENDS, RULE_LOCAL,
    RULE_OPENS, SCAN_EPROTO, SCAN_MESSAGE, SERVER_RULES, ScanState, ScanStatus,
    error_is_fatal, error_response_bytes, put_cstring, put_error_response,
    put_header, scan_next, scan_undo,
)

cdef enum:
    SYNC_BYTES = 5
    READY_BYTES = 6
    COPY_FAIL_BYTES = 17

cdef const char *SYNC = b"S\0\0\0\4"
cdef const char *READY_IDLE = b"Z\0\0\0\5I"
cdef const char *COPY_FAIL = b"f\0\0\0\x10client left\0"
cdef const char *CANCEL_TEXT = b"canceling statement due to user request"


cdef RelayStatus align_server(
    Relay *r, ClientSession *c, ServerSession *s
) noexcept nogil:
    """Give a server that was just attached the parameters its client expects.

    The SET travels in front of the client's message in the same send when a server
    of this pool has accepted these values before. Otherwise the message must wait:
    it may not run under values that the server is about to refuse.
    """
    cdef size_t n
    cdef uint8_t *room
    if c.params == s.params:
        return RELAY_OK
    n = set_query_bytes(&r.params, c.params)
    room = output_room(&r.to_server, n)
    if room == NULL:
        return RELAY_NO_MEMORY
    r.to_server.n -= n
    n = put_set_query(room, &r.params, c.params, s.params)
    r.to_server.n += n
    if n == 0:  # the client has no opinion on what differs
        params_unref(&r.params, c.params)
        c.params = params_ref(s.params)
        return RELAY_OK
    if requests_push(&s.requests, c"Q" | REQUEST_SKIP) < 0:
        return RELAY_NO_MEMORY
    if c.params.verified_by != c.pool:
        c.aligning = True
        return RELAY_ALIGN
    return RELAY_OK


cdef inline bint closes_batch(uint8_t code) noexcept nogil:
    """Whether ReadyForQuery answers a request, so that nothing stays open behind it."""
    return code == c"S" or code == c"Q" or code == c"F"


cdef bint track_request(
    ServerSession *s, const Found *found
) noexcept nogil:
    """Note what PostgreSQL will have to answer; False without memory for it."""
    if s.skip_to_sync:  # PostgreSQL ignores everything before the next Sync
        if found.code != c"S":
            return True
        s.skip_to_sync = False
    if s.copy_in == COPY_IN_OPEN and found.code == c"S":
        s.syncs_ignored = True  # by PostgreSQL, while the COPY is open
        return True
    s.copy_in = COPY_IN_NONE  # a client that sends a request has given the COPY up
    if s.batch_open and (found.code == c"Q" or found.code == c"F"):
        # PostgreSQL 18 may be left in a state in which the next query fails (XX000)
        s.obsolete = True
    s.batch_open = not closes_batch(found.code)
    return requests_push(&s.requests, found.code) == 0


cdef RelayStatus relay_client_bytes(
    Relay *r, ClientSession *c, const uint8_t *src, size_t n, size_t *consumed
) noexcept nogil:
    """Take what a client sent.

    In:      src[0:n) borrowed for this call, starting where the last call stopped
    Out:     *consumed <= n, the rest is to be presented again with more behind it;
             r.to_server borrows from src
    Errors:  RELAY_CLIENT_PROTO, RELAY_NO_MEMORY: close
    Cost:    O(messages), no allocation while nothing is dropped or put in between
    Source:  "Message Flow", "Extended Query", "COPY Operations"
    """
    cdef ServerSession *s = c.server
    cdef size_t pos = 0
    cdef size_t start = 0  # first byte that is neither in to_server nor dropped
    cdef Found found
    cdef ScanStatus scan
    cdef RelayStatus status = RELAY_OK
    if s == NULL and c.scan.body_left:
        # the rest of a message that was dropped because no server was attached
        start = c.scan.body_left if c.scan.body_left < n else n
    while True:
        scan = scan_next(&c.scan, CLIENT_RULES, src, n, &pos, &found)
        if scan != SCAN_MESSAGE:
            break
        if s == NULL:
            if found.flags & RULE_LOCAL:
                if found.code == c"X":
                    status = RELAY_TERMINATE
                    break
                # Flush has nothing to flush; COPY data came late for its COPY
                start = pos
                continue
            s = pool_take(c.pool, c, r.now_us)
            if s != NULL:
                status = align_server(r, c, s)
            else:
                status = RELAY_WAIT
                if c.state != CLIENT_WAITING:
                    pool_wait(c.pool, c, r.now_us)
            start = found.start
            if status != RELAY_OK:
                scan_undo(&c.scan)
                pos = found.start
                break
        if found.flags & RULE_OPENS:
            if not track_request(s, &found):
                status = RELAY_NO_MEMORY
                break
        elif found.code == c"X":
            pos = found.start  # the link outlives this client
            status = RELAY_TERMINATE
            break
        elif found.code == c"c" or found.code == c"f":
            if s.copy_in != COPY_IN_NONE:
                s.copy_in = COPY_IN_NONE
            elif s.requests.head != s.requests.tail and not s.skip_to_sync:
                if requests_push(&s.requests, c"c") < 0:
                    status = RELAY_NO_MEMORY
                    break
    if scan == SCAN_EPROTO:
        status = RELAY_CLIENT_PROTO
    if s != NULL and pos > start:
        output_add(&r.to_server, src + start, pos - start)
        c.pool.received_bytes += pos - start
    consumed[0] = pos
    if r.to_server.failed:
        return RELAY_NO_MEMORY
    return status


cdef void tell_parameter(
    Relay *r, int index, const ParamSet *values
) noexcept nogil:
    """Put a ParameterStatus into the client's stream."""
    cdef uint32_t name_n = r.params.name_n[index]
    cdef uint32_t value_n = values.value[index].n
    cdef size_t n = HEADER_BYTES + name_n + 1 + value_n + 1
    cdef uint8_t *room = output_room(&r.to_client, n)
    if room == NULL:
        return
    room += put_header(room, c"S", <uint32_t> (n - 1))
    room += put_cstring(room, r.params.name[index], name_n)
    put_cstring(room, <const char *> values.value[index].text, value_n)


cdef void server_aligned(Relay *r, ServerSession *s, ClientSession *c) noexcept nogil:
    """The server has accepted the client's parameters.

    It may have put a value into its own words (``ISO`` becomes ``ISO, MDY``). The
    client takes these over and is told, else every transaction would SET again.
    """
    cdef int i
    c.params.verified_by = s.pool
    s.params.verified_by = s.pool
    if c.params != s.params:
        for i in range(r.params.count):
            if s.params.value[i] != NULL and c.params.value[i] != s.params.value[i]:
                tell_parameter(r, i, s.params)
        params_unref(&r.params, c.params)
        c.params = params_ref(s.params)
    if c.aligning:
        c.aligning = False
        r.resume = True


cdef bint note_parameter(
    Relay *r, ServerSession *s, bint for_client, const uint8_t *body, size_t n
) noexcept nogil:
    """A server's ParameterStatus: it, and the client it works for, have a new value.

    False when the body is malformed or memory is short.
    """
    cdef const uint8_t *end = <const uint8_t *> memchr(body, 0, n)
    cdef const uint8_t *value
    cdef ParamSet *new
    cdef size_t value_n
    cdef size_t k
    cdef int index
    if end == NULL:
        return False
    index = params_index(&r.params, body, <size_t> (end - body))
    value = end + 1
    value_n = n - <size_t> (value - body)
    if value_n == 0 or value[value_n - 1] != 0:
        return False
    value_n -= 1
    if index < 0:
        return True
    if value_n > PARAM_VALUE_MAX:
        return True
    for k in range(value_n):
        if value[k] >= 0x80:  # cannot be put into a SET safely: not followed
            return True
    new = params_with(&r.params, s.params, index, value, value_n)
    if new == NULL:
        return False
    params_unref(&r.params, s.params)
    s.params = new
    if for_client:
        new = params_with(&r.params, s.client.params, index, value, value_n)
        if new == NULL:
            return False
        params_unref(&r.params, s.client.params)
        s.client.params = new
        new.verified_by = s.pool
    return True


cdef inline bint is_xact_status(uint8_t status) noexcept nogil:
    return status == c"I" or status == c"T" or status == c"E"


cdef RelayStatus relay_server_bytes(
    Relay *r, ServerSession *s, const uint8_t *src, size_t n, size_t *consumed
) noexcept nogil:
    """Take what a server sent.

    In:      as relay_client_bytes
    Out:     *consumed <= n; r.to_client borrows from src; r.resume: the client's held
             bytes may go on
    Errors:  RELAY_SERVER_PROTO, RELAY_SERVER_DEAD, RELAY_ALIGN_FAILED,
             RELAY_NO_MEMORY: close the server and its client
    Cost:    O(messages), no allocation but for changed parameters
    Source:  "Message Flow", "Asynchronous Operations"
    """
    cdef ClientSession *c = s.client
    cdef size_t pos = 0
    cdef size_t start = 0
    cdef Found found
    cdef ScanStatus scan
    cdef RelayStatus status = RELAY_OK
    cdef uint8_t first = requests_first(&s.requests)
    cdef bint drop = c == NULL or first & REQUEST_SKIP != 0
    if s.dropping and s.scan.body_left:
        # it began before this client was attached
        if s.scan.body_left > n:
            s.scan.body_left -= <uint32_t> n
            consumed[0] = n
            return RELAY_OK
        start = s.scan.body_left
    while True:
        # a server that owes no answer may only say what nobody has to ask for
        scan = scan_next(
            &s.scan,
            &SERVER_RULES[0] if first or s.syncs_ignored else &IDLE_SERVER_RULES[0],
            src, n, &pos, &found,
        )
        if scan != SCAN_MESSAGE:
            break
        if found.flags & RULE_ENDS:
            if found.code == c"Z":
                s.xact_status = src[found.start + HEADER_BYTES]
                if not is_xact_status(s.xact_status):
                    scan = SCAN_EPROTO
                    break
                requests_ready(&s.requests)
                s.skip_to_sync = False
                if first & REQUEST_SKIP:
                    start = pos  # swallowed up to here
                    if c != NULL:
                        server_aligned(r, s, c)
                else:
                    s.pool.query_count += 1
                    if s.xact_status == c"I":
                        s.pool.xact_count += 1
                    elif s.pool.mode == MODE_STATEMENT and c != NULL:
                        pos = found.start  # the client shall not believe in it
                        status = RELAY_STATEMENT_XACT
                        break
                first = requests_first(&s.requests)
                if not drop and first & REQUEST_SKIP:
                    output_add(&r.to_client, src + start, pos - start)
                    start = pos
                drop = c == NULL or first & REQUEST_SKIP != 0
            elif found.ends == first:
                requests_pop(&s.requests)
                first = requests_first(&s.requests)
        elif found.code == c"E":
            if first == 0 and c == NULL:
                status = RELAY_SERVER_DEAD
                break
            if first == (c"Q" | REQUEST_SKIP) and c == NULL:
                status = RELAY_TEST_FAILED
                break
            if first & REQUEST_SKIP and c != NULL:
                if s.scan.body_left:  # the client shall read all of it, or nothing
                    scan_undo(&s.scan)
                    pos = found.start
                    break
                output_add(&r.to_client, src + found.start, pos - found.start)
                start = pos
                status = RELAY_ALIGN_FAILED
                break
            if s.copy_in == COPY_IN_OPEN:
                s.copy_in = COPY_IN_FAILED
                # how many ReadyForQuery are still to come cannot be known then
                s.obsolete = s.obsolete or s.syncs_ignored
            s.skip_to_sync = requests_fail(&s.requests)
            first = requests_first(&s.requests)
            s.fatal_seen = s.scan.body_left != 0 or error_is_fatal(
                src + found.start + HEADER_BYTES, found.length - 4
            )
        elif found.code == c"S":
            if not note_parameter(
                r, s, not drop, src + found.start + HEADER_BYTES,
                found.length - 4,
            ):
                scan = SCAN_EPROTO
                break
        elif found.code == c"G":
            s.syncs_ignored = False
            s.copy_in = (
                COPY_IN_OPEN if requests_copy_in(&s.requests, &s.syncs_ignored)
                else COPY_IN_NONE
            )
            if s.syncs_ignored:  # one that closed the batch does not count
                s.batch_open = not closes_batch(requests_last(&s.requests))
    if scan == SCAN_EPROTO:
        status = RELAY_SERVER_PROTO
    if not drop and pos > start:
        output_add(&r.to_client, src + start, pos - start)
    s.dropping = drop
    s.pool.sent_bytes += r.to_client.n
    consumed[0] = pos
    if r.to_client.failed:
        return RELAY_NO_MEMORY
    return status


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
