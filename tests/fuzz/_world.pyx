# SPDX-License-Identifier: MIT
"""Making clients and servers, and carrying out what the step orders."""

import os

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from pooler.relay.inquire cimport inquiry_forget, words_forget
from pooler.relay.orders cimport (
    ORDER_CANCEL, ORDER_CLOSE_CLIENT, ORDER_CLOSE_SERVER, ORDER_INQUIRED,
    ORDER_LAUNCH, ORDER_LEARNED, ORDER_SEND_TO_CLIENT, ORDER_SEND_TO_SERVER, Order,
)
from pooler.relay.step cimport (
    relay_add_pool, relay_init, step_cancelled, step_client_admit, step_client_end,
    step_client_sent, step_more, step_server_begin,
)
from pooler.session.records cimport (
    CLIENT_CLOSED, SERVER_CLOSED, client_begin, server_begin,
)
from pooler.session.requests cimport requests_at
from pooler.tables.hashing cimport hash_key
from pooler.tables.params cimport (
    ParamSet, params_empty, params_init, params_track, params_unref, params_with,
)
from pooler.tables.server_statements cimport ServerStatement
from pooler.tables.texts cimport SEEN_TEXTS, statements_init
from pooler.wire.buffers cimport queue_add, queue_reset, queue_size
from pooler._wire cimport CLIENT_RULES, SERVER_RULES
from tests.fuzz._checks cimport Frames, check, digest, walk

cdef enum:
    FIRST_BUCKETS = 4  # so few that the tables have to grow


cdef void note(World *w, uint8_t what, uint8_t value) noexcept nogil:
    digest(&w.happened, &what, 1)
    digest(&w.happened, &value, 1)
    if trace:
        fprintf(stderr, "    noted %c %d\n", what, <int> value)


# ---------------------------------------------------------------- begin

cdef void start_relay(World *w) noexcept nogil:
    """Nothing that an earlier input has left decides what happens now."""
    relay.statements.mask = FIRST_BUCKETS - 1  # of empty tables, which have more
    relay.params.value_mask = FIRST_BUCKETS - 1
    relay.statements.next_id = relay.statements.schema_own = 0
    memset(relay.statements.seen, 0, SEEN_TEXTS * sizeof(uint64_t))
    check(relay.pool_count == 0 and relay.wakes == NULL, "a pool is left")
    check(relay.wheel.count == 0, "a timer is left")
    memset(&relay.wheel, 0, sizeof(relay.wheel))  # time begins anew
    set_time(1)
    w.pool = relay_add_pool(&relay, SERVERS)


cdef void end_relay(World *w) noexcept nogil:
    free(w.pool)
    relay.pool_count = 0


cdef void set_time(uint64_t now_us) noexcept nogil:
    relay.now_us = relay.wheel.now_us = now_us


cdef void make_client(World *w, int i) noexcept nogil:
    cdef ClientSession *c = <ClientSession *> calloc(1, sizeof(ClientSession))
    cdef ParamSet *values = params_empty(&relay.params)
    cdef ParamSet *old = values
    client_begin(c, &relay.wheel, <void *> <size_t> i)
    if i:  # the first has no wishes, the others differ
        values = params_with(
            &relay.params, old, 0, <const uint8_t *> b"abc", <size_t> i
        )
        params_unref(&relay.params, old)
    w.clients[i] = c
    w.last_number += 1
    w.numbers[i] = w.last_number
    w.slow[i] = w.broken[i] = False
    memset(&w.client_frames[i], 0, sizeof(Frames))
    step_client_admit(&relay, c, w.pool, values)
    drain(w)


cdef void make_server(World *w, int i) noexcept nogil:
    cdef ServerSession *s = <ServerSession *> calloc(1, sizeof(ServerSession))
    server_begin(s, &relay.wheel, <void *> <size_t> i)
    w.servers[i] = s
    w.cancels[i] = 0
    w.left_by[i] = 0
    memset(&w.server_frames[i], 0, sizeof(Frames))
    step_server_begin(&relay, s, w.pool, params_empty(&relay.params), NULL, 0)
    drain(w)


