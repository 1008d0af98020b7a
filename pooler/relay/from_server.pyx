# SPDX-License-Identifier: MIT
"""The relay from server to client; see ``from_server.pxd``."""

from libc.stdint cimport uint32_t, uint64_t, uint8_t

from pooler.relay.align cimport (
    is_going_back, note_parameter, resets_answered, resets_failed, server_aligned,
)
from pooler.relay.failures cimport Needed, needs_what_failed, undo_failed
from pooler.relay.injected cimport answer_fakes
from pooler.relay.server_walk cimport Walk, body_of, body_size, is_cut, keep_until
from pooler.relay.shared cimport (
    RELAY_ALIGN_FAILED, RELAY_HOLD, RELAY_NO_MEMORY, RELAY_OK, RELAY_SERVER_DEAD,
    RELAY_SERVER_PROTO, RELAY_STATEMENT_XACT, RELAY_TEST_FAILED,
)
from pooler.session.records cimport (
    CHANGE_TRACKED, COPY_IN_NONE, COPY_IN_OPEN, MODE_SESSION, MODE_STATEMENT,
)
from pooler.session.requests cimport (
    REQUEST_ALIGN, REQUEST_DESCRIBE, REQUEST_NAMES, REQUEST_SKIP, REQUEST_SQL,
    request_closes, request_code, request_has_effect, request_is_fake, request_is_query,
    request_is_simple, requests_fail, requests_first, requests_last, requests_pop,
    requests_ready,
)
from pooler.statements.effects cimport (
    effects_commit, extra_done, has_notices, is_extra, note_parameters, note_shape,
    note_tag, note_types, read_otherwise, tag_tells, values_told,
)
from pooler.statements.repeat cimport send_again
from pooler.statements.replay cimport (
    replay_forget, replay_possible, replay_proven, replay_wanted, says_stale,
)
from pooler.statements.schema cimport schema_ready, schema_tag, tag_is_counted
from pooler.tables.effect_queue cimport EFFECT_EXECUTES, Effect, effects_at
from pooler.tables.shapes cimport (
    SHAPE_OF_NOTHING, shape_add, shape_begin, shape_end,
)
from pooler.wire.buffers cimport output_add
from pooler._wire cimport (
    ACTIONS, ACTION_COPY_IN, ACTION_ENDS, ACTION_ERROR, ACTION_PARAMETER,
    ACTION_PARAMETER_TYPES, ACTION_READY, ACTION_ROWS, ACTION_TAG, HEADER_BYTES,
    IDLE_SERVER_RULES, SCAN_EPROTO, SCAN_MESSAGE, SERVER_RULES, ScanStatus,
    error_is_fatal, load_be32, scan_next, scan_undo,
)
from pooler.session.batch cimport batch_fail, batch_open, batch_synced, settled
from pooler.session.copy_in cimport copy_fail, copy_open
from pooler.session.counters cimport count_query, count_sent
from pooler.session.custom cimport custom_failed, custom_tag
from pooler.session.fate cimport mark_obsolete, note_fatal
from pooler.session.time_limits cimport server_answered
from pooler.session.tracking cimport (
    error_is_owed, no_prepares, owe_nothing, tell_error,
)
from pooler.session.changes cimport change_undone, changes_answered, resets_reached
from pooler.tables.params cimport (
    ParamSet, params_mean_the_same, params_ref, params_unref,
)
from pooler.tables.server_statements cimport (
    server_statements_doubt, server_statements_sure,
)

from pooler.wire.messages import MESSAGES, Action, Sender

cdef enum:
    ERROR_HELD_BYTES = 16384  # a longer error is shown as it is
    TYPES_HELD_BYTES = 65536  # a longer ParameterDescription is told at once

cdef inline void next_request(Walk *w, uint8_t first) noexcept nogil:
    """``first`` is at the head of the queue now, at the message boundary pos."""
    w.first = first
    if w.drop or first & REQUEST_SKIP != 0 or request_is_fake(first):
        keep_until(w, w.pos)
        answer_fakes(w.r, w.s)
        w.first = requests_first(&w.s.requests)
        w.drop = w.c == NULL or w.first & REQUEST_SKIP != 0


cdef void prove(Walk *w) noexcept nogil:
    """The request behind an unproven Parse is being answered: so is the Parse."""
    replay_proven(w.s)
    keep_until(w, w.found.start)
    answer_fakes(w.r, w.s)
    w.first = requests_first(&w.s.requests)
    go_on(w)


