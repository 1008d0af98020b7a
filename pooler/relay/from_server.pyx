# SPDX-License-Identifier: MIT
"""The relay from server to client; see ``_answers.pxd``."""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memchr

from pooler.wire.buffers cimport output_add, output_room
from pooler.statements.effects cimport (
    effects_commit, effects_undo, note_parameters, note_shape, note_tag,
)
from pooler.statements.error_text cimport put_refusal, put_renamed_error
from pooler.statements.install cimport send_again
from pooler.tables.params cimport (
    PARAM_VALUE_MAX, ParamSet, params_index, params_ref, params_unref, params_with,
)
from pooler.relay.common cimport (
    RELAY_ALIGN_FAILED, RELAY_NO_MEMORY, RELAY_OK, RELAY_SERVER_DEAD,
    RELAY_SERVER_PROTO, RELAY_STATEMENT_XACT, RELAY_TEST_FAILED, RELAY_WAIT, Relay,
    RelayStatus, answer_fakes,
)
from pooler.statements.replay cimport is_stale_plan, replay_possible
from pooler.session.records cimport (
    COPY_IN_FAILED, COPY_IN_NONE, COPY_IN_OPEN, ClientSession, MODE_STATEMENT,
    MODE_SESSION, REPLAY_OFF, REQUEST_ALIGN, REQUEST_DESCRIBE, REQUEST_SKIP,
    REQUEST_SQL, ServerSession, request_closes, request_code, request_has_effect,
    request_is_fake, requests_at, requests_copy_in, requests_fail, requests_first,
    requests_last, requests_pop, requests_ready,
)
from pooler.tables.statements cimport (
    EFFECT_FAILED, EFFECT_REFUSED, Effect, effects_at, shape_of_parameters,
    shape_of_rows,
)
from pooler._wire cimport (
    Found, HEADER_BYTES, IDLE_SERVER_RULES, RULE_ENDS, SCAN_END, SCAN_EPROTO,
    SCAN_MESSAGE, SERVER_RULES, ScanStatus, error_is_fatal, put_cstring, put_header,
    scan_next, scan_undo,
)

cdef enum:
    ERROR_HELD_BYTES = 16384  # a longer error is shown as it is
    SHAPE_HELD_BYTES = 65536  # a longer RowDescription is not remembered
    SHAPE_OF_NOTHING = 2
    SHAPE_TOO_LONG = 3


cdef struct Answers:  # how far the answers of one read have been dealt with
    const uint8_t *src  # borrow
    size_t start  # first byte that is neither in to_client nor dropped
    size_t pos
    uint8_t first  # the request that is being answered
    bint drop  # what is being answered is not for the client


cdef inline void keep_until(Relay *r, Answers *a, size_t end) noexcept nogil:
    """Everything before ``end`` is dealt with."""
    if not a.drop and end > a.start:
        output_add(&r.to_client, a.src + a.start, end - a.start)
    a.start = end


cdef inline void next_request(
    Relay *r, ServerSession *s, Answers *a
) noexcept nogil:
    """Another request is at the head of the queue, at the message boundary pos."""
    a.first = requests_first(&s.requests)
    if a.drop or a.first & REQUEST_SKIP != 0 or request_is_fake(a.first):
        keep_until(r, a, a.pos)
        answer_fakes(r, s)
        a.first = requests_first(&s.requests)
        a.drop = s.client == NULL or a.first & REQUEST_SKIP != 0


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


cdef inline void go_on(Relay *r, ClientSession *c) noexcept nogil:
    """The batches are answered that the client's names depended on."""
    if c != NULL and c.settling:
        c.settling = False
        r.resume = True


cdef void server_ready(
    Relay *r, ServerSession *s, ClientSession *c, uint8_t answered
) noexcept nogil:
    """ReadyForQuery: ``answered`` was at the head of the queue."""
    cdef uint32_t effects
    requests_ready(&s.requests, &effects)
    s.skip_to_sync = False
    if s.tracked:
        effects_commit(&r.statements, s, effects)
        if s.requests.closing_count == 0:
            go_on(r, c)
        if s.requests.head == s.requests.tail:
            s.mapped_prepares = 0
    if answered & REQUEST_SKIP:
        if answered == REQUEST_ALIGN and c != NULL:
            server_aligned(r, s, c)
        return
    s.error_told = False
    s.pool.query_count += 1
    if s.xact_status == c"I":
        s.pool.xact_count += 1


cdef bint query_is_next(ServerSession *s) noexcept nogil:
    """Whether a Sync of ours is at the head, and behind it a Query."""
    cdef uint8_t request
    if requests_first(&s.requests) != (c"S" | REQUEST_SKIP) or (
        s.requests.tail - s.requests.head == 1
    ):
        return False
    request = requests_at(&s.requests, s.requests.head + 1)[0] & 0x7F
    return request == c"Q" or request == REQUEST_SQL