# ---------------------------------------------------------------- orders

cdef void show(
    const char *who, size_t i, const uint8_t *src, size_t n
) noexcept nogil:
    cdef size_t k
    if trace and n:
        fprintf(stderr, "    to %s %zu: ", who, i)
        for k in range(n):
            if 32 < src[k] < 127:
                fprintf(stderr, "%c", <int> src[k])
            else:
                fprintf(stderr, "\\%02x", <int> src[k])
        fprintf(stderr, "\n")


cdef bint has_stand_in(const uint8_t *src, size_t n) noexcept nogil:
    """Whether a Parse of ours with an empty text is in it."""
    cdef size_t i
    cdef size_t at
    for i in range(n):
        if src[i] != c"P":
            continue
        at = i + 8
        while at < n and c"0" <= src[at] <= c"9":
            at += 1
        if at + 1 < n and src[i + 5] == c"p" and src[i + 6] == c"_" and (
            at > i + 8 or c"0" <= src[i + 7] <= c"9"
        ) and src[at] == 0 and src[at + 1] == 0:
            return True
    return False


cdef void send_to_server(World *w, const Order *order) noexcept nogil:
    cdef size_t i = <size_t> order.server.io
    if w.servers[i] != order.server:
        return  # it was closed by an order before
    if has_stand_in(order.src, order.n):
        w.incomparable = True  # types are learned from a server that tells them at once
    show(b"server", i, order.src, order.n)
    digest(&w.to_server[i], order.src, order.n)
    walk(&w.server_frames[i], CLIENT_RULES, order.src, order.n)


cdef void deliver(World *w, size_t i, const uint8_t *src, size_t n) noexcept nogil:
    show(b"client", i, src, n)
    digest(&w.to_client[i], src, n)
    walk(&w.client_frames[i], SERVER_RULES, src, n)


cdef void send_to_client(World *w, const Order *order) noexcept nogil:
    cdef ClientSession *c = order.client
    cdef size_t i = <size_t> c.io
    if w.clients[i] != c:
        return  # it was closed by an order before
    if w.broken[i]:
        w.incomparable = True  # it is lost at the end of a read, whatever that was
        step_client_end(&relay, c)
    elif w.slow[i]:
        w.incomparable = True
        check(queue_add(&c.stream.out, order.src, order.n) == 0, "no memory to queue")
    else:
        deliver(w, i, order.src, order.n)


cdef void take_in(World *w, int i) noexcept nogil:
    """A slow client takes what is queued for it."""
    cdef ClientSession *c = w.clients[i]
    w.slow[i] = False
    if c.stream.out.cap == 0:
        return
    deliver(w, i, c.stream.out.data + c.stream.out.start, queue_size(&c.stream.out))
    queue_reset(&c.stream.out)
    step_client_sent(&relay, c)


cdef void bury(World *w, void *session) noexcept nogil:
    """Its memory goes when the step is over."""
    check(w.dead_count < DEAD_MAX, "more sessions are closed than there are")
    w.dead[w.dead_count] = session
    w.dead_count += 1


cdef void close_client(World *w, const Order *order) noexcept nogil:
    cdef size_t i = <size_t> order.client.io
    check(order.client.state == CLIENT_CLOSED, "closed, but its state says no")
    check(w.clients[i] == order.client, "a client is closed twice")
    note(w, c"c", <uint8_t> i)
    queue_reset(&order.client.stream.out)
    w.clients[i] = NULL
    bury(w, order.client)


cdef void close_server(World *w, const Order *order) noexcept nogil:
    cdef size_t i = <size_t> order.server.io
    check(order.server.state == SERVER_CLOSED, "closed, but its state says no")
    check(w.servers[i] == order.server, "a server is closed twice")
    note(w, c"s", <uint8_t> i)
    queue_reset(&order.server.stream.out)
    w.servers[i] = NULL
    bury(w, order.server)


