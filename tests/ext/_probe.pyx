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

from pooler.wire.buffers cimport (
    output_clear, queue_add, queue_keep, queue_reset, queue_size,
)
from pooler.tables.params cimport (
    ParamSet, params_empty, params_free, params_init, params_track, params_unref,
    params_with,
)
from pooler.session.pool cimport (
    pool_add_client, pool_add_server, pool_detach, pool_remove_client,
    pool_remove_server, pool_servers_wanted,
)
from pooler.relay.common cimport (
    RELAY_ALIGN, RELAY_ALIGN_FAILED, RELAY_CLIENT_PROTO, RELAY_NO_MEMORY, RELAY_OK,
    RELAY_SERVER_DEAD, RELAY_SERVER_PROTO, RELAY_TERMINATE, RELAY_WAIT, Relay,
    RelayStatus,
)
from pooler.relay.from_server cimport relay_server_bytes
from pooler.relay.from_client cimport relay_client_bytes
from pooler.statements.effects cimport session_statements_free
from pooler.session.records cimport (
    CLIENT_LOGIN, ClientSession, Pool, SERVER_ACTIVE, ServerSession, requests_at,
    requests_free, requests_init, server_has, server_is_free, set_client_state,
)
from pooler.statements.sql_text cimport (
    SqlCommand, sql_concerns, sql_is_stable, sql_next,
)
from pooler.tables.statements cimport (
    ClientStatement, ClientStatements, ServerStatement, client_statements_free,
    statements_free, statements_init,
)
from pooler._wire cimport (
    CLIENT_RULES, Found, IDLE_SERVER_RULES, Rule, SCAN_END, SCAN_EPROTO, SCAN_MESSAGE,
    SERVER_RULES, ScanState, ScanStatus, error_is_fatal, error_response_bytes,
    put_error_response, scan_next,
)

STATUS_NAMES = {
    <int> RELAY_OK: "ok",
    <int> RELAY_WAIT: "wait",
    <int> RELAY_ALIGN: "align",
    <int> RELAY_TERMINATE: "terminate",
    <int> RELAY_CLIENT_PROTO: "client_proto",
    <int> RELAY_SERVER_PROTO: "server_proto",
    <int> RELAY_SERVER_DEAD: "server_dead",
    <int> RELAY_ALIGN_FAILED: "align_failed",
    <int> RELAY_NO_MEMORY: "no_memory",
}


