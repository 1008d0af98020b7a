# SPDX-License-Identifier: MIT
"""Loops over the core in C, for benchmarks only.

``scan`` repeats the scanner. ``Core`` is one pool with two clients and one server but
no socket: ``play`` shows once what a script of reads makes leave, ``run`` repeats it
so often that the call from Python costs nothing.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from pooler.relay.orders cimport (
    ORDER_READ_CLIENT, ORDER_SEND_TO_CLIENT, ORDER_SEND_TO_SERVER, Order,
)
from pooler.relay.shared cimport Relay
from pooler.relay.step cimport (
    client_held_back, relay_add_pool, relay_free, relay_init, server_held_back,
    step_client_admit, step_client_bytes, step_client_close, step_is_over, step_more,
    step_server_begin, step_server_bytes, step_server_close,
)
from pooler.session.pool cimport pool_detach, pool_take, pool_wait
from pooler.session.records cimport (
    CLOSE_SHUTDOWN, ClientSession, MODE_TRANSACTION, Pool, ServerSession, client_begin,
    server_begin,
)
from pooler.tables.params cimport (
    ParamSet, params_empty, params_free, params_init, params_track, params_unref,
    params_with,
)
from pooler.tables.texts cimport statements_free, statements_init
from pooler._wire cimport (
    CLIENT_RULES, Found, Rule, SCAN_END, SCAN_MESSAGE, SERVER_RULES, ScanState,
    ScanStatus, scan_next,
)

cdef enum:
    CLIENT_COUNT = 2
    SERVER = -1  # who speaks, beside the numbers of the clients
    PREPARED_MAX = 200  # the default of max_prepared_statements
    NOW_US = 1000000

cdef struct Piece:
    const uint8_t *data  # borrow
    size_t n


# ------------------------------------------------------------- how the core is called
# All that knows the API of the step and the pool. client_says and server_says do what
# io does between a receive and its sends.

cdef struct Bench:
    Relay relay
    Pool *pool  # of the relay
    ClientSession clients[CLIENT_COUNT]
    ServerSession server
    Piece to_client  # what the last read made leave
    Piece to_server
    bint strange  # an order that nothing here should lead to


cdef int bench_open(Bench *b, names) except -1:
    """Make the pool; ``names``: parameters that follow a client."""
    cdef int i
    relay_init(&b.relay)
    b.relay.now_us = b.relay.wheel.now_us = NOW_US
    params_init(&b.relay.params)
    statements_init(&b.relay.statements, &b.relay.params, b"pooler_0_")
    for name in names:
        params_track(&b.relay.params, name.encode(), False)
    b.pool = relay_add_pool(&b.relay, 1)
    b.pool.config.mode = MODE_TRANSACTION
    b.pool.config.max_prepared_statements = PREPARED_MAX
    for i in range(CLIENT_COUNT):
        client_begin(&b.clients[i], &b.relay.wheel, NULL)
        step_client_admit(
            &b.relay, &b.clients[i], b.pool, params_empty(&b.relay.params)
        )
        drain(b)
    server_begin(&b.server, &b.relay.wheel, NULL)
    step_server_begin(
        &b.relay, &b.server, b.pool, params_empty(&b.relay.params), NULL, 0
    )
    drain(b)
    return 0


cdef void bench_close(Bench *b) noexcept nogil:
    cdef int i
    for i in range(CLIENT_COUNT):
        step_client_close(&b.relay, &b.clients[i], CLOSE_SHUTDOWN, False)
        drain(b)
    step_server_close(&b.relay, &b.server, CLOSE_SHUTDOWN)
    drain(b)
    statements_free(&b.relay.statements)
    params_free(&b.relay.params)
    relay_free(&b.relay)


cdef int set_value(Bench *b, int who, int index, bytes text) except -1:
    """Give a parameter a value that servers of the pool have accepted before."""
    cdef ParamSet **at = (
        &b.server.params if who == SERVER else &b.clients[who].params
    )
    cdef ParamSet *new = params_with(
        &b.relay.params, at[0], index, <const uint8_t *> <const char *> text, len(text)
    )
    if new == NULL:
        raise MemoryError
    new.verified_by = b.pool
    params_unref(&b.relay.params, at[0])
    at[0] = new
    return 0


cdef inline Piece to_client(const Bench *b) noexcept nogil:
    """What the last read makes leave for the client that it concerns."""
    return b.to_client


cdef inline Piece to_server(const Bench *b) noexcept nogil:
    return b.to_server


cdef inline bint attach(Bench *b, int i) noexcept nogil:
    return pool_take(b.pool, &b.clients[i], b.relay.now_us) != NULL


cdef inline void wait(Bench *b, int i) noexcept nogil:
    pool_wait(b.pool, &b.clients[i], b.relay.now_us)


cdef inline void detach(Bench *b) noexcept nogil:
    pool_detach(b.pool, &b.server, b.relay.now_us)


cdef inline void leave(Piece *sent, const Order *order) noexcept nogil:
    """One read makes one send to a side."""
    if sent.n == 0:
        sent.data = order.src
    sent.n += order.n


cdef void drain(Bench *b) noexcept nogil:
    """Carry out all orders, and what follows from them."""
    cdef uint32_t i
    cdef const Order *order
    while True:
        for i in range(b.relay.orders.count):
            order = &b.relay.orders.rows[i]
            if order.kind == ORDER_SEND_TO_CLIENT:
                leave(&b.to_client, order)
            elif order.kind == ORDER_SEND_TO_SERVER:
                leave(&b.to_server, order)
            elif order.kind != ORDER_READ_CLIENT:
                b.strange = True
        b.relay.orders.count = 0
        if step_is_over(&b.relay) or not step_more(&b.relay):
            return


cdef bint client_says(Bench *b, int i, Piece read) noexcept nogil:
    """One read of a client; False unless all of it has gone its way at once."""
    cdef ClientSession *c = &b.clients[i]
    b.to_client.n = b.to_server.n = 0
    if client_held_back(c):
        return False
    step_client_bytes(&b.relay, c, read.data, read.n)
    drain(b)
    return c.stream.held.cap == 0 and not b.strange


cdef bint server_says(Bench *b, Piece read) noexcept nogil:
    """One read of the server; False unless all of it has gone its way at once."""
    cdef ServerSession *s = &b.server
    b.to_client.n = b.to_server.n = 0
    if server_held_back(s):
        return False
    step_server_bytes(&b.relay, s, read.data, read.n)
    drain(b)
    return s.stream.held.cap == 0 and not b.strange


cdef tuple counts(const Bench *b):
    return b.pool.idle_count, b.pool.active_count, b.pool.waiting_count

# ------------------------------------------------------------- end of that


cdef struct Step:
    int who
    Piece read


cdef Step *steps_of(list script) except NULL:
    """A script as C sees it; its bytes stay the script's."""
    cdef Step *steps = <Step *> calloc(len(script) + 1, sizeof(Step))
    cdef size_t i
    cdef bytes data
    if steps == NULL:
        raise MemoryError
    for i, (who, data) in enumerate(script):
        steps[i].who = who
        steps[i].read.data = <const uint8_t *> <const char *> data
        steps[i].read.n = len(data)
    return steps


