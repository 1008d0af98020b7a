# SPDX-License-Identifier: MIT
"""Making and ending clients and servers."""

import os

from libc.stdint cimport uint32_t, uint64_t
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from pooler.wire.buffers cimport output_clear, queue_reset
from pooler.statements.effects cimport session_statements_free
from pooler.tables.params cimport (
    ParamSet, params_empty, params_init, params_track, params_unref, params_with,
)
from pooler.session.pool cimport (
    pool_abandon, pool_add_client, pool_add_server, pool_detach, pool_drained,
    pool_remove_client, pool_remove_server, pool_tested,
)
from pooler.relay.common cimport relay_abandon, relay_script
from pooler.session.records cimport (
    CLIENT_ACTIVE, CLIENT_LOGIN, COPY_IN_OPEN, SERVER_ACTIVE, SERVER_TESTED, Script,
    requests_at, requests_free, requests_init, server_is_free, server_is_quiet,
    set_client_state,
)
from pooler.tables.statements cimport (
    SEEN_TEXTS, ServerStatement, client_statements_free, statements_init,
)
from pooler._wire cimport CLIENT_RULES, SERVER_RULES
from tests.fuzz._checks cimport Frames, check, digest, walk

cdef enum:
    FIRST_BUCKETS = 4  # so few that the table has to grow

cdef Script ROLLBACK
ROLLBACK.message = <uint8_t *> b"Q\0\0\0\x0dROLLBACK\0"
ROLLBACK.n = 14
cdef Script DEALLOCATE
DEALLOCATE.message = <uint8_t *> b"Q\0\0\0\x13DEALLOCATE ALL\0"
DEALLOCATE.n = 20


cdef void note(World *w, uint8_t what, uint8_t value) noexcept nogil:
    digest(&w.happened, &what, 1)
    digest(&w.happened, &value, 1)
    if trace:
        fprintf(stderr, "    noted %c %d\n", what, <int> value)


cdef void start_relay() noexcept nogil:
    """Nothing that an earlier input has left decides what happens now."""
    relay.statements.mask = FIRST_BUCKETS - 1  # of an empty table, which has more
    relay.statements.next_id = relay.statements.schema_count = 0
    memset(relay.statements.seen, 0, SEEN_TEXTS * sizeof(uint64_t))


cdef void make_client(World *w, int i) noexcept nogil:
    cdef ClientSession *c = <ClientSession *> calloc(1, sizeof(ClientSession))
    cdef ParamSet *old
    c.io = <void *> <size_t> i
    set_client_state(c, CLIENT_LOGIN)
    c.params = params_empty(&relay.params)
    if i:  # the first has no wishes, the others differ
        old = c.params
        c.params = params_with(
            &relay.params, c.params, 0, <const uint8_t *> b"abc", <size_t> i
        )
        params_unref(&relay.params, old)
    pool_add_client(&w.pool, c)
    w.clients[i] = c
    memset(&w.client_frames[i], 0, sizeof(Frames))


cdef void make_server(World *w, int i) noexcept nogil:
    cdef ServerSession *s = <ServerSession *> calloc(1, sizeof(ServerSession))
    s.io = <void *> <size_t> i
    s.xact_status = c"I"
    s.params = params_empty(&relay.params)
    requests_init(&s.requests)
    s.tracked = w.pool.max_prepared_statements != 0
    pool_add_server(&w.pool, s)
    w.servers[i] = s
    memset(&w.server_frames[i], 0, sizeof(Frames))


cdef void free_client(World *w, int i) noexcept nogil:
    cdef ClientSession *c = w.clients[i]
    pool_remove_client(&w.pool, c)
    queue_reset(&c.stream.held)
    client_statements_free(&relay.statements, c.statements)
    params_unref(&relay.params, c.params)
    free(c)
    w.clients[i] = NULL


cdef void free_server(World *w, int i) noexcept nogil:
    cdef ServerSession *s = w.servers[i]
    session_statements_free(&relay.statements, s)
    pool_remove_server(&w.pool, s)
    queue_reset(&s.stream.held)
    params_unref(&relay.params, s.params)
    requests_free(&s.requests)
    free(s)
    w.servers[i] = NULL


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


