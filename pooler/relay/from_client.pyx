# SPDX-License-Identifier: MIT
"""The relay from client to server; see ``_requests.pxd``."""

from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memcpy

from pooler.wire.buffers cimport output_add, output_room
from pooler.statements.effects cimport push_with_effect
from pooler.tables.params cimport (
    params_ref, params_unref, put_set_query, set_query_bytes,
)
from pooler.session.pool cimport pool_take, pool_wait
from pooler.statements.requests cimport prepare_absorbed, prepare_alone, prepare_request
from pooler.relay.common cimport (
    RELAY_ALIGN, RELAY_CLIENT_PROTO, RELAY_NO_MEMORY, RELAY_OK, RELAY_TERMINATE,
    RELAY_WAIT, Relay, RelayStatus, answer_fakes,
)
from pooler.statements.replay cimport replay_collect, replay_request
from pooler.session.records cimport (
    CLIENT_WAITING, COPY_IN_NONE, COPY_IN_OPEN, ClientSession, REQUEST_ALIGN,
    REQUEST_COPY_END, ServerSession, request_closes, request_has_effect, requests_push,
)
from pooler.tables.statements cimport (
    ABSORB_DROP, ABSORB_NONE, ClientStatements, PREPARE_DONE, PREPARE_FORWARD,
    PREPARE_HOLD, PREPARE_NO_MEMORY, PREPARE_WAIT, PrepareResult,
)
from pooler._wire cimport (
    CLIENT_RULES, Found, RULE_LOCAL, RULE_NAMES, RULE_OPENS, SCAN_EPROTO, SCAN_MESSAGE,
    ScanStatus, scan_next, scan_undo,
)


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
    if requests_push(&s.requests, REQUEST_ALIGN) < 0:
        return RELAY_NO_MEMORY
    if c.params.verified_by != c.pool:
        c.aligning = True
        return RELAY_ALIGN
    return RELAY_OK


cdef inline bint is_ignored(ServerSession *s, uint8_t code) noexcept nogil:
    """Whether PostgreSQL will ignore a request, so that nothing is to be expected."""
    if s.skip_to_sync:  # it ignores everything before the next Sync
        if code != c"S":
            return True
        s.skip_to_sync = False
    if s.copy_in == COPY_IN_OPEN and code == c"S":
        s.syncs_ignored = True  # while the COPY is open
        return True
    return False


cdef inline void note_request(ServerSession *s, uint8_t code) noexcept nogil:
    """What a request that PostgreSQL will answer means for the state of its server."""
    s.copy_in = COPY_IN_NONE  # a client that sends a request has given the COPY up
    if s.batch_open and (code == c"Q" or code == c"F"):
        # PostgreSQL 18 may be left in a state in which the next query fails (XX000)
        s.obsolete = True
    s.batch_open = not request_closes(code)
    if not s.batch_open:
        s.bound = NULL
    s.batch_executed = s.batch_open and (s.batch_executed or code == c"E")


cdef inline int queue_request(ServerSession *s, uint8_t code) noexcept nogil:
    """Note what PostgreSQL will have to answer; -1 without memory for it."""
    if s.tracked and request_has_effect(code):
        return 0 if push_with_effect(s, code) != NULL else -1
    return requests_push(&s.requests, code)


cdef int take_rest(
    Relay *r, ClientSession *c, ServerSession *s, const uint8_t *src, size_t n
) noexcept nogil:
    """More of a message whose body is not forwarded: src[0:n) belongs to it."""
    cdef ClientStatements *names = c.statements
    cdef bint complete = n == c.scan.body_left
    if names.absorbing == ABSORB_DROP:
        if complete:
            names.absorbing = ABSORB_NONE
        return 0
    memcpy(names.part + names.part_have, src, n)
    names.part_have += <uint32_t> n
    if not complete:
        return 0
    if prepare_absorbed(&r.statements, c, s, &r.to_server) == PREPARE_NO_MEMORY:
        return -1
    return 0


