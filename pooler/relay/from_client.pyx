# SPDX-License-Identifier: MIT
"""The relay from client to server; see ``from_client.pxd``."""

from libc.stdint cimport uint64_t, uint8_t

from pooler.relay.align cimport align_server, make_custom
from pooler.relay.injected cimport answer_fakes
from pooler.relay.shared cimport (
    RELAY_ALIGN, RELAY_CLIENT_PROTO, RELAY_CLIENT_QUERY, RELAY_HOLD, RELAY_NO_MEMORY,
    RELAY_OK, RELAY_TERMINATE, RELAY_WAIT,
)
from pooler.session.pool cimport pool_take, pool_wait
from pooler.session.records cimport (
    CHANGE_SEQUENCES, CLIENT_WAITING, COPY_IN_NONE, COPY_IN_OPEN, Changes, REPLAY_OFF,
    ServerSession,
)
from pooler.session.requests cimport REQUEST_COPY_END, request_has_effect, requests_push
from pooler.statements.effects cimport push_with_effect
from pooler.statements.replay cimport (
    ReplayTakes, TAKES_IT, TAKES_NO_MORE, replay_collect, replay_request, replay_takes,
)
from pooler.statements.run_names cimport run_names
from pooler.statements.portals cimport portals_free
from pooler.statements.put_back cimport put_back_behind
from pooler.statements.sql_changes cimport sql_is_plain
from pooler.statements.runs cimport (
    put_discard_query, query_sent, runs_function, runs_query, runs_unseen,
)
from pooler.statements.absorbed cimport absorbed_waits, prepare_absorbed, prepare_rest
from pooler.statements.alone cimport prepare_alone
from pooler.statements.requests cimport binds_own_unnamed, prepare_request
from pooler.statements.outcomes cimport PrepareResult
from pooler.statements.outcomes cimport (
    PREPARE_DONE, PREPARE_FORWARD, PREPARE_HOLD, PREPARE_NO_MEMORY, PREPARE_WAIT,
)
from pooler.tables.client_names cimport ABSORB_KEEP, ABSORB_NONE, ClientStatements
from pooler.wire.buffers cimport output_add
from pooler._wire cimport (
    ACTIONS, ACTION_ATTACH, ACTION_ATTACH_UNLESS_KNOWN, ACTION_COPY_END, ACTION_DROP,
    ACTION_FLUSH, ACTION_FUNCTION_CALL, ACTION_NAMED_REQUEST, ACTION_REQUEST,
    ACTION_TERMINATE, CLIENT_RULES, Found, HEADER_BYTES, LONE_CLIENT_RULES, SCAN_EPROTO,
    SCAN_MESSAGE, ScanStatus, scan_next, scan_undo,
)
from pooler.session.batch cimport (
    batch_bind, batch_extended, batch_request, batch_synced, hold_until_settled,
)
from pooler.session.changes cimport changes_not_sent, goes_back, wait_for_resets
from pooler.session.copy_in cimport copy_end, copy_ignores_sync
from pooler.session.counters cimport count_received, note_asked, note_seen
from pooler.session.custom cimport custom_lacked
from pooler.session.fate cimport mark_obsolete
from pooler.session.sequences cimport sequences_unlike
from pooler.session.tracking cimport unnamed_of_another

from pooler.wire.messages import MESSAGES, Action, Sender

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char *text, size_t n)

cdef const char *FLUSH = b"H\0\0\0\4"

cdef struct Walk:  # over the bytes of one read
    Relay *r
    ClientSession *c
    ServerSession *s  # NULL: none is attached yet
    const uint8_t *src
    size_t n
    size_t start  # first byte that is neither in to_server nor dropped
    size_t pos
    Found found


# ---------------------------------------------------------------- requests