cdef void send_to_server(World *w, ServerSession *s) noexcept nogil:
    cdef size_t i = <size_t> s.io
    check(not relay.to_server.failed, "no memory for the server's bytes")
    show(b"server", i, relay.to_server.data, relay.to_server.n)
    digest(&w.to_server[i], relay.to_server.data, relay.to_server.n)
    walk(
        &w.server_frames[i], CLIENT_RULES, relay.to_server.data, relay.to_server.n
    )
    output_clear(&relay.to_server)


cdef void send_to_client(World *w, ClientSession *c) noexcept nogil:
    cdef size_t i = <size_t> c.io
    check(not relay.to_client.failed, "no memory for the client's bytes")
    show(b"client", i, relay.to_client.data, relay.to_client.n)
    digest(&w.to_client[i], relay.to_client.data, relay.to_client.n)
    walk(
        &w.client_frames[i], SERVER_RULES, relay.to_client.data, relay.to_client.n
    )
    output_clear(&relay.to_client)


# ------------------------------------------------------------ ends and releases
# As _ends does it, without sockets.

cdef void clean_server(World *w, ServerSession *s) noexcept nogil:
    if s.copy_in == COPY_IN_OPEN:
        check(relay_abandon(&relay, s) == 0, "no memory to abandon")
        send_to_server(w, s)
        return
    if not server_is_quiet(s):
        return
    pool_drained(&w.pool, s)
    if s.obsolete or (s.xact_status != c"I" and s.rolling_back):
        note(w, c"o", <uint8_t> <size_t> s.io)
        free_server(w, <int> <size_t> s.io)
    elif s.xact_status != c"I":
        s.rolling_back = True
        check(relay_script(&relay, s, &ROLLBACK) == 0, "no memory for ROLLBACK")
        send_to_server(w, s)
    elif s.stray_statements:
        s.stray_statements = False
        check(relay_script(&relay, s, &DEALLOCATE) == 0, "no memory for DEALLOCATE")
        send_to_server(w, s)
    else:
        s.rolling_back = False
        pool_tested(&w.pool, s)


cdef void settle(World *w, ServerSession *s) noexcept nogil:
    if s.state == SERVER_TESTED:
        clean_server(w, s)
    elif s.state == SERVER_ACTIVE and server_is_free(s):
        if s.obsolete:
            free_server(w, <int> <size_t> s.io)
        elif s.stray_statements:
            pool_abandon(&w.pool, s)
            clean_server(w, s)
        else:
            pool_detach(&w.pool, s)


cdef void lose_client(World *w, int i) noexcept nogil:
    cdef ClientSession *c = w.clients[i]
    cdef ServerSession *s
    if c == NULL:
        return
    s = c.server
    note(w, c"c", <uint8_t> i)
    if c.state == CLIENT_ACTIVE:
        c.aligning = False
        if server_is_free(s):
            settle(w, s)
        elif c.scan.body_left or s.obsolete:
            free_server(w, <int> <size_t> s.io)
        else:
            pool_abandon(&w.pool, s)
            check(relay_abandon(&relay, s) == 0, "no memory to abandon")
            send_to_server(w, s)
            clean_server(w, s)
    free_client(w, i)


cdef void lose_server(World *w, int j) noexcept nogil:
    cdef ServerSession *s = w.servers[j]
    cdef ClientSession *c
    if s == NULL:
        return
    note(w, c"s", <uint8_t> j)
    c = s.client
    free_server(w, j)
    if c != NULL:
        check(c.server == NULL, "a client has a server that is gone")
        lose_client(w, <int> <size_t> c.io)


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
        if c != NULL and c.statements != NULL:
            note(w, c"n", <uint8_t> c.statements.count)
            note(w, c"b", <uint8_t> c.statements.bytes)
            note(w, c"u", c.statements.unnamed != NULL)
    for i in range(SERVERS):
        s = w.servers[i]
        note(w, c"S", 255 if s == NULL else s.state)
        if s != NULL:
            note(w, s.xact_status, s.copy_in)
            for k in range(s.requests.head, s.requests.tail):
                note(w, c"r", requests_at(&s.requests, k)[0])
            note_statements(w, s)


trace = "POOLER_FUZZ_TRACE" in os.environ
params_init(&relay.params)
for name in ("application_name", "DateStyle"):
    params_track(&relay.params, name.encode(), False)
statements_init(&relay.statements, &relay.params, b"p_")
# Both are part of a statement's hash, which decides what ``seen`` forgets: so they
# shall not change. The set is never given back.
relay.statements.seed = 1
cdef ParamSet *nothing_known = params_empty(&relay.params)