cdef RelayStatus relay_client_bytes(
    Relay *r, ClientSession *c, const uint8_t *src, size_t n, size_t *consumed
) noexcept nogil:
    """Take what a client sent.

    In:      src[0:n) borrowed for this call, starting where the last call stopped
    Out:     *consumed <= n, the rest is to be presented again with more behind it;
             r.to_server and r.to_client, which may borrow from src
    Errors:  RELAY_CLIENT_PROTO, RELAY_NO_MEMORY: close
    Cost:    O(messages), no allocation while nothing is dropped or put in between
    Source:  "Message Flow", "Extended Query", "COPY Operations"
    """
    cdef ServerSession *s = c.server
    cdef size_t pos = 0
    cdef size_t start = 0  # first byte that is neither in to_server nor dropped
    cdef size_t taken = 0
    cdef Found found
    cdef ScanStatus scan
    cdef RelayStatus status = RELAY_OK
    cdef PrepareResult prepared
    if c.scan.body_left:
        start = c.scan.body_left if c.scan.body_left < n else n
        if s != NULL:
            if c.statements == NULL or c.statements.absorbing == ABSORB_NONE:
                start = 0
            elif take_rest(r, c, s, src, start) < 0:
                consumed[0] = 0
                return RELAY_NO_MEMORY
            elif c.settling:
                c.scan.body_left = 0
                consumed[0] = start
                return RELAY_ALIGN
        # else: a message that was dropped because no server was attached
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
            if (
                (found.code == c"P" or found.code == c"C")
                and c.pool.max_prepared_statements and c.state != CLIENT_WAITING
            ):
                taken = prepare_alone(
                    &r.statements, c, &r.to_client, src + found.start, n - found.start
                )
                if taken:
                    c.scan.body_left = 0
                    start = pos = found.start + taken
                    continue
            s = pool_take(c.pool, c, r.now_us)
            if s != NULL:
                s.unnamed_own = False
                s.bound = NULL
                if c.statements != NULL:  # batches are numbered by their server
                    c.statements.names_batch = c.statements.unnamed_batch = 0
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
            if is_ignored(s, found.code):
                continue
            prepared = PREPARE_FORWARD
            if s.tracked:
                replay_request(s, found.code)
                # into an open COPY PostgreSQL takes no request: it fails the COPY
                if found.flags & RULE_NAMES and s.copy_in != COPY_IN_OPEN:
                    output_add(&r.to_server, src + start, found.start - start)
                    start = found.start
                    prepared = prepare_request(
                        &r.statements, c, s, &r.to_server, &found, src + found.start,
                        pos - found.start, n - pos, &taken,
                    )
                    if prepared == PREPARE_HOLD or prepared == PREPARE_WAIT:
                        scan_undo(&c.scan)
                        pos = found.start
                        c.settling = prepared == PREPARE_WAIT
                        status = RELAY_ALIGN if c.settling else RELAY_OK
                        break
            note_request(s, found.code)
            if prepared == PREPARE_DONE:
                start = found.start + taken
            elif prepared == PREPARE_NO_MEMORY or queue_request(s, found.code) < 0:
                status = RELAY_NO_MEMORY
                break
            if c.settling:
                status = RELAY_ALIGN
                break
        elif found.code == c"H":
            if s.scan.body_left == 0:  # else they are answered behind that message
                answer_fakes(r, s)
        elif found.code == c"X":
            pos = found.start  # the link outlives this client
            status = RELAY_TERMINATE
            break
        elif found.code == c"c" or found.code == c"f":
            if s.copy_in != COPY_IN_NONE:
                s.copy_in = COPY_IN_NONE
            elif s.requests.head != s.requests.tail and not s.skip_to_sync:
                if requests_push(&s.requests, REQUEST_COPY_END) < 0:
                    status = RELAY_NO_MEMORY
                    break
    if scan == SCAN_EPROTO:
        status = RELAY_CLIENT_PROTO
    if s != NULL:
        if pos > start:
            output_add(&r.to_server, src + start, pos - start)
        c.pool.received_bytes += pos
        if s.tracked and not r.to_server.failed:
            replay_collect(s, &r.to_server)
    consumed[0] = pos
    if r.to_server.failed or r.to_client.failed:
        return RELAY_NO_MEMORY
    return status