cdef inline bint is_ignored(ServerSession *s, uint8_t code) noexcept nogil:
    """Whether PostgreSQL will ignore a request, so that nothing is to be expected."""
    if s.batch.failed:  # it ignores everything before the next Sync
        if code != c"S":
            return True
        batch_synced(s)
    if s.copy.state == COPY_IN_OPEN and code == c"S":
        copy_ignores_sync(s)  # while the COPY is open
        return True
    return False


cdef inline void note_request(
    ServerSession *s, uint8_t code, bint sent
) noexcept nogil:
    """What a request that PostgreSQL will answer means for the state of its server.

    Not "sent": it is kept until it is whole.
    """
    copy_end(s)  # a client that sends a request has given the COPY up
    if s.batch.open and sent and (code == c"Q" or code == c"F"):
        # PostgreSQL 18 may be left in a state in which the next query fails (XX000)
        mark_obsolete(s)
    batch_request(s, code)
    if sent and not s.batch.open:
        wait_for_resets(s)


cdef inline int queue_request(ServerSession *s, uint8_t code) noexcept nogil:
    """Note what PostgreSQL will have to answer; -1 without memory for it."""
    if s.tracking.on and request_has_effect(code):
        return 0 if push_with_effect(s, code) != NULL else -1
    return requests_push(&s.requests, code)


cdef RelayStatus prove_first(Walk *w) noexcept nogil:
    """A request behind a Parse whose answer still depends on the Bind behind it.

    RELAY_OK: it can go, for it could be sent once more. Otherwise it is given back
    until it is here as a whole, or the Bind is answered; a Flush sees to that.
    """
    cdef ReplayTakes takes = replay_takes(
        w.s, &w.r.to_server, w.found.start - w.start, w.found.code, w.found.length,
        w.c.scan.body_left == 0,
    )
    if takes == TAKES_IT:
        return RELAY_OK
    return give_back(w, takes == TAKES_NO_MORE)


cdef PrepareResult prepare_execute(Walk *w) noexcept nogil:
    """An Execute while there are portals with SQL that changes names when it is run."""
    cdef size_t taken = 0
    cdef PrepareResult prepared
    output_add(&w.r.to_server, w.src + w.start, w.found.start - w.start)
    w.start = w.found.start
    prepared = run_names(
        &w.r.statements, w.c, w.s, &w.r.to_server, &w.found, w.src + w.found.start,
        w.pos - w.found.start, &taken,
    )
    w.start += taken
    return prepared


cdef int put_back(Walk *w) noexcept nogil:
    """An Execute, of the unnamed portal if so, resets what its client had set."""
    if w.src[w.found.start + HEADER_BYTES] != 0:
        return 0
    output_add(&w.r.to_server, w.src + w.start, w.pos - w.start)
    w.start = w.pos
    return put_back_behind(&w.r.statements, w.c, w.s, &w.r.to_server)


cdef RelayStatus on_request(Walk *w) noexcept nogil:
    """A request that names nothing."""
    cdef uint8_t code = w.found.code
    cdef PrepareResult prepared = PREPARE_FORWARD
    cdef RelayStatus status
    if is_ignored(w.s, code):
        return RELAY_OK
    if w.s.replay.unproven:
        status = prove_first(w)
        if status != RELAY_OK:
            return status
    if code == c"E" and w.c.scan.body_left and goes_back(w.s):
        return give_back(w, False)
    if w.s.portals != NULL and code == c"E" and w.s.copy.state != COPY_IN_OPEN:
        prepared = prepare_execute(w)
        if prepared == PREPARE_HOLD or prepared == PREPARE_WAIT:
            return give_back(w, prepared == PREPARE_WAIT)
    if w.s.replay.state != REPLAY_OFF:
        replay_request(w.s, code)
    note_request(w.s, code, True)
    if prepared == PREPARE_NO_MEMORY or (
        prepared == PREPARE_FORWARD and requests_push(&w.s.requests, code) < 0
    ):
        return RELAY_NO_MEMORY
    if code == c"E" and goes_back(w.s) and put_back(w) < 0:
        return RELAY_NO_MEMORY
    return RELAY_ALIGN if w.c.settling else RELAY_OK