cdef RelayStatus give_back(Walk *w) noexcept nogil:
    """Present the message again, with more behind it."""
    scan_undo(&w.s.scan)
    w.pos = w.found.start
    return RELAY_HOLD


cdef inline void go_on(Walk *w) noexcept nogil:
    """The batches are answered that the client's names depended on."""
    if w.c != NULL and w.c.settling:
        settled(w.c)
        w.r.resume = not w.c.aligning


cdef inline void go_on_if_answered(Walk *w) noexcept nogil:
    """The end of a request may be the last: what is answered cannot fail any more."""
    if w.c != NULL and w.c.settling and w.s.requests.head == w.s.requests.tail:
        go_on(w)


# ---------------------------------------------------------------- ReadyForQuery

cdef inline bint is_xact_status(uint8_t status) noexcept nogil:
    return status == c"I" or status == c"T" or status == c"E"


cdef void count_ready(Walk *w) noexcept nogil:
    """ReadyForQuery: what ``first`` has asked for is done."""
    cdef ServerSession *s = w.s
    cdef uint32_t effects
    requests_ready(&s.requests, &effects)
    batch_synced(s)
    if s.tracking.on:
        if effects:
            effects_commit(&w.r.statements, s, effects)
        if s.requests.head == s.requests.tail:
            no_prepares(s)
    if s.requests.closing_count == 0:
        go_on(w)
    if s.requests.head == s.requests.tail:
        if s.changes.tracked_sent and s.client != NULL:
            values_told(&w.r.statements, s)
        if changes_answered(s):
            server_statements_sure(&s.statements)
    if w.first & REQUEST_SKIP:
        if w.first == REQUEST_ALIGN and w.c != NULL:
            server_aligned(w.r, s, w.c)
        return
    tell_error(s, False)
    owe_nothing(s)
    count_query(s, w.r.now_us)


cdef RelayStatus on_ready(Walk *w) noexcept nogil:
    cdef ServerSession *s = w.s
    cdef uint8_t status = body_of(w)[0]
    if not is_xact_status(status):
        w.pos = w.found.start
        return RELAY_SERVER_PROTO
    s.xact_status = status
    if s.tracking.changing:
        schema_ready(&w.r.statements, s)
    if s.pool.config.watch_ready and w.c != NULL:
        return watched_ready(w, status)
    return ready_told(w, status)


cdef RelayStatus watched_ready(Walk *w, uint8_t status) noexcept nogil:
    """ReadyForQuery in statement mode, or where a time limit is measured by it."""
    cdef RelayStatus told
    if (
        w.s.pool.config.mode == MODE_STATEMENT and status != c"I"
        and not w.first & REQUEST_SKIP
    ):
        count_ready(w)
        w.pos = w.found.start  # the client shall not believe in it
        return RELAY_STATEMENT_XACT
    told = ready_told(w, status)
    if w.s.pool.config.timed:
        server_answered(w.s)
    return told


cdef inline RelayStatus ready_told(Walk *w, uint8_t status) noexcept nogil:
    """ReadyForQuery goes on to the client, unless it answers what we have asked."""
    cdef ServerSession *s = w.s
    if w.first & REQUEST_SKIP:
        w.drop = True
    elif resets_reached(s) and w.c != NULL and s.requests.closing_count == 1:
        keep_until(w, w.found.start)
        if resets_answered(w.r, s, w.c, status) != RELAY_OK:
            return RELAY_NO_MEMORY
    keep_until(w, w.pos)
    count_ready(w)
    next_request(w, requests_first(&s.requests))
    return RELAY_OK


# ---------------------------------------------------------------- answers

cdef void tell_notices(Walk *w) noexcept nogil:
    """What a Parse of ours for the client's sake has been answered so far.

    It is dropped, but for notices. One that is cut by the end of a read is lost.
    """
    cdef size_t at = w.start
    cdef size_t end
    if (
        w.c == NULL or not w.drop or w.first != (c"P" | REQUEST_SKIP)
        or not has_notices(w.s)
    ):
        return
    while at + HEADER_BYTES <= w.pos:
        end = at + 1 + load_be32(w.src + at + 1)
        if end > w.pos:
            break
        if w.src[at] == c"N":
            output_add(&w.r.to_client, w.src + at, end - at)
        at = end
    w.start = at


