# SPDX-License-Identifier: MIT
"""The relay with one pool, both directions: an input is a list of records.

A record is an operation, a length, as many bytes. Every input is played twice, each
record whole and then byte by byte; what comes out must be the same. A server is given
back only at the end of a record, as the engine does it at the end of a read.

The target ``relay`` has servers on which names of prepared statements are left alone.
Those of ``statements`` are tracked; its inputs begin with a byte of options.
"""

from libc.stdint cimport uint8_t
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from pooler.relay.from_server cimport relay_server_bytes
from pooler.wire.buffers cimport (
    output_clear, queue_add, queue_keep, queue_reset, queue_size,
)
from pooler.session.pool cimport pool_give_up
from pooler.relay.common cimport (
    RELAY_ALIGN, RELAY_OK, RELAY_WAIT, RelayStatus, relay_cancel_waiting,
)
from pooler.relay.from_client cimport relay_client_bytes
from pooler.session.records cimport (
    CLIENT_WAITING, ClientSession, MODE_STATEMENT, MODE_TRANSACTION, ServerSession,
)
from pooler._wire cimport HEADER_BYTES, load_be32
from tests.fuzz._checks cimport check, same
from tests.fuzz._invariants cimport check_empty, check_world
from tests.fuzz._server cimport ANSWER_BYTES, put_answers
from tests.fuzz._world cimport (
    CLIENTS, SERVERS, World, free_client, free_server, lose_client, lose_server,
    make_client, make_server, note, note_world, relay, send_to_client, send_to_server,
    settle, start_relay, trace,
)

cdef enum:
    # Operations, modulo OPERATIONS; the rest of the byte says who is meant.
    OP_CLIENT = 0
    OP_SERVER = 1
    OP_LOSE_CLIENT = 2
    OP_LOSE_SERVER = 3
    OP_CANCEL_WAITING = 4
    OP_ANSWER = 5  # as OP_SERVER, but each byte is a choice of ``_server``
    OP_FILL = 6  # as OP_CLIENT, but each byte stands for FILL_BYTES of its kind
    OPERATIONS = 7
    FILL_BYTES = 512
    FILL_STEP_BYTES = 997  # of these, what comes in one read
    # Options, the bits of a byte.
    PREPARED_MASK = 3  # of max_prepared_statements: 1, 2, 4 or MANY_STATEMENTS
    MANY_STATEMENTS = 100
    OPTION_CACHE = 4  # cache_unnamed
    OPTION_STATEMENT_MODE = 8
    OPTION_LIMITS = 16
    MAX_CLIENT_STATEMENTS = 3
    MAX_CLIENT_BYTES = 120
    MAX_BYTES = 1000
    # From these lengths on a Query is judged by its beginning, and a name is refused,
    # unless all of the message is there.
    LONG_QUERY_BYTES = 256
    LONG_NAME_BYTES = 32768
    DESCRIBE_BYTES = 7

cdef const char *DESCRIBE_PORTAL = b"D\0\0\0\6P\0"


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
    check(
        relay.to_client.n == 0 or w.pool.max_prepared_statements != 0,
        "a client's bytes gave an answer",
    )
    check(
        relay.to_server.n == 0 or c.server != NULL, "bytes for a server, but no server"
    )
    if c.server != NULL:
        send_to_server(w, c.server)
    send_to_client(w, c)
    queue_keep(&c.stream.held, block + consumed, held + n - consumed)
    free(block)
    if status != RELAY_OK and status != RELAY_WAIT and status != RELAY_ALIGN:
        note(w, c"1", <uint8_t> status)
        lose_client(w, i)


cdef inline bint held_back(const ClientSession *c) noexcept nogil:
    return c.state == CLIENT_WAITING or c.aligning or c.settling


cdef size_t lone_request(
    const ClientSession *c, const uint8_t *src, size_t n
) noexcept nogil:
    """Size of a Parse or Close and what could be its Sync; 0: not all of it is here.

    It begins with what is held, and goes on with src[0:n).
    """
    cdef uint8_t header[HEADER_BYTES]
    cdef size_t held_n = queue_size(&c.stream.held)
    cdef size_t size
    cdef size_t i
    if c.server != NULL or c.scan.body_left or held_n + n < HEADER_BYTES:
        return 0
    for i in range(HEADER_BYTES):
        header[i] = (
            c.stream.held.data[c.stream.held.start + i] if i < held_n
            else src[i - held_n]
        )
    size = <size_t> load_be32(header + 1) + 1 + HEADER_BYTES
    if (header[0] != c"P" and header[0] != c"C") or size > held_n + n:
        return 0
    return size


cdef size_t next_step(
    const World *w, const ClientSession *c, const uint8_t *src, size_t n, size_t piece
) noexcept nogil:
    """How much of the n bytes of a record comes in one read.

    On a tracked server it depends by design on whether all of it came at once what is
    done with a long Query or a very long name, with a Bind in front of a Describe, and
    with a lone Parse or Close of a client that has no server.
    """
    cdef const uint8_t *held
    cdef size_t held_n = queue_size(&c.stream.held)
    cdef size_t rest
    if not w.bytewise:
        return n
    if w.pool.max_prepared_statements == 0:
        return piece if piece < n else n
    rest = lone_request(c, src, n)
    if rest:
        return rest - held_n
    if held_n >= HEADER_BYTES:
        held = c.stream.held.data + c.stream.held.start
        rest = <size_t> load_be32(held + 1) + 1 - held_n
        if held[0] == c"Q" and held_n + rest > LONG_QUERY_BYTES:
            piece = rest
        elif held_n + n > LONG_NAME_BYTES:
            piece = n
        elif held[0] == c"B" and rest + DESCRIBE_BYTES <= n and (
            memcmp(src + rest, DESCRIBE_PORTAL, DESCRIBE_BYTES) == 0
        ):
            piece = rest + DESCRIBE_BYTES
    return piece if piece < n else n