cdef inline bint is_plain_query(const Walk *w) noexcept nogil:
    """Whether a message is a Query that changes nothing and names no statement."""
    cdef const uint8_t *text = w.src + w.found.start + HEADER_BYTES
    cdef size_t n = w.found.length - 4
    return (
        w.found.code == c"Q" and w.c.scan.body_left == 0 and n != 0
        and text[n - 1] == 0 and sql_is_plain(text, n - 1)
    )


cdef inline bint needs_nothing(const Walk *w) noexcept nogil:
    """Whether ``prepare_request`` would find nothing to do for what is no Query.

    It is a Bind of the client's own unnamed statement, or a Describe or Close of a
    portal, and nothing is noted of any portal.
    """
    cdef ServerSession *s = w.s
    cdef const uint8_t *message = w.src + w.found.start
    if s.portals != NULL or goes_back(s) or w.c.scan.body_left or w.found.length < 6:
        return False
    if w.found.code == c"B":
        return binds_own_unnamed(w.c, s, message)
    return (
        w.found.code != c"P" and s.batch.bound == NULL
        and message[HEADER_BYTES] == c"P"
    )


cdef RelayStatus on_named_request(Walk *w) noexcept nogil:
    """A request that may concern prepared statements, if these are tracked."""
    cdef ServerSession *s = w.s
    cdef uint8_t code = w.found.code
    cdef size_t taken = 0
    cdef PrepareResult prepared = PREPARE_FORWARD
    cdef RelayStatus status
    if code == c"Q" or not s.tracking.on:
        return on_text(w)
    if is_ignored(s, code):
        return RELAY_OK
    if s.replay.state != REPLAY_OFF:
        if s.replay.unproven:
            status = prove_first(w)
            if status != RELAY_OK:
                return status
        replay_request(s, code)
    # into an open COPY PostgreSQL takes no request: it fails the COPY
    if s.copy.state != COPY_IN_OPEN and not needs_nothing(w):
        output_add(&w.r.to_server, w.src + w.start, w.found.start - w.start)
        w.start = w.found.start
        prepared = prepare_request(
            &w.r.statements, w.c, s, &w.r.to_server, &w.found,
            w.src + w.found.start, w.pos - w.found.start, w.n - w.pos, &taken,
        )
        if prepared == PREPARE_HOLD or prepared == PREPARE_WAIT:
            return give_back(w, prepared == PREPARE_WAIT)
    copy_end(s)
    batch_extended(s, code)
    if prepared == PREPARE_DONE:
        w.start = w.found.start + taken
    elif prepared == PREPARE_NO_MEMORY or queue_request(s, code) < 0:
        return RELAY_NO_MEMORY
    return RELAY_ALIGN if w.c.settling else RELAY_OK


cdef inline bint drops_nothing(const Walk *w) noexcept nogil:
    """Whether a plain Query needs nothing: no portal is noted, nor an unnamed statement
    that it would drop.
    """
    cdef const ClientStatements *names = w.c.statements
    return w.s.portals == NULL and (
        names == NULL or (names.unnamed == NULL and names.unnamed_batch == 0)
    )


cdef RelayStatus refuse_query(Walk *w) noexcept nogil:
    """Its client is sent away. What came in front of it goes out, the Query does not.
    """
    scan_undo(&w.c.scan)
    w.pos = w.found.start
    return RELAY_CLIENT_QUERY


