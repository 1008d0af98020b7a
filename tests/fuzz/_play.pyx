# SPDX-License-Identifier: MIT
"""The step with one pool, both directions: an input is a list of records.

A record is an operation, a length, as many bytes. Every input is played twice, each
record whole and then byte by byte; what comes out must be the same. What had to wait
until all orders were carried out is decided only at the end of a record, as the engine
does it at the end of a read.

The target ``relay`` has servers on which names of prepared statements are left alone.
Those of ``statements`` are tracked; its inputs begin with a byte of options.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from pooler.relay.step cimport (
    client_held_back, client_may_vanish, server_held_back, step_cancel,
    step_client_bytes, step_client_close, step_client_end, step_client_vanished,
    step_deadline, step_pool_inquire, step_pool_waits, step_server_bytes,
    step_server_close, step_server_end, step_server_retire,
)
from pooler.session.pool cimport pool_launch, pool_pause, pool_resume
from pooler.session.time_limits cimport TimeLimits, time_limits_fill
from pooler.session.records cimport (
    CHANGE_HIDDEN, CLIENT_WAITING, CLOSE_SHUTDOWN, ClientSession, MODE_STATEMENT,
    MODE_TRANSACTION, ServerSession,
)
from pooler.wire.buffers cimport queue_add, queue_reset, queue_size
from pooler._wire cimport HEADER_BYTES, load_be32
from tests.fuzz._checks cimport check, same
from tests.fuzz._invariants cimport check_empty, check_world
from tests.fuzz._server cimport ANSWER_BYTES, put_answers
from tests.fuzz._world cimport (
    CLIENTS, SERVERS, World, carry_out, drain, end_relay, finish_cancels, make_client,
    make_server, note_world, relay, set_time, start_relay, take_in, trace,
)

cdef enum:
    # Operations, modulo OPERATIONS; the rest of the byte says who is meant.
    OP_CLIENT = 0
    OP_SERVER = 1
    OP_LOSE_CLIENT = 2
    OP_LOSE_SERVER = 3
    OP_CANCEL = 4
    OP_ANSWER = 5  # as OP_SERVER, but each byte is a choice of ``_server``
    OP_FILL = 6  # as OP_CLIENT, but each byte stands for FILL_BYTES of its kind
    OP_SLOW = 7  # a client takes nothing any more, or takes what there is
    OP_BREAK = 8  # what is sent to a client fails from now on
    OP_VANISH = 9  # the record is the last that a client has sent before it ended
    OP_TIME = 10  # each byte is TIME_STEP_US
    OP_INQUIRE = 11  # an idle server is asked
    OP_RETIRE = 12  # a server is to go as soon as it is free
    OP_PAUSE = 13  # the pool is paused, or resumed
    OPERATIONS = 14
    TIME_STEP_US = 100000
    QUERY_WAIT_US = 5000000
    TESTED_US = 3000000
    FILL_BYTES = 512
    GONE = 0xFFFFFFFF  # has left something, and then its server
    FILL_STEP_BYTES = 997  # of these, what comes in one read
    # Options, the bits of a byte.
    PREPARED_MASK = 3  # of max_prepared_statements: 1, 2, 4 or MANY_STATEMENTS
    MANY_STATEMENTS = 100
    OPTION_CACHE = 4  # cache_unnamed
    OPTION_STATEMENT_MODE = 8
    OPTION_LIMITS = 16
    OPTION_CLOSE = 32  # not cancel_abandoned
    OPTION_LONG = 64  # Queries are not kept that would be as a rule
    OPTION_SHARE_ALL = 128  # not clean_changed
    LONG_QUERY_BYTES = 40
    KEPT_QUERY_BYTES = 1048576
    MAX_CLIENT_STATEMENTS = 3
    MAX_CLIENT_BYTES = 120
    MAX_BYTES = 1000
    # In the place of options: names are left alone.
    UNTRACKED = -1
    CLEAN_UNTRACKED = -2
    # From this length on a name is refused, unless all of the message is there.
    LONG_NAME_BYTES = 32768
    DESCRIBE_BYTES = 7
    QUESTION_BYTES = 14

cdef const char *QUESTION = b"Q\0\0\0\x0dSELECT 1\0"
cdef const char *DESCRIBE_PORTAL = b"D\0\0\0\6P\0"


cdef void tell(const char *who, int i, size_t n) noexcept nogil:
    if trace:
        fprintf(stderr, "  %s %d: %zu bytes\n", who, i, n)


# ---------------------------------------------------------------- clients

cdef void client_now(
    World *w, int i, const uint8_t *src, size_t n
) noexcept nogil:
    """One read of a client that may be read, behind what it holds."""
    cdef ClientSession *c = w.clients[i]
    cdef size_t held = queue_size(&c.stream.held)
    cdef uint8_t *block = <uint8_t *> malloc(held + n)
    if held:
        memcpy(block, c.stream.held.data + c.stream.held.start, held)
    queue_reset(&c.stream.held)
    if n:
        memcpy(block + held, src, n)
    tell(b"client", i, held + n)
    step_client_bytes(&relay, c, block, held + n)
    carry_out(w)
    if w.bytewise and w.clients[i] == c and c.server != NULL and (
        c.server.changes.xact & CHANGE_HIDDEN
    ):
        w.incomparable = True  # a text of which not all was here, or one that says so
    free(block)


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
    done with a very long name, with a Bind in front of a Describe, and with a lone
    Parse or Close of a client that has no server.
    """
    cdef const uint8_t *held
    cdef size_t held_n = queue_size(&c.stream.held)
    cdef size_t rest
    if not w.bytewise:
        return n
    if w.pool.config.max_prepared_statements == 0:
        return piece if piece < n else n
    rest = lone_request(c, src, n)
    if rest:
        return rest - held_n
    if held_n >= HEADER_BYTES:
        held = c.stream.held.data + c.stream.held.start
        rest = <size_t> load_be32(held + 1) + 1 - held_n
        if held_n + n > LONG_NAME_BYTES:
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
        if client_held_back(w.clients[i]):  # the kernel keeps the rest
            if not w.clients[i].leaving:
                queue_add(&w.clients[i].stream.held, src + at, n - at)
            return
        step = next_step(w, w.clients[i], src + at, n - at, piece)
        client_now(w, i, src + at, step)
        at += step