cdef inline bint say(Bench *b, const Step *step) noexcept nogil:
    if step.who == SERVER:
        return server_says(b, step.read)
    return client_says(b, step.who, step.read)


cdef class Core:
    """One pool with two clients and one server.

    A script is a list of reads: who has sent it (a client's number, -1 the server)
    and its bytes.
    """

    cdef Bench bench

    def __cinit__(self, parameters):
        """``parameters``: (name, value of each client, in their order)."""
        memset(&self.bench, 0, sizeof(Bench))
        bench_open(&self.bench, [name for name, _ in parameters])
        for index, (_, values) in enumerate(parameters):
            for who, value in enumerate(values):
                set_value(&self.bench, who, index, value.encode())
            set_value(&self.bench, SERVER, index, values[0].encode())

    def __dealloc__(self):
        bench_close(&self.bench)

    def play(self, list script):
        """Play once: [(bytes for the client, bytes for the server), ...]."""
        cdef Step *steps = steps_of(script)
        cdef size_t i
        cdef Piece client
        cdef Piece server
        left = []
        try:
            for i in range(<size_t> len(script)):
                if not say(&self.bench, &steps[i]):
                    raise AssertionError(f"read {i} did not go its way at once")
                client = to_client(&self.bench)
                server = to_server(&self.bench)
                left.append((
                    PyBytes_FromStringAndSize(<const char *> client.data, client.n),
                    PyBytes_FromStringAndSize(<const char *> server.data, server.n),
                ))
        finally:
            free(steps)
        return left

    def run(self, list script, uint64_t repetitions):
        """Play again and again: (bytes for clients, bytes for the server) in all."""
        cdef Step *steps = steps_of(script)
        cdef size_t step_count = len(script)
        cdef size_t i
        cdef uint64_t _repetition
        cdef uint64_t client_bytes = 0
        cdef uint64_t server_bytes = 0
        cdef bint right = True
        with nogil:
            for _repetition in range(repetitions):
                for i in range(step_count):
                    right = right and say(&self.bench, &steps[i])
                    client_bytes += to_client(&self.bench).n
                    server_bytes += to_server(&self.bench).n
        free(steps)
        if not right:
            raise AssertionError("a read did not go its way at once")
        return client_bytes, server_bytes

    def attach_detach(self, uint64_t repetitions):
        """A client gets the server and gives it back."""
        cdef uint64_t _repetition
        cdef bint right = True
        with nogil:
            for _repetition in range(repetitions):
                right = attach(&self.bench, 0) and right
                detach(&self.bench)
        if not right:
            raise AssertionError("a client did not get the server")

    def hand_over(self, uint64_t repetitions):
        """A client has the server, the other one waits, gets it, and gives it back."""
        cdef uint64_t _repetition
        cdef bint right = True
        with nogil:
            for _repetition in range(repetitions):
                right = attach(&self.bench, 0) and right
                right = not attach(&self.bench, 1) and right
                wait(&self.bench, 1)
                detach(&self.bench)
                right = attach(&self.bench, 1) and right
                detach(&self.bench)
        if not right:
            raise AssertionError("the server was not handed over")

    def counts(self):
        """(idle servers, servers at work, waiting clients)."""
        return counts(&self.bench)