cdef void show_error(
    Relay *r, ServerSession *s, const Effect *effect, const Found *found, Answers *a,
    bint cut,
) noexcept nogil:
    """Let the client see an error as if its own request had failed, and once only.

    ``effect``: of the request that has failed, or NULL. What was skipped behind it is
    undone, so the client's names are those that this request was sent with.
    """
    keep_until(r, a, found.start)
    if s.error_told:
        a.drop = True
    elif effect != NULL and effect.flags & EFFECT_REFUSED:
        put_refusal(&r.to_client, effect.refusal)
        a.drop = True
    else:
        # not dropped, also when we asked for it on the client's behalf
        a.drop = not cut and put_renamed_error(
            &r.to_client, &r.statements, s.client, effect,
            a.src + found.start, <size_t> found.length + 1,
        )


cdef void undo_failed(
    Relay *r, ServerSession *s, ClientSession *c, const Found *found, Answers *a,
    bint cut, uint32_t skipped,
) noexcept nogil:
    """Take back what PostgreSQL has skipped, and show the error to the client.

    ``skipped``: how many requests that have effects; the failed one is among them.
    """
    cdef uint8_t failed = a.first
    cdef Effect *effect = NULL
    if request_has_effect(failed) and s.effects.head != s.effects.tail:
        if skipped:
            effects_undo(&r.statements, s, 1, skipped - 1)
        effect = effects_at(&s.effects, s.effects.head)
    else:
        effects_undo(&r.statements, s, 0, skipped)
    if c != NULL and failed:
        show_error(r, s, effect, found, a, cut)
    if effect != NULL:
        effect.flags |= EFFECT_FAILED
    if skipped and effect != NULL:
        effects_undo(&r.statements, s, 0, 1)
    if failed & 0x7F == REQUEST_SQL:  # undone at ReadyForQuery
        s.error_told = failed & REQUEST_SKIP != 0
    elif failed & REQUEST_SKIP and query_is_next(s):
        s.error_told = True


cdef inline bint owes_nothing(const ServerSession *s) noexcept nogil:
    """It has answered everything, and no transaction, batch or COPY is open."""
    return (
        s.xact_status == c"I" and s.copy_in == COPY_IN_NONE
        and not s.batch_open and not s.skip_to_sync
    )


cdef void note_rows(
    Relay *r, ServerSession *s, ClientSession *c, const Found *found,
    const uint8_t *src, uint8_t request,
) noexcept nogil:
    """A Describe whose answer matters is answered: RowDescription or NoData."""
    cdef uint64_t shape = SHAPE_OF_NOTHING
    if found.code == c"T":
        shape = SHAPE_TOO_LONG
        if s.scan.body_left == 0:
            shape = shape_of_rows(
                src + found.start + HEADER_BYTES, found.length - 4
            )
    note_shape(s, shape)
    if request & REQUEST_SKIP:  # somebody waits for it
        go_on(r, c)


cdef RelayStatus server_error(
    Relay *r, ServerSession *s, ClientSession *c, const Found *found, Answers *a,
) noexcept nogil:
    """ErrorResponse, at ``found``; RELAY_WAIT: not before the rest of it is here."""
    cdef const uint8_t *body = a.src + found.start + HEADER_BYTES
    cdef size_t n = found.length - 4
    cdef bint cut = s.scan.body_left != 0
    cdef uint32_t effects = 0
    if a.first == 0 and c == NULL:
        return RELAY_SERVER_DEAD
    if a.first == (c"Q" | REQUEST_SKIP) and c == NULL:
        return RELAY_TEST_FAILED
    if a.first == 0 and s.pool.mode != MODE_SESSION and owes_nothing(s):
        # said by a server that is free again: no client of it shall hear of it
        keep_until(r, a, found.start)
        a.drop = True
        s.obsolete = True
        return RELAY_OK
    if a.first == REQUEST_ALIGN and c != NULL:
        if cut:  # the client shall read all of it, or nothing
            return RELAY_WAIT
        output_add(&r.to_client, a.src + found.start, a.pos - found.start)
        a.start = a.pos
        return RELAY_ALIGN_FAILED
    if s.tracked and c != NULL and a.first != 0:
        if cut and n < ERROR_HELD_BYTES:
            return RELAY_WAIT
        if not cut and is_stale_plan(&r.statements, body, n):
            if replay_possible(s):
                keep_until(r, a, found.start)
                a.drop = True
                if send_again(&r.statements, s, &r.to_server) < 0:
                    return RELAY_NO_MEMORY
                next_request(r, s, a)
                return RELAY_OK
            s.statements.generation += 1  # whoever comes next prepares anew
    if s.copy_in == COPY_IN_OPEN:
        s.copy_in = COPY_IN_FAILED
        # how many ReadyForQuery are still to come cannot be known then
        s.obsolete = s.obsolete or s.syncs_ignored
    s.skip_to_sync = requests_fail(&s.requests, &effects)
    if s.skip_to_sync:  # its Query, too, was skipped
        go_on(r, c)
    if s.tracked:
        undo_failed(r, s, c, found, a, cut, effects)
    s.fatal_seen = cut or error_is_fatal(body, n)
    if cut:
        a.first = requests_first(&s.requests)
    else:
        next_request(r, s, a)
    return RELAY_OK