cdef RelayStatus on_text(Walk *w) noexcept nogil:
    """A Query; or a request that may concern statements that are not tracked."""
    cdef ServerSession *s = w.s
    cdef uint8_t code = w.found.code
    cdef size_t taken = 0
    cdef PrepareResult prepared = PREPARE_FORWARD
    cdef RelayStatus status
    cdef Changes before
    cdef uint64_t changes = 0
    cdef bint plain
    if code == c"Q" and w.c.pool.config.no_queries:
        return refuse_query(w)
    if is_ignored(s, code):
        return RELAY_OK
    if s.replay.unproven:
        status = prove_first(w)
        if status != RELAY_OK:
            return status
    plain = is_plain_query(w)
    if not plain:
        before = s.changes
        changes = note_text(w)
        if changes & CHANGE_SEQUENCES and discard_first(w) < 0:
            return RELAY_NO_MEMORY
    if s.replay.state != REPLAY_OFF:
        replay_request(s, code)
    if s.tracking.on and s.copy.state != COPY_IN_OPEN and not (
        plain and drops_nothing(w)
    ):
        output_add(&w.r.to_server, w.src + w.start, w.found.start - w.start)
        w.start = w.found.start
        prepared = prepare_request(
            &w.r.statements, w.c, s, &w.r.to_server, &w.found,
            w.src + w.found.start, w.pos - w.found.start, w.n - w.pos, &taken,
        )
        if prepared == PREPARE_HOLD or prepared == PREPARE_WAIT:
            if not plain:
                changes_not_sent(s, &before)
            return give_back(w, prepared == PREPARE_WAIT)
    if changes:
        query_sent(s, changes)
    if code == c"Q" and w.c.scan.body_left and not is_kept(w.c):
        runs_unseen(s)  # it goes on piece by piece
    note_request(s, code, not is_kept(w.c))
    if prepared == PREPARE_DONE:
        w.start = w.found.start + taken
    elif prepared == PREPARE_NO_MEMORY or queue_request(s, code) < 0:
        return RELAY_NO_MEMORY
    return RELAY_ALIGN if w.c.settling else RELAY_OK


cdef int discard_first(Walk *w) noexcept nogil:
    """The Query asks for a value of a sequence (``put_discard_query``)."""
    output_add(&w.r.to_server, w.src + w.start, w.found.start - w.start)
    w.start = w.found.start
    return put_discard_query(w.s, &w.r.to_server)


cdef inline bint is_kept(const ClientSession *c) noexcept nogil:
    """Whether the message under way is kept until it is whole."""
    return c.statements != NULL and c.statements.absorbing == ABSORB_KEEP


cdef uint64_t note_text(Walk *w) noexcept nogil:
    """What the text of a Query may change, or of a Parse where these are not tracked.

    One that will be kept until it is whole is looked at then.
    """
    cdef const uint8_t *text = w.src + w.found.start + HEADER_BYTES
    cdef size_t n = w.found.length - 4
    cdef size_t name_n
    if w.found.code != c"Q" and w.found.code != c"P":
        return 0
    if w.c.scan.body_left:
        if not w.s.tracking.on:
            runs_unseen(w.s)
        return 0
    if w.found.code == c"P":
        name_n = strnlen(<const char *> text, n)
        if name_n == n:
            return 0
        text += name_n + 1
        n = strnlen(<const char *> text, n - name_n - 1)
    elif n == 0 or text[n - 1] != 0:
        return 0  # PostgreSQL refuses it
    else:
        n -= 1
    return runs_query(&w.r.statements, w.s, text, n)


cdef RelayStatus on_function_call(Walk *w) noexcept nogil:
    if not is_ignored(w.s, c"F"):
        runs_function(w.s, w.src + w.found.start + HEADER_BYTES, (
            w.pos - w.found.start - HEADER_BYTES
        ))
    return on_request(w)


cdef RelayStatus give_back(Walk *w, bint settling) noexcept nogil:
    """Present the message again, with more behind it or when batches are settled."""
    scan_undo(&w.c.scan)
    w.pos = w.found.start
    if not settling:
        return RELAY_HOLD
    if w.s.replay.unproven and w.s.batch.open:
        output_add(&w.r.to_server, w.src + w.start, w.pos - w.start)
        w.start = w.pos
        output_add(&w.r.to_server, <const uint8_t *> FLUSH, HEADER_BYTES)
    hold_until_settled(w.c)
    return RELAY_ALIGN


# ---------------------------------------------------------------- other messages