cdef RelayStatus on_ends(Walk *w) noexcept nogil:
    cdef ServerSession *s = w.s
    cdef uint8_t following
    if w.first == w.found.ends and request_is_simple(w.first):
        following = requests_pop(&s.requests)
        if not is_cut(w):
            next_request(w, following)
        go_on_if_answered(w)
        return RELAY_OK
    if request_is_fake(w.first):
        prove(w)
    if s.tracking.on and request_is_query(w.first):
        replay_forget(s)  # the client sees an answer
    if w.found.ends == request_code(w.first):
        if s.tracking.on and request_has_effect(w.first):
            tell_notices(w)
            effects_commit(&w.r.statements, s, 1)
        following = requests_pop(&s.requests)
        if not is_cut(w):
            next_request(w, following)
        go_on_if_answered(w)
    return RELAY_OK


cdef RelayStatus on_tag(Walk *w) noexcept nogil:
    cdef const uint8_t *tag = body_of(w)
    cdef size_t n = body_size(w)
    if w.first == REQUEST_SQL and is_extra(w.s):
        if is_cut(w):
            return give_back(w)
        extra_done(w.s)
        keep_until(w, w.found.start)
        w.start = w.pos
        return RELAY_OK
    if tag_is_counted(w.s, tag, n):
        schema_tag(&w.r.statements, w.s, tag, n)
    if w.s.custom.sent and n > 1:
        custom_tag(w.s, tag)
    if w.s.tracking.on and tag_tells(w.first, tag, n):
        note_tag(&w.r.statements, w.s, NULL if w.drop else w.c, tag, n)
    return on_ends(w)


cdef inline bint describes(const Walk *w) noexcept nogil:
    """Whether what a Describe says of a statement is remembered."""
    return w.first & 0x7F == REQUEST_DESCRIBE


cdef void end_description(Walk *w) noexcept nogil:
    """All of a description has passed whose number matters; the request is its own.

    A RowDescription or NoData ends the Describe as well.
    """
    cdef ServerSession *s = w.s
    cdef bint rows = s.shaping.code == c"T"
    cdef uint64_t shape = shape_end(&s.shaping)
    if rows:
        end_describe(w, shape)
    else:
        note_parameters(s, shape)


cdef void end_describe(Walk *w, uint64_t shape) noexcept nogil:
    """A Describe whose answer matters is answered, up to ``pos``."""
    note_shape(w.s, shape)
    if w.first & REQUEST_SKIP:  # somebody waits for it
        go_on(w)
    effects_commit(&w.r.statements, w.s, 1)
    next_request(w, requests_pop(&w.s.requests))
    go_on_if_answered(w)


cdef void begin_description(Walk *w) noexcept nogil:
    """Its bytes are taken in as they pass, in whatever pieces."""
    cdef size_t start = w.found.start + HEADER_BYTES
    shape_begin(&w.s.shaping, w.found.code)
    shape_add(&w.s.shaping, w.src + start, w.pos - start)
    if not is_cut(w):
        end_description(w)
        if w.found.code == c"t":
            note_types(&w.r.statements, w.s, body_of(w), body_size(w))


cdef RelayStatus on_rows(Walk *w) noexcept nogil:
    if not describes(w):
        return on_ends(w)
    if w.found.code == c"T":
        begin_description(w)
    else:
        end_describe(w, SHAPE_OF_NOTHING)
    return RELAY_OK


cdef bint next_is_here(Walk *w) noexcept nogil:
    """Whether the message behind this one is here, as far as it has to be looked at."""
    cdef const uint8_t *following = w.src + w.pos
    cdef size_t left = w.n - w.pos
    cdef uint32_t length
    if left < HEADER_BYTES:
        return False
    length = load_be32(following + 1)
    return following[0] != c"E" or length < left or length >= ERROR_HELD_BYTES


cdef RelayStatus tell_types_once(Walk *w) noexcept nogil:
    """A ParameterDescription in front of what may be an error that nobody hears of.

    PostgreSQL finds out that rows have changed when it has told the parameters. They
    are held back until it has said what comes behind them, and dropped if the batch is
    sent again.
    """
    cdef const uint8_t *following = w.src + w.pos
    cdef uint32_t length
    if is_cut(w) or not next_is_here(w):
        if w.found.length < TYPES_HELD_BYTES:
            return give_back(w)
        replay_forget(w.s)  # too long to be held: they are told, whatever follows
        return RELAY_OK
    if following[0] != c"E":
        if following[0] != c"T" and following[0] != c"n":
            replay_forget(w.s)  # a notice: what is behind it cannot be seen
        return RELAY_OK
    length = load_be32(following + 1)
    if length < w.n - w.pos and replay_wanted(
        w.s, following + HEADER_BYTES, length - 4
    ):
        keep_until(w, w.found.start)
        w.start = w.pos
    return RELAY_OK


