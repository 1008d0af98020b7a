# SPDX-License-Identifier: MIT
"""Python hands on the sans-IO layers, for tests only.

``scan`` runs the scanner as a connection would: what it gives back is held and comes
again in front of the next read. ``Bench`` is one pool with clients and servers but no
socket: bytes go in, and what would be sent comes out.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from pooler.board.page cimport Cells, Page
from pooler.relay.moves cimport Thawed, freeze, thaw, thawed_free
from pooler.relay.offers cimport server_may_move
from pooler.relay.orders cimport (
    ORDER_CANCEL, ORDER_CLOSE_CLIENT, ORDER_CLOSE_SERVER, ORDER_INQUIRED, ORDER_LAUNCH,
    ORDER_LEARNED, ORDER_READ_CLIENT, ORDER_SEND_TO_CLIENT, ORDER_SEND_TO_SERVER, Order,
)
from pooler.relay.shared cimport Relay
from pooler.relay.step cimport (
    client_held_back, relay_add_pool, relay_free, relay_init, step_cancel,
    step_cancelled, step_client_admit, step_client_bytes, step_client_close,
    step_client_end, step_client_limits, step_client_sent, step_client_vanished,
    step_deadline, step_more,
    step_pool_inquire, step_pool_waits, step_pool_wants, step_server_begin,
    step_server_bytes, step_server_close, step_server_end, step_server_give,
    step_server_limits, step_server_receive, step_server_retire,
)
from pooler.session.deadlines cimport (
    DEADLINES_OF_ONE, Timer, Wheel,
    deadline_start, deadline_stop, timer_end, timer_init, wheel_pop, wheel_wake_us,
)
from pooler.session.pool cimport (
    pool_connected, pool_launch, pool_pause, pool_resume, pool_servers_wanted,
)
from pooler.session.records cimport (
    CLIENT_CLOSED, CLIENT_WAITING, CLOSE_CLIENT_EOF, CLOSE_CLIENT_PARAMETER,
    CLOSE_CLIENT_PROTO, CLOSE_CLIENT_QUERY, CLOSE_CLIENT_REQUEST, CLOSE_NO_MEMORY,
    CLOSE_SERVER_CHECK,
    CLOSE_SERVER_DIRTY, CLOSE_SERVER_EOF, CLOSE_SERVER_OBSOLETE, CLOSE_SERVER_PROTO,
    CLOSE_SERVER_RESET, CLOSE_SHUTDOWN, CLOSE_STATEMENT_XACT, ClientSession,
    MODE_TRANSACTION, Pool, ServerSession, client_begin, server_begin, server_has,
)
from pooler.session.requests cimport (
    request_closes, request_code, request_has_effect, request_is_fake,
    request_is_query, requests_at,
)
from pooler.session.time_limits cimport TimeLimits, time_limits_fill
from pooler.session.sharing cimport (
    PATIENCE_US, ROW_WORDS, RowSet, is_uneven, row_to_ask, row_to_serve,
)
from pooler.statements.sql_changes cimport (
    CHANGE_DATABASES_SHIFT, sql_changes, sql_changes_of_plan, sql_is_plain,
)
from pooler.statements.sql_name cimport SqlCommand
from pooler.statements.sql_text cimport (
    SqlText, sql_begin, sql_concerns, sql_first, sql_first_concerns, sql_is_stable,
    sql_next,
)
from pooler.tables.hashing cimport (
    Digest, HashKey, digest_behind, digest_bytes, siphash,
)
from pooler.tables.params cimport (
    ParamSet, ParamTable, ParamValue, params_empty, params_free, params_init,
    params_track, params_unref, params_with,
)
from pooler.tables.client_names cimport ClientStatement, ClientStatements
from pooler.tables.server_statements cimport ServerStatement
from pooler.wire.buffers cimport (
    Output, Queue, output_add, output_clear, output_room, output_shrink, queue_add,
    queue_drop, queue_reset, queue_size, queues_bytes,
)
from pooler.tables.text_names cimport name_by_text
from pooler.tables.texts cimport Statement, statements_free, statements_init
from pooler._wire cimport (
    CLIENT_RULES, Found, IDLE_SERVER_RULES, LONE_CLIENT_RULES, Rule, SCAN_END,
    SCAN_EPROTO, SCAN_MESSAGE, SERVER_RULES, ScanState, ScanStatus, error_is_fatal,
    error_response_bytes, put_error_response, scan_next,
)


def scan(str rules_name, chunks):
    """Scan ``chunks`` with the rules of a kind of sender.

    They are "client" (without a server), "attached", "server" or "idle_server".
    Returns (events, failed, body_left, held): events are (type byte, absolute offset,
    length) of messages that have an action; ``failed`` is the absolute offset of a bad
    header or None; ``held`` is how many bytes were given back at the end.
    """
    cdef const Rule *rules = (
        &LONE_CLIENT_RULES[0] if rules_name == "client"
        else &CLIENT_RULES[0] if rules_name == "attached"
        else &SERVER_RULES[0] if rules_name == "server"
        else &IDLE_SERVER_RULES[0]
    )
    cdef ScanState st
    cdef Found found
    cdef ScanStatus status
    cdef size_t pos
    cdef bytes data
    events = []
    held = b""
    offset = 0  # absolute offset of the first byte of data
    st.body_left = 0
    for chunk in chunks:
        data = held + chunk
        pos = 0
        while True:
            status = scan_next(
                &st, rules, <const uint8_t *> <const char *> data, len(data), &pos,
                &found,
            )
            assert pos <= len(data)
            if status != SCAN_MESSAGE:
                break
            events.append((found.code, offset + found.start, found.length))
        if status == SCAN_EPROTO:
            return events, offset + found.start, st.body_left, 0
        if status == SCAN_END:
            assert pos == len(data)
        held = data[pos:]
        offset += pos
    return events, None, st.body_left, len(held)


def sharing(
    Page page, uint32_t account, uint32_t row, uint64_t now_us,
    uint64_t patience_us=PATIENCE_US, shunned=0,
):
    """What a row makes of an account: (row to serve, row to ask, whether uneven)."""
    cdef const Cells *rows = page.row_of(account, 0)
    cdef const Cells *own = page.row_of(account, row)
    cdef RowSet left_alone
    cdef int i
    for i in range(ROW_WORDS):
        left_alone.words[i] = shunned >> 64 * i & <uint64_t> -1
    return (
        row_to_serve(rows, page.rows, own, &left_alone, now_us, patience_us),
        row_to_ask(rows, page.rows, own, &left_alone, now_us, patience_us),
        bool(is_uneven(rows, page.rows, own, &left_alone)),
    )


def queues_memory():
    """``queues_bytes``."""
    return queues_bytes()


cdef class ByteQueue:
    """A ``Queue``."""

    cdef Queue queue

    def __dealloc__(self):
        queue_reset(&self.queue)

    def add(self, bytes data):
        """``queue_add``; False when it is refused."""
        return queue_add(
            &self.queue, <const uint8_t *> <const char *> data, len(data)
        ) == 0

    def drop(self, size_t n):
        """``queue_drop``."""
        queue_drop(&self.queue, n)

    def content(self):
        """What it holds."""
        return PyBytes_FromStringAndSize(
            <const char *> self.queue.data + self.queue.start, queue_size(&self.queue)
        ) if self.queue.cap else b""

    def cap(self):
        """Bytes of memory."""
        return self.queue.cap


cdef class Outlet:
    """An ``Output``."""

    cdef Output output

    def __dealloc__(self):
        free(self.output.scratch)

    def add(self, bytes data):
        """``output_add``, of bytes that stay where they are until ``end_turn``."""
        output_add(
            &self.output, <const uint8_t *> <const char *> data, len(data)
        )

    def room(self, size_t n):
        """``output_room``, unused; False when it is refused."""
        return output_room(&self.output, n) != NULL

    def content(self):
        """What it has."""
        return PyBytes_FromStringAndSize(
            <const char *> self.output.data, self.output.n
        )

    def end_turn(self):
        """``output_clear``, ``output_shrink``."""
        output_clear(&self.output)
        output_shrink(&self.output)

    def cap(self):
        """Bytes of memory."""
        return self.output.cap


def error_response(str severity, str sqlstate, str text):
    """``put_error_response`` in a buffer of exactly ``error_response_bytes``."""
    cdef bytes b_text = text.encode()
    cdef bytes b_severity = severity.encode()
    cdef bytes b_sqlstate = sqlstate.encode()
    cdef size_t room = error_response_bytes(b_text)
    cdef uint8_t *p = <uint8_t *> calloc(1, room)
    cdef size_t n = put_error_response(p, b_severity, b_sqlstate, b_text)
    assert n <= room
    out = PyBytes_FromStringAndSize(<const char *> p, n)
    free(p)
    return out


def siphash_of(bytes key, bytes data, int rounds=1, int last_rounds=3):
    """``siphash``; ``key`` is 16 bytes."""
    cdef HashKey k
    k.low = int.from_bytes(key[:8], "little")
    k.high = int.from_bytes(key[8:16], "little")
    return siphash(
        k, <const uint8_t *> <const char *> data, len(data), rounds, last_rounds
    )


cdef uint32_t all_schemas
cdef uint64_t all_parses


def digest_of(bytes key, bytes data, before=None, uint64_t number=0):
    """``digest_bytes`` as 16 bytes; ``before``: a digest, then ``digest_behind``."""
    cdef HashKey k
    cdef Digest found
    k.low = int.from_bytes(key[:8], "little")
    k.high = int.from_bytes(key[8:16], "little")
    if before is None:
        found = digest_bytes(k, <const uint8_t *> <const char *> data, len(data))
    else:
        found.low = int.from_bytes(before[:8], "little")
        found.high = int.from_bytes(before[8:16], "little")
        found = digest_behind(
            k, found, number, <const uint8_t *> <const char *> data, len(data)
        )
    return found.low.to_bytes(8, "little") + found.high.to_bytes(8, "little")


CHANGES = (
    "tracked", "meaning", "back", "forgets", "", "setting", "temporary", "listen",
    "lock", "cursor", "hidden", "for good", "", "", "sequences",
    "local",
)
RESETS = {16: "gives", 4096: "lends", 8192: "undoes"}


def all_changes_of(bytes text, bint plan=False):
    """``sql_changes`` where the server reports TimeZone and application_name.

    With ``plan``, ``sql_changes_of_plan``.
    """
    cdef ParamTable params
    cdef ParamSet *empty
    cdef ParamSet *zone
    cdef ParamSet *reported
    cdef uint64_t found
    cdef const uint8_t *p = <const uint8_t *> <const char *> text
    params_init(&params)
    for name in (b"TimeZone", b"application_name", b"search_path"):
        params_track(&params, name, False)
    empty = params_empty(&params)
    zone = params_with(&params, empty, 0, b"UTC", 3)
    reported = params_with(&params, zone, 1, b"me", 2)
    if plan:
        found = sql_changes_of_plan(p, len(text), &params, reported, 0)
    else:
        found = sql_changes(p, len(text), &params, reported, 0)
    params_free(&params)
    return found


def is_plain_text(bytes text):
    """``sql_is_plain``."""
    return bool(sql_is_plain(<const uint8_t *> <const char *> text, len(text)))


def custom_of(bytes text):
    """The parameters that a text makes up: those with a dot in their names."""
    cdef ParamTable params
    cdef const uint8_t *p = <const uint8_t *> <const char *> text
    cdef list names
    params_init(&params)
    sql_changes(p, len(text), &params, params_empty(&params), 0)
    names = [
        (<bytes> params.custom.name[i]).decode() for i in range(params.custom.count)
    ]
    assert params.custom.found == (1 << len(names)) - 1
    params_free(&params)
    return names


def changes_of(bytes text, bint plan=False):
    """What a text changes, by name; but for what only concerns a RESET."""
    found = all_changes_of(text, plan)
    names = {name for i, name in enumerate(CHANGES) if name and found >> i & 1}
    return names | ({"databases"} if found >> CHANGE_DATABASES_SHIFT else set())


def resets_of(bytes text):
    """What a text resets: TimeZone, application_name, search_path; and what is set
    behind it.
    """
    found = all_changes_of(text)
    names = {name for bit, name in RESETS.items() if found & bit}
    for first, form in ((16, "{}"), (32, "local {}")):
        for i, name in enumerate(("zone", "label", "path")):
            if found >> first + i & 1:
                names.add(form.format(name))
    return names


SQL_VERBS = ("other", "prepare", "execute", "deallocate", "forget all")


def sql_commands(bytes text, uint8_t flags=2):
    """``sql_next`` to the end: (verb, name, how it is written, end) of each.

    ``flags``: SqlFlag.
    """
    cdef SqlCommand command
    cdef SqlText walk
    cdef const uint8_t *p = <const uint8_t *> <const char *> text
    commands = []
    if not sql_concerns(p, len(text)):
        return commands
    sql_begin(&walk, p, len(text), flags)
    while sql_next(&walk, &command):
        assert command.end <= len(text)
        verb = SQL_VERBS[command.verb]
        if verb == "forget all":
            commands.append((verb, b"", b"", command.end))
            continue
        assert command.name_start < command.name_end <= command.end
        commands.append((
            verb, bytes(command.name[:command.name_n]),
            text[command.name_start:command.name_end], command.end,
        ))
    return commands


def sql_indexes(bytes text):
    """Which commands of a text ``sql_next`` finds, and how many there are."""
    cdef SqlCommand command
    cdef SqlText walk
    sql_begin(&walk, <const uint8_t *> <const char *> text, len(text), 0)
    found = []
    while sql_next(&walk, &command):
        found.append(command.index)
    return found, walk.commands


def sql_beginning(bytes text):
    """``sql_first``: (verb, name), or None if more of the text may change that."""
    cdef SqlCommand command
    cdef const uint8_t *p = <const uint8_t *> <const char *> text
    if not sql_first_concerns(p, len(text)):
        return "other", b""
    sql_first(p, len(text), 2, &command)
    if command.cut:
        return None
    verb = SQL_VERBS[command.verb]
    named = verb != "other" and verb != "forget all"
    return verb, bytes(command.name[:command.name_n]) if named else b""


def is_stable_text(bytes text):
    """``sql_is_stable``."""
    return bool(sql_is_stable(<const uint8_t *> <const char *> text, len(text)))


def is_fatal(bytes body):
    """``error_is_fatal`` of an ErrorResponse body."""
    return bool(error_is_fatal(<const uint8_t *> <const char *> body, len(body)))


def request_facts(uint8_t request):
    """What is true of an outstanding request, by its code; the code of its message."""
    facts = {
        "closes": request_closes(request),
        "query": request_is_query(request),
        "fake": request_is_fake(request),
        "effect": request_has_effect(request),
    }
    return {name for name, true in facts.items() if true}, request_code(request)


cdef class Deadlines:
    """A wheel and timers, named by index, with DEADLINES_OF_ONE deadlines each."""

    cdef Wheel wheel
    cdef Timer *timers

    def __cinit__(self, uint8_t n):
        self.timers = <Timer *> calloc(n, sizeof(Timer))
        for i in range(n):
            timer_init(&self.timers[i], &self.wheel, &self.timers[i], False)

    def __dealloc__(self):
        free(self.timers)

    @property
    def kinds(self):
        return DEADLINES_OF_ONE

    @property
    def count(self):
        """Timers in the wheel."""
        return self.wheel.count

    def set_now(self, uint64_t now_us):
        self.wheel.now_us = now_us

    def start(self, int i, uint8_t kind, uint64_t limit_us):
        deadline_start(&self.timers[i], kind, limit_us)

    def stop(self, int i, uint8_t kind):
        deadline_stop(&self.timers[i], kind)

    def end(self, int i):
        """The connection goes, and its timer with it."""
        cdef uint8_t kind
        timer_end(&self.timers[i])
        for kind in range(DEADLINES_OF_ONE):
            deadline_stop(&self.timers[i], kind)

    def pop(self):
        """All (timer, kind) whose time has come."""
        cdef uint8_t kind = 0
        cdef Timer *t = wheel_pop(&self.wheel, &kind)
        popped = []
        while t != NULL:
            popped.append((<int> (t - self.timers), int(kind)))
            t = wheel_pop(&self.wheel, &kind)
        return popped

    def wake_us(self):
        """When to call ``pop`` again; None: never."""
        cdef uint64_t at_us = wheel_wake_us(&self.wheel)
        return None if at_us == <uint64_t> -1 else at_us


cdef enum:
    BENCH_MAX = 64

# How a session was closed, as tests name it.
CLOSED = {
    <int> CLOSE_CLIENT_PROTO: "client_proto",
    <int> CLOSE_CLIENT_QUERY: "pqexec",
    <int> CLOSE_CLIENT_REQUEST: "terminate",
    <int> CLOSE_CLIENT_EOF: "client_eof",
    <int> CLOSE_SERVER_PROTO: "server_proto",
    <int> CLOSE_SERVER_DIRTY: "server_proto",
    <int> CLOSE_SERVER_EOF: "server_dead",
    <int> CLOSE_SERVER_OBSOLETE: "obsolete",
    <int> CLOSE_CLIENT_PARAMETER: "align_failed",
    <int> CLOSE_STATEMENT_XACT: "statement_xact",
    <int> CLOSE_SERVER_RESET: "reset_failed",
    <int> CLOSE_SERVER_CHECK: "check_failed",
    <int> CLOSE_NO_MEMORY: "no_memory",
}


cdef class Bench:
    """One pool without sockets, driven by the step. Sessions are named by index.

    It does what the io layer does with orders: a send arrives at once, unless the
    client is ``slow`` (then it is queued) or ``broken`` (then it fails).
    """

    cdef Relay relay
    cdef Pool *pool
    cdef ClientSession *clients[BENCH_MAX]
    cdef ServerSession *servers[BENCH_MAX]
    cdef int client_n
    cdef int server_n
    cdef set slow
    cdef set broken
    cdef list events  # of the two lists below, in the order in which they happened
    cdef list woken  # (client, server, to_server, status) of clients that went on
    cdef list held  # addresses of parameter sets
    cdef list sent  # ("client" or "server", index, bytes) in the order of sending
    cdef list closed  # ("client" or "server", index, how) in order
    cdef set gone  # ("client" or "server", index) of what was closed
    cdef list learned  # what servers have made of values, in order
    cdef list inquiries  # what inquiries have brought, in order
    cdef list cancels  # servers whose work is to be cancelled
    cdef readonly int launches

    def __cinit__(
        self, int max_servers=4, tracked=("application_name", "DateStyle"),
        uint32_t max_prepared_statements=0, bint cancel_abandoned=False,
        bint clean_changed=False, bint no_queries=False,
    ):
        relay_init(&self.relay)
        self.pool = relay_add_pool(&self.relay, max_servers)
        self.pool.config.mode = MODE_TRANSACTION
        self.pool.config.max_prepared_statements = max_prepared_statements
        self.pool.config.cancel_abandoned = cancel_abandoned
        self.pool.config.no_queries = no_queries
        self.pool.config.clean_changed = clean_changed
        self.pool.config.clean_custom = clean_changed
        params_init(&self.relay.params)
        statements_init(&self.relay.statements, &self.relay.params, b"p_")
        self.relay.statements.cache_unnamed = True
        for name in tracked:
            params_track(&self.relay.params, name.encode(), False)
        self.slow = set()
        self.broken = set()
        self.events = []
        self.woken = []
        self.sent = []
        self.closed = []
        self.inquiries = []
        self.learned = []
        self.cancels = []
        self.gone = set()
        self.held = []

    def __dealloc__(self):
        cdef int i
        for i in range(self.client_n):
            step_client_close(&self.relay, self.clients[i], CLOSE_SHUTDOWN, False)
            self.forget_orders()
        for i in range(self.server_n):
            step_server_close(&self.relay, self.servers[i], CLOSE_SHUTDOWN)
            self.forget_orders()
        for i in range(self.client_n):
            queue_reset(&self.clients[i].stream.out)
            free(self.clients[i])
        for i in range(self.server_n):
            queue_reset(&self.servers[i].stream.out)
            free(self.servers[i])
        statements_free(&self.relay.statements)
        params_free(&self.relay.params)
        relay_free(&self.relay)

    cdef void forget_orders(self):
        self.relay.orders.count = 0
        while step_more(&self.relay):
            self.relay.orders.count = 0

    cdef ParamSet *values(self, parameters) except NULL:
        cdef ParamSet *now = params_empty(&self.relay.params)
        cdef ParamSet *more
        cdef bytes text
        for i, value in enumerate(parameters):
            if value is not None:
                text = value
                more = params_with(
                    &self.relay.params, now, i,
                    <const uint8_t *> <const char *> text, len(text),
                )
                params_unref(&self.relay.params, now)
                now = more
        return now

    # ------------------------------------------------------------ as the io layer does

    cdef void set_now(self, uint64_t now_us):
        self.relay.now_us = self.relay.wheel.now_us = now_us

    cdef drain(self):
        """Carry out all orders, and what follows from them."""
        while True:
            self.carry_out()
            if not step_more(&self.relay):
                return
            self.note_woken()

    cdef carry_out(self):
        cdef uint32_t i = 0
        cdef Order *order
        while i < self.relay.orders.count:
            order = &self.relay.orders.rows[i]
            if order.kind == ORDER_SEND_TO_CLIENT:
                self.send_to_client(order.client, order.src, order.n)
            elif order.kind == ORDER_SEND_TO_SERVER:
                self.send_to_server(order.server, order.src, order.n)
            elif order.kind == ORDER_CLOSE_CLIENT:
                queue_reset(&order.client.stream.out)
                self.note_closed("client", order.client.io, order.reason)
            elif order.kind == ORDER_CLOSE_SERVER:
                queue_reset(&order.server.stream.out)
                self.note_closed("server", order.server.io, order.reason)
            elif order.kind == ORDER_CANCEL:
                self.cancels.append(<int> <size_t> order.server.io)
            elif order.kind == ORDER_INQUIRED:
                self.inquiries.append(self.take_held(&self.pool.inquiry.answer))
            elif order.kind == ORDER_LEARNED:
                self.learned.append(self.take_held(&self.pool.inquiry.learned))
            elif order.kind == ORDER_LAUNCH:
                self.launches += 1
            i += 1
        self.relay.orders.count = 0

    cdef note_closed(self, kind, void *io, int reason):
        row = (kind, <int> <size_t> io, CLOSED.get(reason, str(reason)))
        self.gone.add(row[:2])
        self.closed.append(row)
        self.events.append(("closed", *row))

    cdef send_to_client(self, ClientSession *c, const uint8_t *src, size_t n):
        cdef int i = <int> <size_t> c.io
        if ("client", i) in self.gone:
            return
        if i in self.broken:
            step_client_end(&self.relay, c)
        elif i in self.slow:
            assert queue_add(&c.stream.out, src, n) == 0
        else:
            self.sent.append(("client", i, bytes(src[:n])))

    cdef send_to_server(self, ServerSession *s, const uint8_t *src, size_t n):
        if ("server", <int> <size_t> s.io) not in self.gone:
            self.sent.append(("server", <int> <size_t> s.io, bytes(src[:n])))

    cdef bytes ordered(self, int kind):
        """What the step that was just made sends to the other side."""
        cdef uint32_t i
        out = b""
        for i in range(self.relay.orders.count):
            if self.relay.orders.rows[i].kind == kind:
                out += bytes(
                    self.relay.orders.rows[i].src[:self.relay.orders.rows[i].n]
                )
        return out

    cdef note_woken(self):
        """A client that went on is the one that is to be read again."""
        cdef uint32_t i
        cdef ClientSession *c
        for i in range(self.relay.orders.count):
            if self.relay.orders.rows[i].kind == ORDER_READ_CLIENT:
                c = self.relay.orders.rows[i].client
                row = (
                    <int> <size_t> c.io, self.server_of(c),
                    self.ordered(ORDER_SEND_TO_SERVER), self.client_status(c),
                )
                self.woken.append(row)
                self.events.append(("woken", *row))

    cdef object server_of(self, ClientSession *c):
        return None if c.server == NULL else <int> <size_t> c.server.io

    cdef str client_status(self, ClientSession *c):
        cdef uint32_t i
        if c.state == CLIENT_CLOSED:
            for i in range(self.relay.orders.count):
                if self.relay.orders.rows[i].kind == ORDER_CLOSE_CLIENT:
                    return CLOSED[<int> self.relay.orders.rows[i].reason]
            return "closed"
        if c.leaving:
            return "terminate"
        if c.state == CLIENT_WAITING:
            return "wait"
        return "align" if c.aligning or c.settling else "ok"

    # ------------------------------------------------------------ clients

    def add_client(self, parameters=()):
        """A client that has logged in; returns its index."""
        cdef ClientSession *c = <ClientSession *> calloc(1, sizeof(ClientSession))
        assert self.client_n < BENCH_MAX
        client_begin(c, &self.relay.wheel, <void *> <size_t> self.client_n)
        step_client_admit(&self.relay, c, self.pool, self.values(parameters))
        self.clients[self.client_n] = c
        self.client_n += 1
        self.forget_orders()
        return self.client_n - 1

    cdef bytes take_held(self, Queue *queue):
        cdef bytes held = b""
        if queue.cap:
            held = PyBytes_FromStringAndSize(
                <const char *> queue.data + queue.start, queue_size(queue)
            )
            queue_reset(queue)
        return held

    def client_feed(self, int i, bytes data):
        """Bytes from a client: (server or None, bytes for it, status).

        A client that is held back until an answer comes is not read: its bytes are
        held, and the status is "aligning".
        """
        cdef ClientSession *c = self.clients[i]
        if client_held_back(c) and c.state != CLIENT_WAITING:
            assert queue_add(
                &c.stream.held, <const uint8_t *> <const char *> data, len(data)
            ) == 0
            return self.server_of(c), b"", "aligning"
        data = self.take_held(&c.stream.held) + data
        step_client_bytes(
            &self.relay, c, <const uint8_t *> <const char *> data, len(data)
        )
        out = (
            self.server_of(c), self.ordered(ORDER_SEND_TO_SERVER),
            self.client_status(c),
        )
        self.drain()
        return out

    def drop_client(self, int i):
        """A client's connection has ended; the index of a server that goes as well."""
        cdef size_t before = len(self.closed)
        step_client_end(&self.relay, self.clients[i])
        self.drain()
        servers = [n for kind, n, _ in self.closed[before:] if kind == "server"]
        return servers[0] if servers else None

    def hang_up(self, int i, bytes last=b""):
        """A client that is not read has sent its last, and its connection has ended."""
        cdef ClientSession *c = self.clients[i]
        if last:
            assert queue_add(
                &c.stream.held, <const uint8_t *> <const char *> last, len(last)
            ) == 0
        step_client_vanished(&self.relay, c)
        self.drain()

    def make_slow(self, int i):
        """What is sent to this client is queued from now on."""
        self.slow.add(i)

    def make_broken(self, int i):
        """What is sent to this client fails from now on."""
        self.broken.add(i)

    def take_in(self, int i):
        """A slow client takes what is queued: the bytes."""
        self.slow.discard(i)
        data = self.take_held(&self.clients[i].stream.out)
        step_client_sent(&self.relay, self.clients[i])
        self.drain()
        return data

    def cancel(self, int i):
        """A cancel request for a client: the server to ask, or None."""
        cdef ServerSession *s = step_cancel(&self.relay, self.clients[i])
        self.drain()
        return None if s == NULL else <int> <size_t> s.io

    # ------------------------------------------------------------ servers

    def add_server(self, parameters=()):
        """A server that has logged in; returns its index. Waiting clients go on."""
        cdef ServerSession *s = <ServerSession *> calloc(1, sizeof(ServerSession))
        assert self.server_n < BENCH_MAX
        server_begin(s, &self.relay.wheel, <void *> <size_t> self.server_n)
        self.servers[self.server_n] = s
        self.server_n += 1
        step_server_begin(
            &self.relay, s, self.pool, self.values(parameters), NULL, 0
        )
        self.drain()
        return self.server_n - 1

    def server_feed(self, int i, bytes data):
        """Bytes from a server: (client or None, bytes for it, status)."""
        cdef ServerSession *s = self.servers[i]
        client = None if s.client == NULL else <int> <size_t> s.client.io
        data = self.take_held(&s.stream.held) + data
        step_server_bytes(
            &self.relay, s, <const uint8_t *> <const char *> data, len(data)
        )
        to_client = self.ordered(ORDER_SEND_TO_CLIENT)
        before = len(self.closed)
        self.carry_out()
        hows = [
            how for kind, n, how in self.closed[before:] if (kind, n) == ("server", i)
        ]
        self.drain()
        return client, to_client, hows[0] if hows else "ok"

    def server_give(self, int i):
        """A server leaves for another worker; its record, or None if it stays."""
        cdef ServerSession *s = self.servers[i]
        cdef Queue into
        memset(&into, 0, sizeof(into))
        try:
            if not server_may_move(s) or freeze(&self.relay, s, &into) < 0:
                return None
            record = PyBytes_FromStringAndSize(
                <const char *> into.data + into.start, into.end - into.start
            )
        finally:
            queue_reset(&into)
        step_server_give(&self.relay, s)
        self.gone.add(("server", i))
        self.drain()
        return record

    def server_receive(self, bytes record):
        """A server comes from another worker: its index here, None if refused."""
        cdef ServerSession *s
        cdef Thawed thawed
        assert self.server_n < BENCH_MAX
        if thaw(
            &self.relay, <const uint8_t *> <const char *> record, len(record), &thawed
        ) < 0:
            return None
        s = <ServerSession *> calloc(1, sizeof(ServerSession))
        server_begin(s, &self.relay.wheel, <void *> <size_t> self.server_n)
        self.servers[self.server_n] = s
        self.server_n += 1
        step_server_receive(&self.relay, s, self.pool, &thawed)
        thawed_free(&self.relay, &thawed)
        self.drain()
        return self.server_n - 1

    def drop_server(self, int i):
        """Python has a server closed; the client that it had, left without one."""
        cdef ServerSession *s = self.servers[i]
        client = None if s.client == NULL else <int> <size_t> s.client.io
        step_server_close(&self.relay, s, CLOSE_SHUTDOWN)
        self.drain()
        return client

    def end_server(self, int i):
        """A server's connection has ended; the client that goes with it."""
        cdef ServerSession *s = self.servers[i]
        client = None if s.client == NULL else <int> <size_t> s.client.io
        step_server_end(&self.relay, s)
        self.drain()
        return client

    def cancelled(self, int i, bint uncertain=False):
        """The cancel request to a server is over."""
        step_cancelled(&self.relay, self.servers[i], uncertain)
        self.drain()

    def inquire(self, bytes message):
        """Ask an idle server; False when there is none to spare."""
        asked = step_pool_inquire(
            &self.relay, self.pool, <const uint8_t *> <const char *> message,
            len(message),
        )
        self.drain()
        return asked

    def pause(self, bint closing=False):
        """Hand out no server."""
        pool_pause(self.pool, closing)

    def resume(self):
        """Hand out servers again."""
        pool_resume(self.pool)
        step_pool_wants(&self.relay, self.pool)
        self.drain()

    def retire(self, int i):
        """Close a server as soon as it is free."""
        step_server_retire(&self.relay, self.servers[i])
        self.drain()

    def launch(self, uint32_t at_most):
        """How many servers are opened of those that are wanted."""
        cdef uint32_t launched = pool_launch(self.pool, at_most)
        if launched == 0:
            step_pool_waits(&self.relay, self.pool)
            self.drain()
        return launched

    def launch_failed(self):
        """One of these does not come to be."""
        pool_connected(self.pool)
        step_pool_waits(&self.relay, self.pool)
        self.drain()

    def kept(self, int i):
        """The idle server that is kept for a client, or None."""
        cdef ServerSession *s = self.clients[i].kept
        return None if s == NULL else <int> <size_t> s.io

    def left(self, int i):
        """What clients have left in a server: or-ed Change."""
        return self.servers[i].changes.left

    # ------------------------------------------------------------ time

    def limit(
        self, uint64_t query_wait_us=0, uint64_t tested_us=0,
        uint64_t wait_notify_us=0, uint64_t client_idle_us=0, uint64_t query_us=0,
        uint64_t xact_us=0, uint64_t idle_xact_us=0, uint64_t server_idle_us=0,
        uint64_t lifetime_us=0, bint single_use=False,
    ):
        """The time limits of the pool, also for those who are there; 0 is none."""
        cdef TimeLimits times
        cdef int i
        times.query_wait_us = query_wait_us
        times.wait_notify_us = wait_notify_us
        times.client_idle_us = client_idle_us
        times.query_us = query_us
        times.xact_us = xact_us
        times.idle_xact_us = idle_xact_us
        times.server_idle_us = server_idle_us
        times.lifetime_us = lifetime_us
        times.tested_us = tested_us
        self.pool.config.single_use = single_use
        time_limits_fill(&self.pool.config, &times)
        for i in range(self.client_n):
            if ("client", i) not in self.gone:
                step_client_limits(self.clients[i])
        for i in range(self.server_n):
            if ("server", i) not in self.gone:
                step_server_limits(self.servers[i])

    def set_mode(self, int mode):
        """As ``PoolMode``; limits are set behind it."""
        self.pool.config.mode = <uint8_t> mode

    def wait_until(self, uint64_t now_us):
        """Let time go on, and deadlines pass."""
        self.set_now(now_us)
        while step_deadline(&self.relay):
            self.drain()

    # ------------------------------------------------------------ looking at it

    def take_woken(self):
        """Clients that went on since the last call, in order."""
        woken, self.woken = self.woken, []
        return woken

    def take_events(self):
        """``take_woken`` and ``take_closed`` in one order, each with its name first."""
        events, self.events = self.events, []
        self.woken = []
        self.closed = []
        return events

    def take_sent(self):
        """Everything that was sent since the last call, in order."""
        sent, self.sent = self.sent, []
        return sent

    def take_closed(self):
        """What was closed since the last call, in order, and how."""
        closed, self.closed = self.closed, []
        return closed

    def take_inquiries(self):
        """What inquiries have brought since the last call; empty: nothing."""
        inquiries, self.inquiries = self.inquiries, []
        return inquiries

    def take_learned(self):
        """Names, what was asked for and what became of it, since the last call."""
        learned, self.learned = self.learned, []
        return learned

    def take_cancels(self):
        """Servers that PostgreSQL was to be asked about since the last call."""
        cancels, self.cancels = self.cancels, []
        return cancels

    def client_state(self, int i):
        """(state number, attached server or None, bytes held)."""
        cdef ClientSession *c = self.clients[i]
        server = None if c.server == NULL else <int> <size_t> c.server.io
        return c.state, server, queue_size(&c.stream.held)

    def server_state(self, int i):
        """(state number, attached client or None, outstanding requests)."""
        cdef ServerSession *s = self.servers[i]
        cdef uint32_t k
        client = None if s.client == NULL else <int> <size_t> s.client.io
        requests = bytes(
            requests_at(&s.requests, s.requests.head + k)[0]
            for k in range(s.requests.tail - s.requests.head)
        )
        return s.state, client, requests

    def limit_statements(
        self, uint32_t client_count=0, uint64_t client_bytes=0, uint64_t total_bytes=0,
        bint cache_unnamed=True, uint32_t long_query_bytes=1048576,
    ):
        """Limits of prepared statements; 0 is none, but of ``long_query_bytes``."""
        self.relay.statements.max_client_count = client_count
        self.relay.statements.max_client_bytes = client_bytes
        self.relay.statements.max_bytes = total_bytes
        self.relay.statements.cache_unnamed = cache_unnamed
        self.relay.statements.long_query_bytes = long_query_bytes

    def call_by_text(self, bytes own, bytes key):
        """It is one of the workers that call texts alike, and count together."""
        name_by_text(&self.relay.statements.forms, own, key)
        self.relay.statements.schema_cell = &all_schemas
        self.relay.statements.parse_cell = &all_parses

    def statement_counts(self):
        """(texts kept, bytes of them)."""
        return self.relay.statements.count, self.relay.statements.bytes

    def client_names(self, int i):
        """A client's names, each with the name on servers and the text."""
        cdef ClientStatements *names = self.clients[i].statements
        cdef ClientStatement *entry
        cdef uint32_t k
        found = {}
        if names == NULL:
            return found
        for k in range(names.mask + 1):
            entry = names.buckets[k]
            while entry != NULL:
                found[bytes(entry.name[:entry.name_n])] = (
                    bytes(entry.statement.name[:entry.statement.name_n]),
                    bytes(entry.statement.text[:entry.statement.n]),
                )
                entry = entry.next
        assert len(found) == names.count
        return found

    def server_names(self, int i):
        """Names of the statements that a server has, oldest first; sure ones only."""
        cdef ServerSession *s = self.servers[i]
        cdef ServerStatement *entry = s.statements.oldest
        found = []
        while entry != NULL:
            if server_has(s, entry):
                found.append(bytes(entry.statement.name[:entry.statement.name_n]))
            entry = entry.newer
        return found

    def effects(self, int i):
        """How many effects are pending on a server."""
        return self.servers[i].effects.tail - self.servers[i].effects.head

    def stray(self, int i):
        """Whether a server has names that are not ours."""
        return bool(self.servers[i].tracking.stray)

    def client_settings(self, int i):
        """What a client has set, as commands, and whether that is not all."""
        cdef ClientSession *c = self.clients[i]
        cdef bytes texts = PyBytes_FromStringAndSize(
            <const char *> c.settings.texts.data + c.settings.texts.start,
            c.settings.sure_bytes,
        ) if c.settings.sure_bytes else b""
        return texts.split(b"\0")[:-1], bool(c.settings.partial)

    def statement_stats(self):
        """The pool's counters of prepared statements."""
        return {
            "client_parses": self.pool.counters.client_parses,
            "server_parses": self.pool.counters.server_parses,
            "binds": self.pool.counters.binds,
            "hits": self.pool.counters.parse_hits,
            "evictions": self.pool.counters.evictions,
            "replays": self.pool.counters.replays,
        }

    def counts(self):
        """The pool's own counts."""
        return {
            "idle": self.pool.idle_count,
            "active": self.pool.active_count,
            "waiting": self.pool.waiting_count,
            "servers": self.pool.server_count,
            "clients": self.pool.client_count,
            "wanted": pool_servers_wanted(self.pool),
        }

    def lists(self):
        """Walk the lists: (idle servers front to back, waiting clients by age)."""
        cdef ServerSession *s = self.pool.idle_head
        cdef ClientSession *c = self.pool.waiting_head
        idle = []
        waiting = []
        while s != NULL:
            idle.append(<int> <size_t> s.io)
            s = s.next
        while c != NULL:
            waiting.append(<int> <size_t> c.io)
            c = c.next
        return idle, waiting

    def fatal_seen(self, int i):
        """Whether the server's last ErrorResponse was a FATAL one."""
        return bool(self.servers[i].fate.fatal_seen)

    def parameter_counts(self):
        """(interned values, interned sets)."""
        return self.relay.params.value_count, self.relay.params.set_count

    def hold_values(self, values):
        """Intern a set of parameters for each value of the first one."""
        for value in values:
            self.held.append(<size_t> self.values((value,)))

    def drop_values(self):
        """Give all of these sets back."""
        for address in self.held:
            params_unref(&self.relay.params, <ParamSet *> <size_t> address)
        self.held = []

    def tables(self):
        """(buckets, most rows in one bucket) of each table; of clients, the worst."""
        cdef ClientSession *c
        cdef int i
        found = {
            "values": self.chains_of_values(),
            "sets": self.chains_of_sets(),
            "texts": self.chains_of_texts(),
            "called": self.chains_of_statements(),
            "names": (0, 0),
        }
        for i in range(self.client_n):
            c = self.clients[i]
            if c.statements != NULL:
                found["names"] = max(found["names"], chains_of_names(c.statements))
        return found

    cdef tuple chains_of_values(self):
        cdef ParamValue *v
        cdef uint32_t k
        longest = 0
        for k in range(self.relay.params.value_mask + 1):
            n = 0
            v = self.relay.params.values[k]
            while v != NULL:
                n += 1
                v = v.next
            longest = max(longest, n)
        return self.relay.params.value_mask + 1, longest

    cdef tuple chains_of_sets(self):
        cdef ParamSet *s
        cdef uint32_t k
        longest = 0
        for k in range(self.relay.params.set_mask + 1):
            n = 0
            s = self.relay.params.sets[k]
            while s != NULL:
                n += 1
                s = s.next
            longest = max(longest, n)
        return self.relay.params.set_mask + 1, longest

    cdef tuple chains_of_texts(self):
        cdef Statement *st
        cdef uint32_t k
        longest = 0
        for k in range(self.relay.statements.mask + 1):
            n = 0
            st = self.relay.statements.texts[k]
            while st != NULL:
                n += 1
                st = st.next_text
            longest = max(longest, n)
        return self.relay.statements.mask + 1, longest

    cdef tuple chains_of_statements(self):
        cdef Statement *st
        cdef uint32_t k
        longest = 0
        for k in range(self.relay.statements.mask + 1):
            n = 0
            st = self.relay.statements.buckets[k]
            while st != NULL:
                n += 1
                st = st.next
            longest = max(longest, n)
        return self.relay.statements.mask + 1, longest


cdef tuple chains_of_names(ClientStatements *names):
    cdef ClientStatement *entry
    cdef uint32_t k
    longest = 0
    for k in range(names.mask + 1):
        n = 0
        entry = names.buckets[k]
        while entry != NULL:
            n += 1
            entry = entry.next
        longest = max(longest, n)
    return names.mask + 1, longest
