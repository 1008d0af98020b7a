# SPDX-License-Identifier: MIT
"""Making and ending clients and servers, and what must be true of them."""

import os

from libc.stdint cimport uint32_t
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport calloc, free

from pooler._buf cimport output_clear, queue_reset
from pooler._params cimport (
    ParamSet, params_empty, params_init, params_track, params_unref, params_with,
)
from pooler._pool cimport (
    pool_abandon, pool_add_client, pool_add_server, pool_detach, pool_remove_client,
    pool_remove_server, pool_tested,
)
from pooler._relay cimport relay_abandon, relay_script
from pooler._session cimport (
    CLIENT_ACTIVE, CLIENT_LOGIN, CLIENT_WAITING, COPY_IN_OPEN, SERVER_ACTIVE,
    SERVER_IDLE, SERVER_TESTED, Script, requests_at, requests_free, requests_init,
    server_is_free, server_is_quiet, set_client_state,
)
from tests.fuzz._checks cimport check, digest

cdef Script ROLLBACK
ROLLBACK.message = <uint8_t *> b"Q\0\0\0\x0dROLLBACK\0"
ROLLBACK.n = 14


cdef void note(World *w, uint8_t what, uint8_t value) noexcept nogil:
    digest(&w.happened, &what, 1)
    digest(&w.happened, &value, 1)
    if trace:
        fprintf(stderr, "    noted %c %d\n", what, <int> value)


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


cdef void make_server(World *w, int i) noexcept nogil:
    cdef ServerSession *s = <ServerSession *> calloc(1, sizeof(ServerSession))
    s.io = <void *> <size_t> i
    s.xact_status = c"I"
    s.params = params_empty(&relay.params)
    requests_init(&s.requests)
    pool_add_server(&w.pool, s)
    w.servers[i] = s


cdef void free_client(World *w, int i) noexcept nogil:
    cdef ClientSession *c = w.clients[i]
    pool_remove_client(&w.pool, c)
    queue_reset(&c.stream.held)
    params_unref(&relay.params, c.params)
    free(c)
    w.clients[i] = NULL


cdef void free_server(World *w, int i) noexcept nogil:
    cdef ServerSession *s = w.servers[i]
    pool_remove_server(&w.pool, s)
    queue_reset(&s.stream.held)
    params_unref(&relay.params, s.params)
    requests_free(&s.requests)
    free(s)
    w.servers[i] = NULL


cdef void send_to_server(World *w, ServerSession *s) noexcept nogil:
    check(not relay.to_server.failed, "no memory for the server's bytes")
    digest(
        &w.to_server[<size_t> s.io], relay.to_server.data, relay.to_server.n
    )
    output_clear(&relay.to_server)


# ------------------------------------------------------------ ends and releases
# As _ends does it, without sockets.

cdef void clean_server(World *w, ServerSession *s) noexcept nogil:
    if s.copy_in == COPY_IN_OPEN:
        check(relay_abandon(&relay, s) == 0, "no memory to abandon")
        send_to_server(w, s)
        return
    if not server_is_quiet(s):
        return
    if s.obsolete or (s.xact_status != c"I" and s.rolling_back):
        note(w, c"o", <uint8_t> <size_t> s.io)
        free_server(w, <int> <size_t> s.io)
    elif s.xact_status != c"I":
        s.rolling_back = True
        check(relay_script(&relay, s, &ROLLBACK) == 0, "no memory for ROLLBACK")
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


# ------------------------------------------------------------------- invariants

cdef void check_world(World *w) noexcept nogil:
    cdef uint32_t idle = 0
    cdef uint32_t waiting = 0
    cdef uint32_t active = 0
    cdef uint32_t tested = 0
    cdef ServerSession *s = w.pool.idle_head
    cdef ClientSession *c = w.pool.waiting_head
    cdef int i
    while s != NULL:
        check(s.state == SERVER_IDLE and s.client == NULL, "idle, but with a client")
        check(
            s.requests.head == s.requests.tail and s.xact_status == c"I",
            "an idle server owes something",
        )
        idle += 1
        s = s.next
    while c != NULL:
        check(c.state == CLIENT_WAITING and c.server == NULL, "waits with a server")
        waiting += 1
        c = c.next
    for i in range(SERVERS):
        s = w.servers[i]
        if s != NULL:
            check((s.state == SERVER_ACTIVE) == (s.client != NULL), "active, no client")
            check(s.client == NULL or s.client.server == s, "a link of one side")
            active += s.state == SERVER_ACTIVE
            tested += s.state == SERVER_TESTED
    check(idle == w.pool.idle_count, "idle_count")
    check(waiting == w.pool.waiting_count, "waiting_count")
    check(active == w.pool.active_count, "active_count")
    check(tested == w.pool.tested_count, "tested_count")


cdef void note_world(World *w) noexcept nogil:
    """What must be the same at the end, however the bytes were cut."""
    cdef ServerSession *s
    cdef uint32_t k
    cdef int i
    for i in range(CLIENTS):
        note(w, c"C", 255 if w.clients[i] == NULL else w.clients[i].state)
    for i in range(SERVERS):
        s = w.servers[i]
        note(w, c"S", 255 if s == NULL else s.state)
        if s != NULL:
            note(w, s.xact_status, s.copy_in)
            for k in range(s.requests.head, s.requests.tail):
                note(w, c"r", requests_at(&s.requests, k)[0])


trace = "POOLER_FUZZ_TRACE" in os.environ
params_init(&relay.params)
for name in ("application_name", "DateStyle"):
    params_track(&relay.params, name.encode(), False)
