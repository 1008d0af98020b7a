# SPDX-License-Identifier: MIT
"""The relay with one pool, both directions: an input is a list of records.

A record is an operation, a length, as many bytes. Every input is played twice, each
record whole and then byte by byte; what comes out must be the same. A server is given
back only at the end of a record, as the engine does it at the end of a read.
"""

from libc.stdint cimport uint8_t
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from pooler._buf cimport output_clear, queue_add, queue_keep, queue_reset, queue_size
from pooler._pool cimport pool_give_up
from pooler._relay cimport (
    RELAY_ALIGN, RELAY_OK, RELAY_WAIT, RelayStatus, relay_cancel_waiting,
)
from pooler._answers cimport relay_server_bytes
from pooler._requests cimport relay_client_bytes
from pooler._session cimport CLIENT_WAITING, ClientSession, ServerSession
from tests.fuzz._checks cimport check, digest, same
from tests.fuzz._world cimport (
    CLIENTS, SERVERS, World, check_world, free_client, free_server, lose_client,
    lose_server, make_client, make_server, note, note_world, relay, send_to_server,
    settle, trace,
)

cdef enum:
    # Operations, modulo OPERATIONS; the rest of the byte says who is meant.
    OP_CLIENT = 0
    OP_SERVER = 1
    OP_LOSE_CLIENT = 2
    OP_LOSE_SERVER = 3
    OP_CANCEL_WAITING = 4
    OPERATIONS = 5


cdef void tell(
    const char *who, int i, size_t n, size_t consumed, int status, size_t sent
) noexcept nogil:
    if trace:
        fprintf(
            stderr, "  %s %d: %zu bytes, %zu consumed, status %d, %zu sent on\n",
            who, i, n, consumed, status, sent,
        )


cdef void client_now(
    World *w, int i, const uint8_t *src, size_t n
) noexcept nogil:
    """One read of a client that may be served, after what it holds."""
    cdef ClientSession *c = w.clients[i]
    cdef size_t held = queue_size(&c.stream.held)
    cdef uint8_t *block = <uint8_t *> malloc(held + n)
    cdef size_t consumed = 0
    cdef RelayStatus status
    if held:
        memcpy(block, c.stream.held.data + c.stream.held.start, held)
    queue_reset(&c.stream.held)
    if n:
        memcpy(block + held, src, n)
    output_clear(&relay.to_server)
    output_clear(&relay.to_client)
    status = relay_client_bytes(&relay, c, block, held + n, &consumed)
    tell(b"client", i, held + n, consumed, status, relay.to_server.n)
    check(consumed <= held + n, "relay_client_bytes went past the end")
    check(relay.to_client.n == 0, "a client's bytes gave an answer")
    check(
        relay.to_server.n == 0 or c.server != NULL, "bytes for a server, but no server"
    )
    if c.server != NULL:
        send_to_server(w, c.server)
    queue_keep(&c.stream.held, block + consumed, held + n - consumed)
    free(block)
    if status != RELAY_OK and status != RELAY_WAIT and status != RELAY_ALIGN:
        note(w, c"1", <uint8_t> status)
        lose_client(w, i)


cdef inline bint held_back(const ClientSession *c) noexcept nogil:
    return c.state == CLIENT_WAITING or c.aligning


cdef void client_feed(World *w, int i, const uint8_t *src, size_t n) noexcept nogil:
    cdef size_t at = 0
    cdef size_t step = 1 if w.bytewise else n
    while at < n and w.clients[i] != NULL:
        if held_back(w.clients[i]):  # the kernel keeps the rest
            queue_add(&w.clients[i].stream.held, src + at, n - at)
            break
        client_now(w, i, src + at, step)
        at += step
    if w.clients[i] != NULL and w.clients[i].server != NULL:
        settle(w, w.clients[i].server)


cdef bint server_now(
    World *w, int j, const uint8_t *src, size_t n, bint *resume
) noexcept nogil:
    """One read of a server, after what it holds; False when it is over with it."""
    cdef ServerSession *s = w.servers[j]
    cdef ClientSession *c = s.client
    cdef size_t held = queue_size(&s.stream.held)
    cdef uint8_t *block = <uint8_t *> malloc(held + n)
    cdef size_t consumed = 0
    cdef RelayStatus status
    if held:
        memcpy(block, s.stream.held.data + s.stream.held.start, held)
    queue_reset(&s.stream.held)
    memcpy(block + held, src, n)
    output_clear(&relay.to_server)
    output_clear(&relay.to_client)
    relay.resume = False
    status = relay_server_bytes(&relay, s, block, held + n, &consumed)
    tell(b"server", j, held + n, consumed, status, relay.to_client.n)
    check(consumed <= held + n, "relay_server_bytes went past the end")
    check(relay.to_server.n == 0, "a server's bytes came back to it")
    check(relay.to_client.n == 0 or c != NULL, "bytes for a client, but none is there")
    if c != NULL:
        digest(&w.to_client[<size_t> c.io], relay.to_client.data, relay.to_client.n)
    queue_keep(&s.stream.held, block + consumed, held + n - consumed)
    free(block)
    resume[0] = resume[0] or relay.resume
    if status != RELAY_OK:
        note(w, c"2", <uint8_t> status)
        lose_server(w, j)
        return False
    return True