cdef void client_fill(World *w, int i, const uint8_t *src, size_t n) noexcept nogil:
    cdef uint8_t *block = <uint8_t *> malloc(n * FILL_BYTES)
    cdef size_t k
    for k in range(n):
        memset(block + k * FILL_BYTES, src[k], FILL_BYTES)
    client_feed(w, i, block, n * FILL_BYTES, FILL_STEP_BYTES)
    free(block)


cdef void vanish(World *w, int i, const uint8_t *src, size_t n) noexcept nogil:
    cdef ClientSession *c = w.clients[i]
    if client_held_back(c) and not client_may_vanish(c):
        if c.leaving:
            step_client_end(&relay, c)  # a send to it has failed
        return  # else nobody looks at it now
    if not client_held_back(c):
        client_feed(w, i, src, n, 1)
        if w.clients[i] != NULL:
            step_client_end(&relay, c)
        return
    if c.state == CLIENT_WAITING and not c.leaving:
        queue_add(&c.stream.held, src, n)
    step_client_vanished(&relay, c)


# ---------------------------------------------------------------- servers

cdef void server_feed(World *w, int j, const uint8_t *src, size_t n) noexcept nogil:
    cdef ServerSession *s
    cdef size_t at = 0
    cdef size_t step = 1 if w.bytewise else n
    cdef size_t held
    cdef uint64_t number
    cdef uint8_t *block
    while at < n and w.servers[j] != NULL and not server_held_back(w.servers[j]):
        s = w.servers[j]
        held = queue_size(&s.stream.held)
        block = <uint8_t *> malloc(held + step)
        if held:
            memcpy(block, s.stream.held.data + s.stream.held.start, held)
        queue_reset(&s.stream.held)
        memcpy(block + held, src + at, step)
        tell(b"server", j, held + step)
        number = w.numbers[<size_t> s.client.io] if s.client != NULL else GONE
        step_server_bytes(&relay, s, block, held + step)
        carry_out(w)
        if w.servers[j] == s and s.changes.left and w.left_by[j] == 0:
            w.left_by[j] = number
        free(block)
        at += step