cdef RelayStatus relay_server_bytes(
    Relay *r, ServerSession *s, const uint8_t *src, size_t n, size_t *consumed
) noexcept nogil:
    """Take what a server sent.

    In:      as relay_client_bytes
    Out:     *consumed <= n; r.to_client borrows from src; r.to_server: a batch that is
             sent again; r.resume: the client's held bytes may go on
    Errors:  RELAY_SERVER_PROTO, RELAY_SERVER_DEAD, RELAY_ALIGN_FAILED,
             RELAY_NO_MEMORY: close the server and its client
    Cost:    O(messages), no allocation but for changed parameters
    Source:  "Message Flow", "Asynchronous Operations"
    """
    cdef ClientSession *c = s.client
    cdef Answers a
    cdef Found found
    cdef ScanStatus scan = SCAN_END
    cdef RelayStatus status = RELAY_OK
    a.src = src
    a.start = a.pos = 0
    a.drop = s.dropping or c == NULL
    a.first = requests_first(&s.requests)
    if s.scan.body_left:  # of a message that began in an earlier read
        if s.scan.body_left > n:
            a.pos = n
            s.scan.body_left -= <uint32_t> n
        else:
            a.pos = s.scan.body_left
            s.scan.body_left = 0
        keep_until(r, &a, a.pos)
    if s.scan.body_left == 0:
        a.drop = c == NULL or a.first & REQUEST_SKIP != 0
        if request_is_fake(a.first):
            next_request(r, s, &a)
    while s.scan.body_left == 0:
        # a server that owes no answer may only say what nobody has to ask for
        scan = scan_next(
            &s.scan,
            &SERVER_RULES[0] if a.first or s.syncs_ignored else &IDLE_SERVER_RULES[0],
            src, n, &a.pos, &found,
        )
        if scan != SCAN_MESSAGE:
            break
        if found.code == c"Z":
            s.xact_status = src[found.start + HEADER_BYTES]
            if not is_xact_status(s.xact_status):
                scan = SCAN_EPROTO
                break
            if (
                s.pool.mode == MODE_STATEMENT and s.xact_status != c"I"
                and c != NULL and not a.first & REQUEST_SKIP
            ):
                server_ready(r, s, c, a.first)
                a.pos = found.start  # the client shall not believe in it
                status = RELAY_STATEMENT_XACT
                break
            if a.first & REQUEST_SKIP:
                a.drop = True
            keep_until(r, &a, a.pos)
            server_ready(r, s, c, a.first)
            next_request(r, s, &a)
        elif found.flags & RULE_ENDS:
            if a.first & 0x7F == REQUEST_DESCRIBE and found.ends == c"D":
                if s.scan.body_left and found.length < SHAPE_HELD_BYTES:
                    scan_undo(&s.scan)
                    a.pos = found.start
                    break
                note_rows(r, s, c, &found, src, a.first)
            if s.tracked:
                if found.code == c"C":
                    note_tag(
                        &r.statements, s, NULL if a.drop else c,
                        src + found.start + HEADER_BYTES, found.length - 4,
                    )
                if a.first == c"Q":
                    s.replay.state = REPLAY_OFF  # the client sees an answer
            if found.ends == request_code(a.first):
                if s.tracked and request_has_effect(a.first):
                    effects_commit(&r.statements, s, 1)
                requests_pop(&s.requests)
                if s.scan.body_left == 0:
                    next_request(r, s, &a)
        elif found.code == c"E":
            status = server_error(r, s, c, &found, &a)
            if status == RELAY_WAIT:
                scan_undo(&s.scan)
                a.pos = found.start
                status = RELAY_OK
                break
            if status != RELAY_OK:
                break
        elif found.code == c"S":
            if not note_parameter(
                r, s, not a.drop, src + found.start + HEADER_BYTES,
                found.length - 4,
            ):
                scan = SCAN_EPROTO
                break
        elif found.code == c"t":
            if a.first & 0x7F == REQUEST_DESCRIBE and s.scan.body_left and (
                found.length < SHAPE_HELD_BYTES
            ):
                scan_undo(&s.scan)
                a.pos = found.start
                break
            if a.first & 0x7F == REQUEST_DESCRIBE and s.scan.body_left == 0:
                note_parameters(
                    s, shape_of_parameters(
                        src + found.start + HEADER_BYTES, found.length - 4
                    ),
                )
        elif found.code == c"G":
            s.syncs_ignored = False
            s.copy_in = (
                COPY_IN_OPEN if requests_copy_in(&s.requests, &s.syncs_ignored)
                else COPY_IN_NONE
            )
            if s.copy_in == COPY_IN_OPEN:
                go_on(r, c)  # it is the client that must go on now
            if s.syncs_ignored:  # one that closed the batch does not count
                s.batch_open = not request_closes(requests_last(&s.requests))
    if scan == SCAN_EPROTO:
        status = RELAY_SERVER_PROTO
    keep_until(r, &a, a.pos)
    s.dropping = a.drop
    s.pool.sent_bytes += r.to_client.n
    consumed[0] = a.pos
    if r.to_client.failed or r.to_server.failed:
        return RELAY_NO_MEMORY
    return status