cdef RelayStatus on_parameter_types(Walk *w) noexcept nogil:
    if w.s.tracking.on and replay_possible(w.s):
        if tell_types_once(w) == RELAY_HOLD:
            return RELAY_HOLD
    if describes(w):
        begin_description(w)
    return RELAY_OK


cdef inline bint is_foretold(const ServerSession *s) noexcept nogil:
    """Whether a text has told that a parameter will change: who prepares knows it."""
    return s.changes.pending & CHANGE_TRACKED != 0


cdef RelayStatus on_parameter(Walk *w) noexcept nogil:
    cdef ParamSet *before = params_ref(w.s.params)
    cdef bint hidden = not w.drop and is_going_back(
        w.r, w.s, body_of(w), body_size(w)
    )
    cdef bint done = note_parameter(
        w.r, w.s, not w.drop and not hidden, body_of(w), body_size(w)
    )
    if hidden:
        keep_until(w, w.found.start)
        w.start = w.pos
    if done and w.first != REQUEST_ALIGN and not is_foretold(w.s) and (
        not params_mean_the_same(&w.r.params, before, w.s.params)
    ):
        read_otherwise(&w.r.statements, w.s)
    params_unref(&w.r.params, before)
    if done:
        return RELAY_OK
    w.pos = w.found.start
    return RELAY_SERVER_PROTO


cdef RelayStatus on_copy_in(Walk *w) noexcept nogil:
    cdef ServerSession *s = w.s
    copy_open(s)
    if s.copy.state == COPY_IN_OPEN:
        go_on(w)  # it is the client that must go on now
    if s.copy.syncs_ignored:  # one that closed the batch does not count
        batch_open(s, not request_closes(requests_last(&s.requests)))
    return RELAY_OK


# ---------------------------------------------------------------- ErrorResponse

cdef inline bint owes_nothing(const ServerSession *s) noexcept nogil:
    """It has answered everything, and no transaction, batch or COPY is open."""
    return (
        s.xact_status == c"I" and s.copy.state == COPY_IN_NONE
        and not s.batch.open and not s.batch.failed
    )


cdef inline bint looks_at_names(const Walk *w) noexcept nogil:
    """Whether the request is a PREPARE or DEALLOCATE, or an EXECUTE that finds nothing:
    what PostgreSQL says of the name does not mean that a statement is lost.
    """
    cdef const Effect *effect
    if w.first != REQUEST_NAMES and w.first != REQUEST_DESCRIBE:
        return False
    effect = effects_at(&w.s.effects, w.s.effects.head)
    return not effect.flags & EFFECT_EXECUTES and (
        w.first == REQUEST_NAMES or effect.called != NULL
    )


cdef RelayStatus on_error(Walk *w) noexcept nogil:
    """ErrorResponse: whose it is decides what becomes of it."""
    if w.first == 0 and w.c == NULL:
        return RELAY_SERVER_DEAD
    if w.first == (c"Q" | REQUEST_SKIP) and w.c == NULL:
        return RELAY_TEST_FAILED
    if w.first == 0 and w.s.pool.config.mode != MODE_SESSION and owes_nothing(w.s):
        # said by a server that is free again: no client of it shall hear of it
        keep_until(w, w.found.start)
        w.drop = True
        mark_obsolete(w.s)
        return RELAY_OK
    if w.first == REQUEST_ALIGN and w.c != NULL:
        if is_cut(w):  # the client shall read all of it, or nothing
            return give_back(w)
        output_add(&w.r.to_client, w.src + w.found.start, w.pos - w.found.start)
        w.start = w.pos
        return RELAY_ALIGN_FAILED
    if w.s.tracking.on and w.c != NULL and w.first != 0:
        if is_cut(w) and body_size(w) < ERROR_HELD_BYTES:
            return give_back(w)
        if not is_cut(w):
            if not error_is_owed(w.s) and replay_wanted(
                w.s, body_of(w), body_size(w)
            ):
                return send_batch_again(w)
            if not looks_at_names(w) and says_stale(
                &w.r.statements, body_of(w), body_size(w)
            ):
                # whoever comes next prepares anew
                server_statements_doubt(&w.s.statements)
    if request_is_fake(w.first):
        prove(w)
    return on_client_error(w)


cdef RelayStatus send_batch_again(Walk *w) noexcept nogil:
    """A plan had gone stale, and nothing was done yet: nobody hears of the error."""
    keep_until(w, w.found.start)
    w.drop = True
    if send_again(&w.r.statements, w.s, &w.r.to_server) < 0:
        return RELAY_NO_MEMORY
    go_on(w)  # what the client has sent since can only come behind it
    next_request(w, requests_first(&w.s.requests))
    return RELAY_OK