def scan(str rules_name, chunks):
    """Scan ``chunks`` with the rules of "client", "server" or "idle_server".

    Returns (events, failed, body_left, held): events are (type byte, absolute offset,
    length) of messages that have flags; ``failed`` is the absolute offset of a bad
    header or None; ``held`` is how many bytes were given back at the end.
    """
    cdef const Rule *rules = (
        &CLIENT_RULES[0] if rules_name == "client"
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


SQL_VERBS = ("other", "prepare", "execute", "deallocate", "forget all")


def sql_commands(bytes text):
    """``sql_next`` to the end: (verb, name, how it is written, end) of each."""
    cdef SqlCommand command
    cdef size_t pos = 0
    cdef const uint8_t *p = <const uint8_t *> <const char *> text
    commands = []
    if not sql_concerns(p, len(text)):
        return commands
    while sql_next(p, len(text), &pos, &command):
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


def is_stable_text(bytes text):
    """``sql_is_stable``."""
    return bool(sql_is_stable(<const uint8_t *> <const char *> text, len(text)))


def is_fatal(bytes body):
    """``error_is_fatal`` of an ErrorResponse body."""
    return bool(error_is_fatal(<const uint8_t *> <const char *> body, len(body)))


cdef class Bench:
    """One pool without sockets. Clients and servers are named by index."""

    cdef Relay relay
    cdef Pool pool
    cdef ClientSession *clients[64]
    cdef ServerSession *servers[64]
    cdef int client_n
    cdef int server_n
    cdef readonly list woken  # (client, server, to_server, status) of resumed clients
    cdef list sent  # ("client" or "server", index, bytes) in the order of sending

    def __cinit__(
        self, int max_servers=4, tracked=("application_name", "DateStyle"),
        uint32_t max_prepared_statements=0,
    ):
        memset(&self.relay, 0, sizeof(Relay))
        memset(&self.pool, 0, sizeof(Pool))
        self.pool.max_servers = max_servers
        self.pool.max_prepared_statements = max_prepared_statements
        self.client_n = self.server_n = 0
        params_init(&self.relay.params)
        statements_init(&self.relay.statements, &self.relay.params, b"p_")
        self.relay.statements.cache_unnamed = True
        for name in tracked:
            params_track(&self.relay.params, name.encode(), False)
        self.woken = []
        self.sent = []

    def __dealloc__(self):
        cdef int i
        for i in range(self.client_n):
            queue_reset(&self.clients[i].stream.held)
            queue_reset(&self.clients[i].stream.out)
            client_statements_free(
                &self.relay.statements, self.clients[i].statements
            )
            free(self.clients[i])
        for i in range(self.server_n):
            queue_reset(&self.servers[i].stream.held)
            queue_reset(&self.servers[i].stream.out)
            requests_free(&self.servers[i].requests)
            self.servers[i].client = NULL
            session_statements_free(&self.relay.statements, self.servers[i])
            free(self.servers[i])
        free(self.relay.to_client.scratch)
        free(self.relay.to_server.scratch)
        statements_free(&self.relay.statements)
        params_free(&self.relay.params)

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

    def add_client(self, parameters=()):
        """A client that has logged in; returns its index."""
        cdef ClientSession *c = <ClientSession *> calloc(1, sizeof(ClientSession))
        assert self.client_n < 64
        c.io = <void *> <size_t> self.client_n
        set_client_state(c, CLIENT_LOGIN)
        c.params = self.values(parameters)
        pool_add_client(&self.pool, c)
        self.clients[self.client_n] = c
        self.client_n += 1
        return self.client_n - 1

    def add_server(self, parameters=()):
        """A server that has logged in; returns its index. Waiting clients go on."""
        cdef ServerSession *s = <ServerSession *> calloc(1, sizeof(ServerSession))
        assert self.server_n < 64
        s.io = <void *> <size_t> self.server_n
        s.xact_status = c"I"
        s.params = self.values(parameters)
        requests_init(&s.requests)
        s.tracked = self.pool.max_prepared_statements != 0
        pool_add_server(&self.pool, s)
        self.servers[self.server_n] = s
        self.server_n += 1
        self.wake()
        return self.server_n - 1

    cdef tuple client_bytes(self, ClientSession *c, bytes data):
        cdef size_t consumed = 0
        cdef RelayStatus status
        output_clear(&self.relay.to_client)
        output_clear(&self.relay.to_server)
        status = relay_client_bytes(
            &self.relay, c, <const uint8_t *> <const char *> data, len(data), &consumed
        )
        assert consumed <= len(data)
        to_server = PyBytes_FromStringAndSize(
            <const char *> self.relay.to_server.data, self.relay.to_server.n
        )
        self.note_sent(c, c.server)
        rest = data[consumed:]
        queue_keep(
            &c.stream.held, <const uint8_t *> <const char *> rest, len(rest)
        )
        server = None if c.server == NULL else <int> <size_t> c.server.io
        if c.server != NULL:
            self.settle(c.server)
        return server, to_server, STATUS_NAMES[<int> status]

    def client_feed(self, int i, bytes data):
        """Bytes from a client: (server or None, bytes for it, status).

        As in the engine, a client that is held back until an answer comes is not read:
        its bytes are held, and the status is "aligning".
        """
        cdef ClientSession *c = self.clients[i]
        if c.aligning or c.settling:
            assert queue_add(
                &c.stream.held, <const uint8_t *> <const char *> data, len(data)
            ) == 0
            return <int> <size_t> c.server.io, b"", "aligning"
        out = self.client_bytes(c, self.take_held(c) + data)
        self.wake()
        return out

    cdef bytes take_held(self, ClientSession *c):
        cdef bytes held = b""
        if c.stream.held.cap:
            held = PyBytes_FromStringAndSize(
                <const char *> c.stream.held.data + c.stream.held.start,
                queue_size(&c.stream.held),
            )
            queue_reset(&c.stream.held)
        return held

    def server_feed(self, int i, bytes data):
        """Bytes from a server: (client or None, bytes for it, status)."""
        cdef ServerSession *s = self.servers[i]
        cdef ClientSession *c = s.client
        cdef size_t consumed = 0
        cdef RelayStatus status
        cdef bytes held = b""
        if s.stream.held.cap:
            held = PyBytes_FromStringAndSize(
                <const char *> s.stream.held.data + s.stream.held.start,
                queue_size(&s.stream.held),
            )
            queue_reset(&s.stream.held)
        data = held + data
        output_clear(&self.relay.to_client)
        output_clear(&self.relay.to_server)
        self.relay.resume = False
        status = relay_server_bytes(
            &self.relay, s, <const uint8_t *> <const char *> data, len(data), &consumed
        )
        assert consumed <= len(data)
        to_client = PyBytes_FromStringAndSize(
            <const char *> self.relay.to_client.data, self.relay.to_client.n
        )
        self.note_sent(c, s)
        rest = data[consumed:]
        queue_keep(&s.stream.held, <const uint8_t *> <const char *> rest, len(rest))
        client = None if c == NULL else <int> <size_t> c.io
        if self.relay.resume:
            held = self.take_held(c)
            self.woken.append((client, *self.client_bytes(c, held)))
        self.settle(s)
        self.wake()
        return client, to_client, STATUS_NAMES[<int> status]

    cdef void settle(self, ServerSession *s):
        if s.state == SERVER_ACTIVE and s.client != NULL and server_is_free(s):
            pool_detach(&self.pool, s)

    cdef wake(self):
        cdef ClientSession *c
        while self.pool.waiting_head != NULL and self.pool.idle_head != NULL:
            c = self.pool.waiting_head
            held = self.take_held(c)
            self.woken.append((<int> <size_t> c.io, *self.client_bytes(c, held)))
            assert self.pool.waiting_head != c, "a woken client must leave the queue"

    def take_woken(self):
        """Clients that went on since the last call, in order."""
        woken = self.woken
        self.woken = []
        return woken

    def drop_client(self, int i):
        """A client is gone: its server is reused when clean, else dropped too.

        Returns the index of a server that was dropped, or None.
        """
        cdef ClientSession *c = self.clients[i]
        cdef ServerSession *s = c.server
        dropped = None
        c.aligning = False
        if s != NULL:
            if server_is_free(s):
                pool_detach(&self.pool, s)
            else:
                dropped = <int> <size_t> s.io
                session_statements_free(&self.relay.statements, s)
                pool_remove_server(&self.pool, s)
                params_unref(&self.relay.params, s.params)
                s.params = NULL
        pool_remove_client(&self.pool, c)
        queue_reset(&c.stream.held)
        client_statements_free(&self.relay.statements, c.statements)
        c.statements = NULL
        params_unref(&self.relay.params, c.params)
        c.params = NULL
        self.wake()
        return dropped

    def drop_server(self, int i):
        """A server is gone; returns the client it had, left without one."""
        cdef ServerSession *s = self.servers[i]
        client = None if s.client == NULL else <int> <size_t> s.client.io
        session_statements_free(&self.relay.statements, s)
        pool_remove_server(&self.pool, s)
        params_unref(&self.relay.params, s.params)
        s.params = NULL
        return client

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

    cdef note_sent(self, ClientSession *c, ServerSession *s):
        """Remember what the relay's last call had for both sides."""
        if self.relay.to_server.n and s != NULL:
            self.sent.append(("server", <int> <size_t> s.io, PyBytes_FromStringAndSize(
                <const char *> self.relay.to_server.data, self.relay.to_server.n
            )))
        if self.relay.to_client.n and c != NULL:
            self.sent.append(("client", <int> <size_t> c.io, PyBytes_FromStringAndSize(
                <const char *> self.relay.to_client.data, self.relay.to_client.n
            )))

    def take_sent(self):
        """Everything that the relay had to send since the last call, in order."""
        sent = self.sent
        self.sent = []
        return sent

    def limit_statements(
        self, uint32_t client_count=0, uint64_t client_bytes=0, uint64_t total_bytes=0,
        bint cache_unnamed=True,
    ):
        """Limits of prepared statements; 0 is none."""
        self.relay.statements.max_client_count = client_count
        self.relay.statements.max_client_bytes = client_bytes
        self.relay.statements.max_bytes = total_bytes
        self.relay.statements.cache_unnamed = cache_unnamed

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
        return bool(self.servers[i].stray_statements)

    def statement_stats(self):
        """The pool's counters of prepared statements."""
        return {
            "client_parses": self.pool.client_parse_count,
            "server_parses": self.pool.server_parse_count,
            "binds": self.pool.bind_count,
            "hits": self.pool.parse_hit_count,
            "evictions": self.pool.eviction_count,
            "replays": self.pool.replay_count,
        }

    def counts(self):
        """The pool's own counts."""
        return {
            "idle": self.pool.idle_count,
            "active": self.pool.active_count,
            "waiting": self.pool.waiting_count,
            "servers": self.pool.server_count,
            "clients": self.pool.client_count,
            "wanted": pool_servers_wanted(&self.pool),
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
        return bool(self.servers[i].fatal_seen)

    def parameter_counts(self):
        """(interned values, interned sets)."""
        return self.relay.params.value_count, self.relay.params.set_count