cdef void answer(World *w, int j, const uint8_t *choices, size_t n) noexcept nogil:
    cdef uint8_t *said = <uint8_t *> malloc(n * ANSWER_BYTES)
    server_feed(w, j, said, put_answers(said, w.servers[j], choices, n))
    free(said)


# ---------------------------------------------------------------- records

cdef void pass_time(World *w, const uint8_t *src, size_t n) noexcept nogil:
    cdef size_t k
    for k in range(n):
        set_time(relay.now_us + (src[k] + 1) * <size_t> TIME_STEP_US)
        while step_deadline(&relay):
            drain(w)


cdef void operate_server(
    World *w, uint8_t op, int who, const uint8_t *src, size_t n
) noexcept nogil:
    if w.servers[who] == NULL:
        make_server(w, who)
    if w.servers[who] == NULL:
        return  # whoever waited for it has been closed, and it with him
    if op == OP_SERVER:
        server_feed(w, who, src, n)
    elif op == OP_ANSWER:
        answer(w, who, src, n)
    elif op == OP_RETIRE:
        step_server_retire(&relay, w.servers[who])
    else:
        step_server_end(&relay, w.servers[who])


cdef void operate_client(
    World *w, uint8_t op, int who, const uint8_t *src, size_t n
) noexcept nogil:
    if w.clients[who] == NULL:
        make_client(w, who)
    if op == OP_CLIENT:
        client_feed(w, who, src, n, 1)
    elif op == OP_FILL:
        client_fill(w, who, src, n)
    elif op == OP_LOSE_CLIENT:
        step_client_end(&relay, w.clients[who])
    elif op == OP_VANISH:
        vanish(w, who, src, n)
    elif op == OP_BREAK:
        w.broken[who] = True
    elif op == OP_SLOW and w.slow[who]:
        take_in(w, who)
    elif op == OP_SLOW:
        w.slow[who] = True
    elif step_cancel(&relay, w.clients[who]) != NULL:
        w.cancels[<size_t> w.clients[who].server.io] += 1


cdef void pause(World *w) noexcept nogil:
    if w.pool.paused:
        pool_resume(w.pool)
        step_pool_waits(&relay, w.pool)
    else:
        pool_pause(w.pool, False)


cdef void fail_to_launch(World *w) noexcept nogil:
    """Servers that are wanted do not come: who waits makes do with what is there."""
    while w.launching:
        w.launching = False
        pool_launch(w.pool, 0)
        step_pool_waits(&relay, w.pool)
        drain(w)


cdef void operate(
    World *w, uint8_t op, int who, const uint8_t *src, size_t n
) noexcept nogil:
    if op == OP_TIME:
        pass_time(w, src, n)
    elif op == OP_INQUIRE:
        step_pool_inquire(&relay, w.pool, <const uint8_t *> QUESTION, QUESTION_BYTES)
    elif op == OP_PAUSE:
        pause(w)
    elif op in (OP_SERVER, OP_LOSE_SERVER, OP_ANSWER, OP_RETIRE):
        operate_server(w, op, who % SERVERS, src, n)
    else:
        operate_client(w, op, who % CLIENTS, src, n)
    drain(w)
    finish_cancels(w)
    fail_to_launch(w)


cdef void play_records(World *w, const uint8_t *src, size_t n) noexcept nogil:
    cdef size_t at = 0
    cdef size_t length
    cdef uint8_t op
    cdef int who
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
        check_world(w)