def messages(bytes data, bint from_client):
    """What the scanner finds in one read: [(code, offset, length), ...].

    Only messages that have an action, and the last row says where the scan has ended.
    """
    cdef const uint8_t *src = <const uint8_t *> <const char *> data
    cdef const Rule *rules = &CLIENT_RULES[0] if from_client else &SERVER_RULES[0]
    cdef ScanState state
    cdef Found found
    cdef size_t pos = 0
    cdef size_t n = len(data)
    rows = []
    state.body_left = 0
    while scan_next(&state, rules, src, n, &pos, &found) == SCAN_MESSAGE:
        rows.append((chr(found.code), found.start, found.length))
    rows.append(("", pos, state.body_left))
    return rows


def scan(bytes data, bint from_client, uint64_t repetitions):
    """Scan one read again and again; returns how many messages had an action."""
    cdef const uint8_t *src = <const uint8_t *> <const char *> data
    cdef const Rule *rules = &CLIENT_RULES[0] if from_client else &SERVER_RULES[0]
    cdef ScanState state
    cdef ScanStatus status = SCAN_END
    cdef Found found
    cdef size_t pos
    cdef size_t n = len(data)
    cdef uint64_t flagged_count = 0
    cdef uint64_t _repetition
    state.body_left = 0
    with nogil:
        for _repetition in range(repetitions):
            pos = 0
            while True:
                status = scan_next(&state, rules, src, n, &pos, &found)
                if status != SCAN_MESSAGE:
                    break
                flagged_count += 1
            if status != SCAN_END or state.body_left:
                break
    if status != SCAN_END or state.body_left:
        raise AssertionError("the read was not whole messages")
    return flagged_count


def mark():
    """Do nothing: callgrind writes what it has counted when this is called."""