cdef void client_feed(
    World *w, int i, const uint8_t *src, size_t n, size_t piece
) noexcept nogil:
    cdef size_t at = 0
    cdef size_t step
    while at < n and w.clients[i] != NULL:
        if held_back(w.clients[i]):  # the kernel keeps the rest
            queue_add(&w.clients[i].stream.held, src + at, n - at)
            break
        step = next_step(w, w.clients[i], src + at, n - at, piece)
        client_now(w, i, src + at, step)
        at += step
    if w.clients[i] != NULL and w.clients[i].server != NULL:
        settle(w, w.clients[i].server)


cdef void client_fill(World *w, int i, const uint8_t *src, size_t n) noexcept nogil:
    cdef uint8_t *block = <uint8_t *> malloc(n * FILL_BYTES)
    cdef size_t k
    for k in range(n):
        memset(block + k * FILL_BYTES, src[k], FILL_BYTES)
    client_feed(w, i, block, n * FILL_BYTES, FILL_STEP_BYTES)
    free(block)


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
    check(relay.to_server.n == 0 or s.tracked, "a server's bytes came back to it")
    check(relay.to_client.n == 0 or c != NULL, "bytes for a client, but none is there")
    if c != NULL:
        send_to_client(w, c)
    send_to_server(w, s)
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
        check(not c.settling, "resumed, but its names are not settled")
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
        send_to_client(w, c)
        pool_give_up(&w.pool, c)
    queue_keep(&c.stream.held, block + consumed, n - consumed)
    free(block)
    if consumed:
        client_now(w, i, NULL, 0)
        if w.clients[i] != NULL and w.clients[i].server != NULL:
            settle(w, w.clients[i].server)


cdef void answer(World *w, int j, const uint8_t *choices, size_t n) noexcept nogil:
    cdef uint8_t *said = <uint8_t *> malloc(n * ANSWER_BYTES)
    server_feed(w, j, said, put_answers(said, w.servers[j], choices, n))
    free(said)


cdef void operate(
    World *w, uint8_t op, int who, const uint8_t *src, size_t n
) noexcept nogil:
    if op == OP_SERVER or op == OP_LOSE_SERVER or op == OP_ANSWER:
        who %= SERVERS
        if w.servers[who] == NULL:
            make_server(w, who)
        if op == OP_SERVER:
            server_feed(w, who, src, n)
        elif op == OP_ANSWER:
            answer(w, who, src, n)
        else:
            lose_server(w, who)
    else:
        who %= CLIENTS
        if w.clients[who] == NULL:
            make_client(w, who)
        if op == OP_CLIENT:
            client_feed(w, who, src, n, 1)
        elif op == OP_FILL:
            client_fill(w, who, src, n)
        elif op == OP_LOSE_CLIENT:
            lose_client(w, who)
        else:
            cancel_waiting(w, who)


cdef void play(World *w, const uint8_t *src, size_t n) noexcept nogil:
    cdef size_t at = 0
    cdef size_t length
    cdef uint8_t op
    cdef int who
    cdef int i
    if trace:
        fprintf(stderr, "%s\n", b"split" if w.bytewise else b"whole")
    start_relay()
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
        operate(w, op, who, src + at, length)
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
    check_empty()


cdef void compare(const World *whole, const World *split) noexcept nogil:
    cdef int i
    for i in range(CLIENTS):
        check(
            same(&whole.to_client[i], &split.to_client[i]),
            "whole and split differ in what a client gets",
        )
    for i in range(SERVERS):
        check(
            same(&whole.to_server[i], &split.to_server[i]),
            "whole and split differ in what a server gets",
        )
    check(
        same(&whole.happened, &split.happened),
        "whole and split differ in what happened",
    )


cdef void set_options(World *w, uint8_t options) noexcept nogil:
    cdef bint limits = options & OPTION_LIMITS != 0
    cdef uint8_t most = options & PREPARED_MASK
    w.pool.max_prepared_statements = MANY_STATEMENTS if most == 3 else 1 << most
    if options & OPTION_STATEMENT_MODE:
        w.pool.mode = MODE_STATEMENT
    relay.statements.cache_unnamed = options & OPTION_CACHE != 0
    relay.statements.max_client_count = MAX_CLIENT_STATEMENTS if limits else 0
    relay.statements.max_client_bytes = MAX_CLIENT_BYTES if limits else 0
    relay.statements.max_bytes = MAX_BYTES if limits else 0


cdef void play_twice(
    const uint8_t *src, size_t n, int options
) noexcept nogil:
    """Whole and bytewise; ``options`` < 0: the servers are not tracked.

    Limits of size count a Parse that is cut in another way than one that is not, so
    with them both plays are right, but not the same.
    """
    cdef World *whole = <World *> calloc(1, sizeof(World))
    cdef World *split = <World *> calloc(1, sizeof(World))
    split.bytewise = True
    whole.pool.mode = split.pool.mode = MODE_TRANSACTION
    if options >= 0:
        set_options(whole, <uint8_t> options)
        set_options(split, <uint8_t> options)
    play(whole, src, n)
    play(split, src, n)
    if options < 0 or not options & OPTION_LIMITS:
        compare(whole, split)
    free(whole)
    free(split)


cdef int fuzz_relay(const uint8_t *src, size_t n) noexcept nogil:
    play_twice(src, n, -1)
    return 0


cdef int fuzz_statements(const uint8_t *src, size_t n) noexcept nogil:
    if n:
        play_twice(src + 1, n - 1, src[0])
    return 0