cdef RelayStatus on_client_error(Walk *w) noexcept nogil:
    """A request of the client, or one of ours on its behalf, has failed."""
    cdef ServerSession *s = w.s
    cdef bint cut = is_cut(w)
    cdef uint32_t effects = 0
    cdef Needed needed
    needs_what_failed(s, &needed)
    if s.copy.state == COPY_IN_OPEN:
        copy_fail(s)
        # how many ReadyForQuery are still to come cannot be known then
        if s.copy.syncs_ignored:
            mark_obsolete(s)
    change_undone(s)
    custom_failed(s)
    batch_fail(s, requests_fail(&s.requests, &effects))
    resets_failed(w.r, s)
    if s.batch.failed:  # its Query, too, was skipped
        go_on(w)
    if s.tracking.on:
        undo_failed(w, effects, &needed)
    note_fatal(s, cut or error_is_fatal(body_of(w), body_size(w)))
    if cut:
        w.first = requests_first(&s.requests)
    else:
        next_request(w, requests_first(&s.requests))
    return RELAY_OK


# ---------------------------------------------------------------- the walk

ctypedef RelayStatus (*OnMessage)(Walk *w) noexcept nogil

cdef OnMessage ON_MESSAGE[<int> ACTIONS]
ON_MESSAGE[<int> ACTION_READY] = on_ready
ON_MESSAGE[<int> ACTION_ENDS] = on_ends
ON_MESSAGE[<int> ACTION_ROWS] = on_rows
ON_MESSAGE[<int> ACTION_TAG] = on_tag
ON_MESSAGE[<int> ACTION_PARAMETER_TYPES] = on_parameter_types
ON_MESSAGE[<int> ACTION_ERROR] = on_error
ON_MESSAGE[<int> ACTION_PARAMETER] = on_parameter
ON_MESSAGE[<int> ACTION_COPY_IN] = on_copy_in


cdef int check_actions() except -1:
    for row in MESSAGES:
        if row.sender is Sender.SERVER and row.action is not Action.PASS:
            if ON_MESSAGE[<int> row.action] == NULL:
                raise ImportError(f"{row.symbol}: nothing does {row.action.name}")
    return 0

check_actions()


cdef void go_on_in_body(Walk *w) noexcept nogil:
    """The read begins inside a message, or at its end."""
    cdef ServerSession *s = w.s
    if s.scan.body_left > w.n:
        w.pos = w.n
        s.scan.body_left -= <uint32_t> w.n
    else:
        w.pos = s.scan.body_left
        s.scan.body_left = 0
    keep_until(w, w.pos)
    if s.shaping.code:
        shape_add(&s.shaping, w.src, w.pos)
        if s.scan.body_left == 0:
            end_description(w)


cdef RelayStatus walk_messages(Walk *w) noexcept nogil:
    cdef ServerSession *s = w.s
    cdef ScanStatus scan
    cdef RelayStatus status = RELAY_OK
    if s.scan.body_left:
        go_on_in_body(w)
    if s.scan.body_left:
        return RELAY_OK
    w.drop = w.c == NULL or w.first & REQUEST_SKIP != 0
    if request_is_fake(w.first):
        next_request(w, w.first)
        go_on_if_answered(w)
    while status == RELAY_OK and s.scan.body_left == 0:
        # a server that owes no answer may only say what nobody has to ask for
        scan = scan_next(
            &s.scan,
            &SERVER_RULES[0] if w.first or s.copy.syncs_ignored
            else &IDLE_SERVER_RULES[0],
            w.src, w.n, &w.pos, &w.found,
        )
        if scan != SCAN_MESSAGE:
            return RELAY_SERVER_PROTO if scan == SCAN_EPROTO else RELAY_OK
        status = ON_MESSAGE[w.found.action](w)
    return status


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
    cdef Walk w
    cdef RelayStatus status
    w.r = r
    w.s = s
    w.c = s.client
    w.src = src
    w.n = n
    w.start = w.pos = 0
    w.drop = s.dropping or w.c == NULL
    w.first = requests_first(&s.requests)
    status = walk_messages(&w)
    if w.first == (c"P" | REQUEST_SKIP) and w.drop:
        tell_notices(&w)
    keep_until(&w, w.pos)
    s.dropping = w.drop
    count_sent(s.pool, r.to_client.n)
    consumed[0] = w.pos
    if r.to_client.failed or r.to_server.failed:
        return RELAY_NO_MEMORY
    return RELAY_OK if status == RELAY_HOLD else status