cdef RelayStatus on_flush(Walk *w) noexcept nogil:
    if w.s.scan.body_left == 0:  # else they are answered behind that message
        answer_fakes(w.r, w.s)
    return RELAY_OK


cdef RelayStatus on_copy_end(Walk *w) noexcept nogil:
    cdef ServerSession *s = w.s
    if s.copy.state != COPY_IN_NONE:
        copy_end(s)
    elif s.requests.head != s.requests.tail and not s.batch.failed:
        if requests_push(&s.requests, REQUEST_COPY_END) < 0:
            return RELAY_NO_MEMORY
    return RELAY_OK


cdef RelayStatus on_terminate(Walk *w) noexcept nogil:
    """It is not forwarded: the link to the server outlives this client."""
    w.pos = w.found.start
    if w.s != NULL:
        on_flush(w)
    return RELAY_TERMINATE


# ---------------------------------------------------------------- without a server

cdef RelayStatus on_drop(Walk *w) noexcept nogil:
    """Flush has nothing to flush; COPY data came late for its COPY."""
    w.start = w.pos
    return RELAY_OK


cdef RelayStatus on_attach(Walk *w) noexcept nogil:
    """The message needs a server. It is looked at again once there is one."""
    cdef RelayStatus status
    if w.found.code == c"Q" and w.c.pool.config.no_queries:
        return refuse_query(w)
    scan_undo(&w.c.scan)
    w.start = w.pos = w.found.start
    w.s = pool_take(w.c.pool, w.c, w.r.now_us)
    if w.s == NULL:
        if w.c.state != CLIENT_WAITING:
            pool_wait(w.c.pool, w.c, w.r.now_us)
        return RELAY_WAIT
    unnamed_of_another(w.s)
    batch_bind(w.s, NULL)
    if w.s.portals != NULL:
        portals_free(&w.r.statements, w.s)
    if w.c.statements != NULL:  # batches are numbered by their server
        w.c.statements.names_batch = w.c.statements.unnamed_batch = 0
    status = RELAY_OK if w.c.params == w.s.params else align_server(w.r, w.c, w.s)
    if custom_lacked(w.s) and make_custom(w.r, w.s) < 0:
        return RELAY_NO_MEMORY
    if sequences_unlike(w.s) and status != RELAY_NO_MEMORY:
        if put_discard_query(w.s, &w.r.to_server) < 0:
            return RELAY_NO_MEMORY
    return status


cdef RelayStatus on_attach_unless_known(Walk *w) noexcept nogil:
    """A lone Parse or Close needs none if nothing but its answer is missing."""
    cdef size_t taken = 0
    if w.c.pool.config.max_prepared_statements and w.c.state != CLIENT_WAITING:
        taken = prepare_alone(
            &w.r.statements, w.c, &w.r.to_client, w.src + w.found.start,
            w.n - w.found.start,
        )
    if taken == 0:
        return on_attach(w)
    w.c.scan.body_left = 0
    w.start = w.pos = w.found.start + taken
    return RELAY_OK


# ---------------------------------------------------------------- the walk

ctypedef RelayStatus (*OnMessage)(Walk *w) noexcept nogil

cdef OnMessage ON_MESSAGE[<int> ACTIONS]
ON_MESSAGE[<int> ACTION_REQUEST] = on_request
ON_MESSAGE[<int> ACTION_NAMED_REQUEST] = on_named_request
ON_MESSAGE[<int> ACTION_FUNCTION_CALL] = on_function_call
ON_MESSAGE[<int> ACTION_FLUSH] = on_flush
ON_MESSAGE[<int> ACTION_COPY_END] = on_copy_end
ON_MESSAGE[<int> ACTION_TERMINATE] = on_terminate
ON_MESSAGE[<int> ACTION_ATTACH] = on_attach
ON_MESSAGE[<int> ACTION_ATTACH_UNLESS_KNOWN] = on_attach_unless_known
ON_MESSAGE[<int> ACTION_DROP] = on_drop