cdef void carry_out(World *w) noexcept nogil:
    """All orders so far, but not what follows from them."""
    cdef uint32_t i = 0
    cdef Order *order
    check(not relay.to_server.failed, "no memory for the server's bytes")
    check(not relay.to_client.failed, "no memory for the client's bytes")
    while i < relay.orders.count:
        order = &relay.orders.rows[i]
        if order.kind == ORDER_SEND_TO_CLIENT:
            send_to_client(w, order)
        elif order.kind == ORDER_SEND_TO_SERVER:
            send_to_server(w, order)
        elif order.kind == ORDER_CLOSE_CLIENT:
            close_client(w, order)
        elif order.kind == ORDER_CLOSE_SERVER:
            close_server(w, order)
        elif order.kind == ORDER_CANCEL and order.server.state != SERVER_CLOSED:
            w.cancels[<size_t> order.server.io] += 1
        elif order.kind == ORDER_INQUIRED:
            note(w, c"i", order.pool.inquiry.answer.cap != 0)
            inquiry_forget(order.pool)
        elif order.kind == ORDER_LEARNED:
            words_forget(order.pool)
        elif order.kind == ORDER_LAUNCH:
            w.launching = True
        i += 1
    relay.orders.count = 0


cdef void drain(World *w) noexcept nogil:
    """Everything that follows; then nobody points to what was closed."""
    carry_out(w)
    while step_more(&relay):
        carry_out(w)
    while w.dead_count:
        w.dead_count -= 1
        free(w.dead[w.dead_count])


cdef void finish_cancels(World *w) noexcept nogil:
    """PostgreSQL has got its cancel requests."""
    cdef int i
    for i in range(SERVERS):
        while w.servers[i] != NULL and w.cancels[i]:
            w.cancels[i] -= 1
            step_cancelled(&relay, w.servers[i], False)
            drain(w)


# ---------------------------------------------------------------------- the end

cdef void note_statements(World *w, ServerSession *s) noexcept nogil:
    cdef ServerStatement *entry = s.statements.oldest
    while entry != NULL:
        digest(
            &w.happened, <const uint8_t *> entry.statement.name, entry.statement.name_n
        )
        note(w, c"p", entry.generation == s.statements.generation)
        digest(&w.happened, <const uint8_t *> &entry.shape, sizeof(entry.shape))
        entry = entry.newer


cdef void note_world(World *w) noexcept nogil:
    """What must be the same at the end, however the bytes were cut."""
    cdef ServerSession *s
    cdef ClientSession *c
    cdef uint32_t k
    cdef int i
    for i in range(CLIENTS):
        c = w.clients[i]
        note(w, c"C", 255 if c == NULL else c.state)
        # A map is also made for a message that is kept, and may stay empty.
        if c != NULL and c.statements != NULL and (
            c.statements.count or c.statements.unnamed != NULL
        ):
            note(w, c"n", <uint8_t> c.statements.count)
            note(w, c"b", <uint8_t> c.statements.bytes)
            note(w, c"u", c.statements.unnamed != NULL)
    for i in range(SERVERS):
        s = w.servers[i]
        note(w, c"S", 255 if s == NULL else s.state)
        if s != NULL:
            note(w, s.xact_status, s.copy.state)
            for k in range(s.requests.head, s.requests.tail):
                note(w, c"r", requests_at(&s.requests, k)[0])
            note_statements(w, s)


trace = "POOLER_FUZZ_TRACE" in os.environ
relay_init(&relay)
params_init(&relay.params)
for name in ("application_name", "DateStyle"):
    params_track(&relay.params, name.encode(), False)
statements_init(&relay.statements, &relay.params, b"p_")
# Key and set decide a statement's hash, and that what ``seen`` forgets: so they shall
# not change. The set is never given back.
hash_key.low = hash_key.high = 1
cdef ParamSet *nothing_known = params_empty(&relay.params)