cdef void server_feed(World *w, int j, const uint8_t *src, size_t n) noexcept nogil:
    cdef size_t at = 0
    cdef size_t step = 1 if w.bytewise else n
    cdef bint resume = False
    cdef ClientSession *c = w.servers[j].client
    while at < n:
        if not server_now(w, j, src + at, step, &resume):
            return
        at += step
    if resume:
        check(c != NULL and not c.aligning, "resumed, but not aligned")
        client_now(w, <int> <size_t> c.io, NULL, 0)
    if w.servers[j] != NULL:
        settle(w, w.servers[j])


cdef void wake(World *w) noexcept nogil:
    """Idle servers go to those who wait, oldest first."""
    cdef ClientSession *c
    cdef int i
    while w.pool.waiting_head != NULL and w.pool.idle_head != NULL:
        c = w.pool.waiting_head
        i = <int> <size_t> c.io
        client_now(w, i, NULL, 0)
        check(w.pool.waiting_head != c, "a woken client still waits")
        if w.clients[i] != NULL and w.clients[i].server != NULL:
            settle(w, w.clients[i].server)


cdef void cancel_waiting(World *w, int i) noexcept nogil:
    cdef ClientSession *c = w.clients[i]
    cdef size_t n
    cdef size_t consumed = 0
    cdef uint8_t *block
    if c.state != CLIENT_WAITING:
        return
    n = queue_size(&c.stream.held)
    block = <uint8_t *> malloc(n)
    memcpy(block, c.stream.held.data + c.stream.held.start, n)
    queue_reset(&c.stream.held)
    output_clear(&relay.to_client)
    if relay_cancel_waiting(&relay, c, block, n, &consumed) == RELAY_OK:
        check(0 < consumed <= n, "cancelled more than there is")
        digest(&w.to_client[i], relay.to_client.data, relay.to_client.n)
        pool_give_up(&w.pool, c)
    queue_keep(&c.stream.held, block + consumed, n - consumed)
    free(block)
    if consumed:
        client_now(w, i, NULL, 0)
        if w.clients[i] != NULL and w.clients[i].server != NULL:
            settle(w, w.clients[i].server)


cdef void play(World *w, const uint8_t *src, size_t n) noexcept nogil:
    cdef size_t at = 0
    cdef size_t length
    cdef uint8_t op
    cdef int who
    cdef int i
    w.pool.max_servers = SERVERS
    for i in range(CLIENTS):
        make_client(w, i)
    for i in range(SERVERS):
        make_server(w, i)
    while n - at >= 2:
        op = src[at] % OPERATIONS
        who = src[at] // OPERATIONS
        length = src[at + 1]
        at += 2
        length = length if length < n - at else n - at
        if trace:
            fprintf(
                stderr, "operation %d of %d, %zu bytes\n", <int> op, who, length
            )
        if op == OP_SERVER or op == OP_LOSE_SERVER:
            who %= SERVERS
            if w.servers[who] == NULL:
                make_server(w, who)
            if op == OP_SERVER:
                server_feed(w, who, src + at, length)
            else:
                lose_server(w, who)
        else:
            who %= CLIENTS
            if w.clients[who] == NULL:
                make_client(w, who)
            if op == OP_CLIENT:
                client_feed(w, who, src + at, length)
            elif op == OP_LOSE_CLIENT:
                lose_client(w, who)
            else:
                cancel_waiting(w, who)
        at += length
        wake(w)
        check_world(w)
    note_world(w)
    for i in range(SERVERS):
        if w.servers[i] != NULL:
            free_server(w, i)
    for i in range(CLIENTS):
        if w.clients[i] != NULL:
            free_client(w, i)
    check(relay.params.value_count == 0, "a parameter value is left")
    check(relay.params.set_count == 0, "a parameter set is left")


cdef int fuzz_relay(const uint8_t *src, size_t n) noexcept nogil:
    cdef World *whole = <World *> calloc(1, sizeof(World))
    cdef World *split = <World *> calloc(1, sizeof(World))
    cdef int i
    split.bytewise = True
    play(whole, src, n)
    play(split, src, n)
    for i in range(CLIENTS):
        check(
            same(&whole.to_client[i], &split.to_client[i]),
            "relay: whole and split differ in what a client gets",
        )
    for i in range(SERVERS):
        check(
            same(&whole.to_server[i], &split.to_server[i]),
            "relay: whole and split differ in what a server gets",
        )
    check(
        same(&whole.happened, &split.happened),
        "relay: whole and split differ in what happened",
    )
    free(whole)
    free(split)
    return 0
