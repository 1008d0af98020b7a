# SPDX-License-Identifier: MIT
"""Pool and relay against a model, with servers that behave as PostgreSQL does.

``FakePostgres`` answers what it is sent and knows for whom, so it decides what the
relay has to find out from bytes: whether a server owes its client anything. The
model of the pool predicts every byte that leaves, for either side, in each step.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from pooler.session.records import ClientState, ServerState
from tests import feeding as f
from tests.reference import wire_ref

pytestmark = pytest.mark.usefixtures("probe")

HIDDEN, ASYNC = -1, -2  # owners of messages that are no client's
MAX_SERVERS = 4
TRACKED = ("application_name", "DateStyle")
SERVER_VALUES = [b"", b"ISO, MDY"]
OWN_WORDS = {b"iso": b"ISO, MDY"}
REFUSED = b"refused"
QUESTION = f.query("SELECT set_config()")
SET_ITEM = re.compile(rb"SET (\w+)(?: TO (DEFAULT)|=E'((?:[^'\\]|''|\\\\)*)');")
LOCAL = "Hdcf"
CLIENT_RULES = wire_ref.rules_of("client")


@dataclass
class Said:
    """A message of a server on its way through the relay."""

    data: bytes
    owner: int
    taken: int = 0  # bytes that the relay has consumed
    client: int | None = None  # who gets it, known once its header is consumed

    @property
    def code(self) -> str:
        return chr(self.data[0])


class FakePostgres:
    """One server process: "Message Flow" of the PostgreSQL documentation."""

    def __init__(self) -> None:
        self.inbox = b""
        self.said: deque[Said] = deque()
        self.held = 0  # bytes fed to the relay that it gave back
        self.author = ASYNC
        self.status = "I"
        self.in_batch = False  # extended messages since the last ReadyForQuery
        self.skip = False  # to the next Sync
        self.copy = ""  # "simple" or "extended" while a COPY is open
        self.copy_unended = False  # the client has not said that it knows of its end
        self.abort_copy = False
        self.values = list(SERVER_VALUES)
        self.text = ""
        self.known = list(SERVER_VALUES)  # what the relay knows of self.values
        self.client: int | None = None

    def take(self, data: bytes, author: int) -> None:
        self.inbox += data
        end = 0
        for seen in wire_ref.walk(CLIENT_RULES, self.inbox):
            assert isinstance(seen, wire_ref.Seen)
            if seen.end > len(self.inbox):
                break
            end = seen.end
            body = self.inbox[seen.start + 5 : end]
            self.author = HIDDEN if body.startswith(b"SET ") else author
            self.handle(seen.row.code, body)
        self.inbox = self.inbox[end:]

    def say(self, *messages: bytes) -> None:
        self.said.extend(Said(data, self.author) for data in messages)

    def handle(self, code: str, body: bytes) -> None:
        assert code != "X", "Terminate must not reach a server"
        if code not in "Hd" and not (self.copy and code == "S"):
            self.copy_unended = False
        if self.copy:
            assert code in "dcfHS", "the model's clients end a COPY first"
            self.copy_message(code)
        elif self.skip and code != "S":
            return
        elif code in "PBDEC":
            self.in_batch = True
            self.extended(code, body)
        elif code == "Q":
            if self.author == HIDDEN:
                self.set_values(body)
            elif not self.execute(body[:-1].decode(), "simple"):
                return
            self.ready()
        elif code == "F":
            self.say(f.FUNCTION_RESPONSE)
            self.ready()
        elif code == "S":
            self.ready()

    def ready(self) -> None:
        self.skip = self.in_batch = False
        self.say(f.ready(self.status))

    def fail(self, way: str) -> None:
        self.say(f.error())
        self.status = "I" if self.status == "I" else "E"
        self.skip = way == "extended"

    def extended(self, code: str, body: bytes) -> None:
        if code == "P":
            self.text = body.split(b"\0")[1].decode()
            if self.text == "syntax":
                self.fail("extended")
                return
        if code == "E":
            self.execute(self.text, "extended")
        elif code == "D" and self.text == "select":
            self.say(f.ROW_DESCRIPTION)
        else:
            complete = {"P": "1", "B": "2", "C": "3", "D": "n"}
            self.say(f.message(complete[code]))

    def execute(self, text: str, way: str) -> bool:
        """Run a statement; False when a COPY is open now."""
        if text in ("error", "syntax") or (self.status == "E" and text != "commit"):
            self.fail(way)
        elif text in ("copyin", "copyabort"):
            self.copy = way
            self.copy_unended = True
            self.abort_copy = text == "copyabort"
            self.say(f.COPY_IN)
            return False
        elif text == "empty":
            self.say(f.EMPTY_QUERY)
        elif text == "suspend" and way == "extended":
            self.say(f.row(), f.PORTAL_SUSPENDED)
        else:
            if text in ("begin", "commit"):
                self.status = "T" if text == "begin" else "I"
            elif text == "notice":
                self.say(f.NOTICE)
            elif text == "report":
                self.report(0, b"reported")
            elif text == "copyout":
                self.say(f.COPY_OUT, f.copy_data(), f.COPY_DONE)
            elif text == "select" and way == "simple":
                self.say(f.ROW_DESCRIPTION, f.row())
            self.say(f.COMPLETE)
        return True

    def copy_message(self, code: str) -> None:
        if code in "HS" or (code == "d" and not self.abort_copy):
            return
        way, self.copy = self.copy, ""
        if code == "c":
            self.say(f.COMPLETE)
        else:
            self.fail(way)
        if way == "simple":
            self.ready()

    def report(self, index: int, value: bytes) -> None:
        if self.values[index] != value:
            self.values[index] = value
            self.say(f.parameter(TRACKED[index], value.decode()))

    def set_values(self, body: bytes) -> None:
        items = SET_ITEM.findall(body)
        assert b"".join(m.group(0) for m in SET_ITEM.finditer(body)) == body[:-1]
        for name, default, escaped in items:
            index = TRACKED.index(name.decode())
            value = SERVER_VALUES[index] if default else escaped
            value = value.replace(b"''", b"'").replace(b"\\\\", b"\\")
            if value == REFUSED:
                self.fail("simple")
                return
            self.report(index, OWN_WORDS.get(value, value))
            self.say(f.COMPLETE)

    def owes_nothing(self) -> bool:
        return (
            not any(m.owner != ASYNC or m.taken for m in self.said)
            and self.status == "I"
            and not (self.inbox or self.held or self.in_batch or self.skip)
            and not (self.copy or self.copy_unended)
        )


@dataclass
class Client:
    values: list[bytes | None]
    todo: bytes = b""  # sent by the client, not yet fed
    held: bytes = b""  # fed, not yet consumed
    body_left: int = 0
    server: int | None = None
    aligning: bool = False
    leaving: bool = False  # said Terminate
    copy: str = ""  # a COPY that it has begun and not ended
    got: bytearray = field(default_factory=bytearray)


TEXTS = st.sampled_from(
    ["select", "error", "begin", "commit", "notice", "report", "copyout", "empty"]
)
BATCH_TEXTS = st.one_of(TEXTS, st.sampled_from(["syntax", "suspend"]))
COPY_TEXTS = st.sampled_from(["copyin", "copyabort"])
COPY_ENDS = st.sampled_from([f.COPY_DONE, f.COPY_FAIL])
COPY_ROWS = st.integers(0, 2).map(lambda n: f.copy_data() * n)
STRAYS = [f.SYNC, f.FLUSH, f.CLOSE + f.SYNC, f.CLOSE + f.FLUSH, f.FUNCTION_CALL]
STRAYS += [f.copy_data(b"x" * 9), f.COPY_DONE, f.COPY_FAIL]
COPY_BATCHES = COPY_TEXTS.map(f.batch)
REQUESTS = st.one_of(
    TEXTS.map(f.query),
    BATCH_TEXTS.map(lambda text: f.batch(text) + f.SYNC),
    BATCH_TEXTS.map(lambda text: f.batch(text) + f.FLUSH),
    BATCH_TEXTS.map(lambda text: f.batch(text) + f.query("select")),
    st.sampled_from(STRAYS),
    st.builds(lambda *m: b"".join(m), COPY_TEXTS.map(f.query), COPY_ROWS, COPY_ENDS),
    st.builds(
        lambda copy, early, rows, end: copy + early + rows + end + f.SYNC,
        COPY_BATCHES,
        st.sampled_from([b"", f.SYNC]),
        COPY_ROWS,
        COPY_ENDS,
    ),
)
PARAMETERS = st.tuples(
    st.sampled_from([None, b"", b"", b"a'b", b"\\x"]),
    st.sampled_from([None, b"ISO, MDY", b"ISO, MDY", b"iso", b"German", REFUSED]),
)
PICK = st.integers(0, 5)
LEAVERS = st.sampled_from(["goodbye", "client", "server", "idle server"])
SELDOM = st.integers(0, 3).map(lambda n: n == 3)  # so that sessions live long enough
SIZES = st.one_of(st.just(1 << 16), st.integers(1, 80))


class PoolMachine(RuleBasedStateMachine):
    bench: Any = None
    client_n = server_n = 0  # ever added
    resuming: int | None = None

    @initialize(servers=st.integers(0, 2), clients=st.integers(1, 3))
    def start(self, servers: int, clients: int) -> None:
        import tests.ext._probe as _probe

        self.bench = _probe.Bench(MAX_SERVERS, TRACKED)
        self.clients: dict[int, Client] = {}
        self.servers: dict[int, FakePostgres] = {}
        self.idle: list[int] = []  # most recently used first
        self.orphans: set[int] = set()  # servers that have to go
        self.waiting: list[int] = []
        self.accepted: set[tuple[bytes | None, ...]] = set()
        for _ in range(servers):
            self.add_server()
        for _ in range(clients):
            self.add_client((b"", b"ISO, MDY"))

    # ---------------------------------------------------------------- the model

    def client_step(self, i: int, new: bytes, got: tuple[Any, ...]) -> None:
        """What the relay must do with a client's bytes; then its server acts."""
        c = self.clients[i]
        if c.aligning:
            assert got == (c.server, b"", "aligning")
            c.held += new
            return
        data = c.held + new
        at = min(c.body_left, len(data))
        c.body_left -= at
        want = data[:at] if c.server is not None else b""
        status = "ok"
        while len(data) - at >= 5:
            code = chr(data[at])
            end = at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")
            if code == "X":
                status = "terminate"
                break
            if c.server is None and code not in LOCAL:
                if not self.idle or self.waiting[:1] not in ([], [i]):
                    status = "wait"
                    if i not in self.waiting:
                        self.waiting.append(i)
                    break
                want += self.attach(i)
                if want and got[2] == "align":
                    status = "align"
                    c.aligning = True
                    break
                assert not want or tuple(c.values) in self.accepted
            if c.server is not None:
                want += data[at:end]
            at = end
        c.body_left += max(0, at - len(data))
        c.leaving = c.leaving or status == "terminate"
        c.held = b"" if c.leaving else data[at:]
        if c.leaving and got[1] == want + f.FLUSH:
            want += f.FLUSH  # ours: it asks for what the client may still be owed
        assert got == (c.server, want, status)
        if c.server is not None:
            self.servers[c.server].take(want, i)
            self.settle(c.server)

    def attach(self, i: int) -> bytes:
        """Link a client and the first idle server; returns the SET in between."""
        c = self.clients[i]
        if i in self.waiting:
            self.waiting.remove(i)
        c.server = self.idle.pop(0)
        s = self.servers[c.server]
        s.client = i
        items = b""
        for name, want, have in zip(TRACKED, c.values, s.known, strict=True):
            if want is not None and want != have:
                if name == "DateStyle" and b"," not in want:  # a part of one
                    items += b"SET DateStyle TO DEFAULT;"
                escaped = want.replace(b"\\", b"\\\\").replace(b"'", b"''")
                items += b"SET " + name.encode() + b"=E'" + escaped + b"';"
        if items:
            return f.query(items)
        c.values = list(s.known)  # it has no opinion on what differs
        return b""

    def settle(self, i: int) -> None:
        """A server that owes its client nothing must be released, no other."""
        s = self.servers[i]
        if s.client is None or not s.owes_nothing():
            return
        c = self.clients[s.client]
        if not c.body_left and not c.aligning:
            c.server = s.client = None
            self.idle.insert(0, i)

    def server_step(self, i: int, n: int) -> None:
        """Feed the next n bytes of a server, and check who gets what."""
        s = self.servers[i]
        client = s.client
        unread = b"".join(m.data[m.taken :] for m in s.said)[s.held :]
        got = self.bench.server_feed(i, unread[:n])
        avail = s.held + min(n, len(unread))
        want = b""
        status = "ok"
        while s.said and avail:
            m = s.said[0]
            if not m.taken:
                if avail < (len(m.data) if m.code in "ZSC" else 5):
                    break
                self.begin_message(s, m)
            take = min(avail, len(m.data) - m.taken)
            if m.client is not None:
                want += m.data[m.taken : m.taken + take]
            m.taken += take
            avail -= take
            if m.owner == HIDDEN and m.code == "E":
                want += m.data
                status = "align_failed"
                break
            if m.taken == len(m.data):
                s.said.popleft()
                if m.owner == HIDDEN and m.code == "Z":
                    want += self.aligned(s)
        s.held = avail if status == "ok" else 0
        assert got == (client, want, status)
        if client is not None:
            self.clients[client].got += want
        self.follow(i)

    def begin_message(self, s: FakePostgres, m: Said) -> None:
        """Who gets a message is decided when its header is consumed."""
        hidden = any(other.owner == HIDDEN for other in s.said)
        if m.owner == ASYNC:
            m.client = None if hidden else s.client
        elif m.owner != HIDDEN:
            m.client = m.owner
            assert s.client == m.owner, "an answer outlived the link to its client"
        if m.code == "S":
            name, value = m.data[5:-1].split(b"\0")
            index = TRACKED.index(name.decode())
            s.known[index] = value
            if m.client is not None:
                self.clients[m.client].values[index] = value
                self.accepted.add(tuple(self.clients[m.client].values))

    def aligned(self, s: FakePostgres) -> bytes:
        """The SET is done: what the client is told of its values."""
        assert s.client is not None
        c = self.clients[s.client]
        self.accepted |= {tuple(c.values), tuple(s.known)}
        told = b"".join(
            f.parameter(name, new.decode())
            for name, old, new in zip(TRACKED, c.values, s.known, strict=True)
            if old != new
        )
        c.values = list(s.known)
        c.aligning, resumed = False, c.aligning
        if resumed:
            self.resuming = s.client
        return told

    def follow(self, i: int | None = None) -> None:
        """After every step: a resumed client, its server, then all others, in order."""
        events = self.bench.take_events()
        if self.resuming is not None:
            kind, client, *got = events.pop(0)
            assert (kind, client) == ("woken", self.resuming)
            self.resuming = None
            self.client_step(client, b"", tuple(got))
        if i is not None and i in self.servers:
            self.settle(i)
        for kind, *event in events:
            if kind == "woken":
                client, *got = event
                assert self.waiting[:1] == [client], "waiters are served in order"
                self.client_step(client, b"", tuple(got))
            elif event[0] == "client":
                self.client_gone(event[1], event[2])
            else:
                self.server_gone(event[1])
        assert not (self.waiting and self.idle), "a client waits beside an idle server"
        assert not self.orphans, "a server was left as its client has left it"
        for n, c in self.clients.items():
            assert not c.leaving or self.has_to_wait(n), "it could have left"

    def has_to_wait(self, i: int) -> bool:
        """Whether a client that has said goodbye is still owed something."""
        c = self.clients[i]
        if c.server is None:
            return False
        s = self.servers[c.server]
        if s.copy and not any(m.code == "G" and not m.taken for m in s.said):
            return False
        return any(m.owner != ASYNC or m.taken for m in s.said)

    def client_gone(self, i: int, how: str) -> None:
        c = self.clients[i]
        if how == "terminate":
            assert c.leaving
            assert not self.has_to_wait(i)
        del self.clients[i]
        if i in self.waiting:
            self.waiting.remove(i)
        if c.server is None:
            return
        s = self.servers[c.server]
        s.client = None
        if s.owes_nothing() and not c.body_left:
            self.idle.insert(0, c.server)
        else:
            self.orphans.add(c.server)

    def server_gone(self, i: int) -> None:
        s = self.servers.pop(i)
        self.orphans.discard(i)
        if s.client is not None:
            self.clients[s.client].server = None
        if i in self.idle:
            self.idle.remove(i)

    def lose_client(self, i: int) -> None:
        self.bench.drop_client(i)
        self.follow()
        assert i not in self.clients

    def lose_server(self, i: int) -> None:
        """Its client goes as well."""
        client = self.servers[i].client
        assert self.bench.end_server(i) == client
        self.follow()
        assert i not in self.servers
        assert client not in self.clients

    def pick(self, table: dict[int, Any], number: int) -> int:
        return sorted(table)[number % len(table)]

    def knows_all(self, c: Client) -> bool:
        """Whether a client has seen every answer, so it knows that its COPY is over."""
        if c.todo or c.held or c.body_left or c.server is None:
            return not (c.todo or c.held or c.body_left)
        s = self.servers[c.server]
        return not s.copy and not any(m.owner != ASYNC for m in s.said)

    # ---------------------------------------------------------------- the rules

    @precondition(lambda self: len(self.clients) < 6)
    @rule(values=PARAMETERS)
    def add_client(self, values: tuple[bytes | None, ...]) -> None:
        self.clients[self.bench.add_client(values)] = Client(list(values))
        self.client_n += 1

    @precondition(lambda self: len(self.servers) < MAX_SERVERS)
    @rule()
    def add_server(self) -> None:
        i = self.bench.add_server(SERVER_VALUES)
        self.server_n += 1
        self.servers[i] = FakePostgres()
        self.idle.insert(0, i)
        self.follow()

    @precondition(lambda self: self.clients)
    @rule(
        pick=PICK,
        requests=st.lists(REQUESTS, min_size=1, max_size=3),
        copy=st.one_of(st.just(b""), COPY_TEXTS.map(f.query), COPY_BATCHES),
        early=st.booleans(),
        size=SIZES,
    )
    def ask(
        self, pick: int, requests: list[bytes], copy: bytes, early: bool, size: int
    ) -> None:
        """A pipeline of requests; the last may be a COPY that stays open."""
        c = self.clients[self.pick(self.clients, pick)]
        if not c.leaving and (not c.copy or self.knows_all(c)):
            c.copy = "" if not copy else "simple" if copy[:1] == b"Q" else "extended"
            c.todo += b"".join(requests) + copy
            c.todo += f.SYNC if early and c.copy == "extended" else b""
            self.feed(pick, size)

    @precondition(lambda self: any(c.copy for c in self.clients.values()))
    @rule(pick=PICK, rows=COPY_ROWS, end=COPY_ENDS, size=SIZES)
    def end_copy(self, pick: int, rows: bytes, end: bytes, size: int) -> None:
        c = self.clients[self.pick(self.clients, pick)]
        if c.copy and not c.leaving:
            c.todo += f.FLUSH + rows + end + (f.SYNC if c.copy == "extended" else b"")
            c.copy = ""
            self.feed(pick, size)

    @precondition(lambda self: self.clients)
    @rule(pick=PICK, size=SIZES)
    def feed(self, pick: int, size: int) -> None:
        """A piece of what a client has sent arrives."""
        i = self.pick(self.clients, pick)
        c = self.clients[i]
        new, c.todo = c.todo[:size], c.todo[size:]
        if new and not c.leaving:
            self.client_step(i, new, self.bench.client_feed(i, new))
            self.follow()

    @precondition(lambda self: any(s.said for s in self.servers.values()))
    @rule(pick=PICK, size=SIZES)
    def answer(self, pick: int, size: int) -> None:
        """A piece of what a server has said arrives.

        The refusal of a SET comes whole; test_relay has it in pieces.
        """
        said = {i: s for i, s in self.servers.items() if s.said}
        i = self.pick(said, pick)
        s = said[i]
        end = -s.held
        for m in s.said:
            start, end = end, end + len(m.data) - m.taken
            if m.owner == HIDDEN and m.code == "E" and start < size:
                size = max(size, end)
        self.server_step(i, size)

    @precondition(lambda self: self.servers)
    # What is back at the server's own value counts as a RESET inside of a function: its
    # client gets its own again (tests/integration/test_reset.py).
    @rule(pick=PICK, what=st.sampled_from(["N", "A", "German", "SQL, DMY"]))
    def unasked(self, pick: int, what: str) -> None:
        s = self.servers[self.pick(self.servers, pick)]
        s.author = ASYNC
        if len(what) > 1:
            s.report(1, what.encode())
        else:
            s.say({"N": f.NOTICE, "A": f.NOTIFICATION}[what])

    @precondition(lambda self: self.clients)
    @rule(pick=PICK, request=REQUESTS)
    def ask_and_answer(self, pick: int, request: bytes) -> None:
        """Everything that is under way arrives, so that servers are released."""
        self.ask(pick, [request], b"", False, 1 << 16)
        for i in list(self.servers):
            if i in self.servers and self.servers[i].said:
                self.server_step(i, 1 << 16)

    @rule()
    def inquire(self) -> None:
        """An idle server answers a question of ours, and stands where it stood."""
        s = self.servers[self.idle[0]] if self.idle else None
        if s is None or self.waiting or (s.said and s.said[0].taken):
            assert not self.bench.inquire(QUESTION)
        elif not s.said:
            assert self.bench.inquire(QUESTION)
            got = self.bench.server_feed(self.idle[0], f.SELECTED)
            assert got == (None, b"", "ok")
            assert self.bench.take_inquiries() == [f.SELECTED]

    @precondition(lambda self: self.clients and self.servers)
    @rule(pick=PICK, who=LEAVERS, now=SELDOM)
    def leave(self, pick: int, who: str, now: bool) -> None:
        if not now:
            return
        if who == "goodbye":
            self.clients[self.pick(self.clients, pick)].todo += f.TERMINATE
            self.feed(pick, 1 << 16)
        elif who == "client":
            self.lose_client(self.pick(self.clients, pick))
        elif who == "server":
            self.lose_server(self.pick(self.servers, pick))
        elif self.idle and not self.servers[self.idle[0]].said:
            i = self.idle[0]
            got = self.bench.server_feed(i, f.error("bye", "FATAL", "57P01"))
            assert got == (None, b"", "server_dead")
            self.follow()
            assert i not in self.servers

    # ----------------------------------------------------------- the invariants

    @invariant()
    def links_lead_both_ways(self) -> None:
        for i, c in self.clients.items():
            state, server, held = self.bench.client_state(i)
            assert (server, held) == (c.server, len(c.held))
            assert state == (
                ClientState.CLIENT_WAITING
                if i in self.waiting
                else ClientState.CLIENT_IDLE
                if server is None
                else ClientState.CLIENT_ACTIVE
            )
            if server is not None:
                assert self.bench.server_state(server)[1] == i
        for i, s in self.servers.items():
            state, client, requests = self.bench.server_state(i)
            assert client == s.client
            assert state == (
                ServerState.SERVER_IDLE if client is None else ServerState.SERVER_ACTIVE
            )
            if client is None:
                assert requests == b""
            else:
                assert self.bench.client_state(client)[1] == i

    @invariant()
    def counts_are_the_lengths_of_the_lists(self) -> None:
        assert self.bench.lists() == (self.idle, self.waiting)
        room = MAX_SERVERS - len(self.servers)
        assert self.bench.counts() == {
            "idle": len(self.idle),
            "active": len(self.servers) - len(self.idle),
            "waiting": len(self.waiting),
            "servers": len(self.servers),
            "clients": len(self.clients),
            "wanted": min(len(self.waiting), room),
        }

    @invariant()
    def clients_see_whole_messages(self) -> None:
        for c in self.clients.values():
            assert wire_ref.scan("server", bytes(c.got)).failed is None

    def teardown(self) -> None:
        """When everybody has left, no parameter value is left behind.

        Asks the bench only: the model may be wrong here, after a failure.
        """
        for i in range(self.client_n):
            if self.bench.client_state(i)[0] != ClientState.CLIENT_CLOSED:
                self.bench.drop_client(i)
        for i in range(self.server_n):
            if self.bench.server_state(i)[0] != ServerState.SERVER_CLOSED:
                self.bench.drop_server(i)
        if self.bench is not None:
            assert self.bench.parameter_counts() == (0, 0)


TestPoolMachine = PoolMachine.TestCase
# One failure at a time: to shrink several takes minutes.
TestPoolMachine.settings = settings(stateful_step_count=50, report_multiple_bugs=False)