cdef int check_actions() except -1:
    for row in MESSAGES:
        if row.sender is not Sender.CLIENT:
            continue
        for action in (row.action, row.without_server):
            if action is not Action.PASS and ON_MESSAGE[<int> action] == NULL:
                raise ImportError(f"{row.symbol}: nothing does {action.name}")
    return 0

check_actions()


cdef RelayStatus go_on_in_body(Walk *w) noexcept nogil:
    """The read begins inside a message: pass over what is not to be forwarded."""
    cdef size_t here = w.c.scan.body_left if w.c.scan.body_left < w.n else w.n
    if w.s == NULL:  # a message that was dropped because no server was attached
        w.start = here
        return RELAY_OK
    if w.c.statements == NULL or w.c.statements.absorbing == ABSORB_NONE:
        return RELAY_OK
    if prepare_rest(
        &w.r.statements, w.c, w.s, &w.r.to_server, w.src, here
    ) == PREPARE_NO_MEMORY:
        return RELAY_NO_MEMORY
    w.start = here
    if not w.c.settling:
        return RELAY_OK
    w.c.scan.body_left = 0
    w.pos = here
    return RELAY_ALIGN


cdef RelayStatus go_on_with_absorbed(Walk *w) noexcept nogil:
    """A message that was kept has waited for the answers to earlier ones."""
    if prepare_absorbed(
        &w.r.statements, w.c, w.s, &w.r.to_server
    ) == PREPARE_NO_MEMORY:
        return RELAY_NO_MEMORY
    return RELAY_ALIGN if w.c.settling else RELAY_OK


cdef RelayStatus walk_messages(Walk *w) noexcept nogil:
    cdef ScanStatus scan
    cdef RelayStatus status = RELAY_OK
    if w.c.scan.body_left:
        status = go_on_in_body(w)
    elif w.s != NULL and absorbed_waits(w.c):
        status = go_on_with_absorbed(w)
    while status == RELAY_OK:
        scan = scan_next(
            &w.c.scan, &CLIENT_RULES[0] if w.s != NULL else &LONE_CLIENT_RULES[0],
            w.src, w.n, &w.pos, &w.found,
        )
        if scan != SCAN_MESSAGE:
            return RELAY_CLIENT_PROTO if scan == SCAN_EPROTO else RELAY_OK
        status = ON_MESSAGE[w.found.action](w)
    return status


cdef RelayStatus relay_client_bytes(
    Relay *r, ClientSession *c, const uint8_t *src, size_t n, size_t *consumed
) noexcept nogil:
    """Take what a client sent.

    In:      src[0:n) borrowed for this call, starting where the last call stopped
    Out:     *consumed <= n, the rest is to be presented again with more behind it;
             r.to_server and r.to_client, which may borrow from src
    Errors:  RELAY_CLIENT_PROTO, RELAY_CLIENT_QUERY, RELAY_NO_MEMORY: close
    Cost:    O(messages), no allocation while nothing is dropped or put in between
    Source:  "Message Flow", "Extended Query", "COPY Operations"
    """
    cdef Walk w
    cdef RelayStatus status
    w.r = r
    w.c = c
    w.s = c.server
    w.src = src
    w.n = n
    w.start = w.pos = 0
    status = walk_messages(&w)
    note_seen(c, r.now_us)
    if status == RELAY_WAIT:
        note_asked(c, r.now_us)
    if w.s != NULL:
        if w.pos > w.start:
            output_add(&r.to_server, src + w.start, w.pos - w.start)
        count_received(c.pool, w.pos)
        if w.s.requests.head != w.s.requests.tail:
            note_asked(c, r.now_us)
        if w.s.replay.state != REPLAY_OFF and not r.to_server.failed:
            replay_collect(w.s, &r.to_server)
    consumed[0] = w.pos
    if r.to_server.failed or r.to_client.failed:
        return RELAY_NO_MEMORY
    return RELAY_OK if status == RELAY_HOLD else status