cdef void play(
    World *w, const uint8_t *src, size_t n, int options
) noexcept nogil:
    cdef int i
    if trace:
        fprintf(stderr, "%s\n", b"split" if w.bytewise else b"whole")
    start_relay(w)
    set_options(w, options)
    for i in range(CLIENTS):
        make_client(w, i)
    for i in range(SERVERS):
        make_server(w, i)
    play_records(w, src, n)
    note_world(w)
    for i in range(CLIENTS):
        if w.clients[i] != NULL:
            step_client_close(&relay, w.clients[i], CLOSE_SHUTDOWN, False)
            drain(w)
    for i in range(SERVERS):
        if w.servers[i] != NULL:
            step_server_close(&relay, w.servers[i], CLOSE_SHUTDOWN)
            drain(w)
    end_relay(w)
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


cdef void set_limits(World *w) noexcept nogil:
    cdef TimeLimits times
    times.query_wait_us = QUERY_WAIT_US
    times.wait_notify_us = QUERY_WAIT_US // 2
    times.client_idle_us = 10 * QUERY_WAIT_US
    times.query_us = 4 * QUERY_WAIT_US
    times.xact_us = 6 * QUERY_WAIT_US
    times.idle_xact_us = 3 * QUERY_WAIT_US
    times.server_idle_us = 7 * QUERY_WAIT_US
    times.lifetime_us = 20 * QUERY_WAIT_US
    times.tested_us = TESTED_US
    time_limits_fill(&w.pool.config, &times)


cdef void set_options(World *w, int options) noexcept nogil:
    """``options`` < 0: the servers are not tracked."""
    w.pool.config.mode = MODE_TRANSACTION
    w.pool.config.clean_changed = (
        options == CLEAN_UNTRACKED or options >= 0 and not options & OPTION_SHARE_ALL
    )
    w.pool.config.clean_custom = w.pool.config.clean_changed
    w.pool.config.cancel_abandoned = options < 0 or not options & OPTION_CLOSE
    if options >= 0:
        set_statement_options(w, <uint8_t> options)
    set_limits(w)


cdef void set_statement_options(World *w, uint8_t options) noexcept nogil:
    cdef bint limits = options & OPTION_LIMITS != 0
    cdef uint8_t most = options & PREPARED_MASK
    w.pool.config.max_prepared_statements = MANY_STATEMENTS if most == 3 else 1 << most
    if options & OPTION_STATEMENT_MODE:
        w.pool.config.mode = MODE_STATEMENT
    relay.statements.cache_unnamed = options & OPTION_CACHE != 0
    relay.statements.max_client_count = MAX_CLIENT_STATEMENTS if limits else 0
    relay.statements.max_client_bytes = MAX_CLIENT_BYTES if limits else 0
    relay.statements.max_bytes = MAX_BYTES if limits else 0
    relay.statements.long_query_bytes = (
        LONG_QUERY_BYTES if options & OPTION_LONG else KEPT_QUERY_BYTES
    )


cdef void play_changed(const uint8_t *src, size_t n) noexcept nogil:
    """Once more, and what is left in a server that is not tracked is cleaned.

    There every text in parts can do anything, so this is not compared.
    """
    cdef World *w = <World *> calloc(1, sizeof(World))
    play(w, src, n, CLEAN_UNTRACKED)
    free(w)


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
    play(whole, src, n, options)
    play(split, src, n, options)
    if not whole.incomparable and not split.incomparable and (
        options < 0 or not options & OPTION_LIMITS
    ):
        compare(whole, split)
    free(whole)
    free(split)
    if options < 0:
        play_changed(src, n)


cdef int fuzz_relay(const uint8_t *src, size_t n) noexcept nogil:
    play_twice(src, n, UNTRACKED)
    return 0


cdef int fuzz_statements(const uint8_t *src, size_t n) noexcept nogil:
    if n:
        play_twice(src + 1, n - 1, src[0])
    return 0
