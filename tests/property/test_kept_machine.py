# SPDX-License-Identifier: MIT
"""What clients leave in servers: nobody else ever sees it, and nobody waits for it.

A server here knows by itself who has left something in its session, and what a client
has asked for says whose it is. Servers are opened, fail to open, retire and are lost;
the pool is paused; clients go by themselves or are lost at any moment.
"""

from __future__ import annotations

from collections import deque
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
from tests.wire_client import TERMINATE, message, query

pytestmark = pytest.mark.usefixtures("probe")

MAX_SERVERS = 3
MAX_CLIENTS = 5
TEXTS = ["select 1", "listen a", "load 'a'", "begin", "commit", "discard all"]
PICK = st.integers(0, 5)
FROM_US = ("DISCARD ALL", "ROLLBACK")


class Session:
    """A server: what it has to run, and whose the things are that are left in it."""

    def __init__(self) -> None:
        self.todo: deque[str] = deque()
        self.status = "I"
        self.left_by: str | None = None  # a client's number
        self.begun_by: str | None = None  # the same, when the transaction is over
        self.for_good = False

    def take(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            end = at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")
            if data[at : at + 1] == b"Q":
                self.todo.append(data[at + 5 : end - 1].decode())
            at = end

    def run(self) -> bytes:
        """Run the oldest request; its whole answer."""
        text, _, author = self.todo.popleft().partition(" -- ")
        if author:
            assert self.left_by in (None, author), "another client's things are seen"
            assert not self.for_good or author in (self.left_by, self.begun_by)
        else:
            assert text in FROM_US
        verb = text.split()[0].lower()
        if verb == "discard" and self.status == "I":
            assert author or not self.for_good, "cleaned, but it cannot be"
            self.left_by = author if self.for_good else None
        elif verb in ("listen", "load"):
            self.begun_by = author
            self.for_good = self.for_good or verb == "load"
        elif verb == "begin":
            self.status = "T"
        elif verb in ("commit", "rollback"):
            self.status = "I"
            if verb == "rollback" and not self.for_good:
                self.begun_by = None
        if self.status == "I" and self.begun_by is not None:
            self.left_by, self.begun_by = self.begun_by, None
        tag = "DISCARD ALL" if verb == "discard" else verb.upper()
        return message("C", tag.encode() + b"\0") + message("Z", self.status.encode())


class KeptMachine(RuleBasedStateMachine):
    bench: Any = None
    paused = False
    launched = 0  # how often servers were wanted, when last looked at
    connecting = 0

    @initialize(servers=st.integers(1, MAX_SERVERS), cancel=st.booleans())
    def start(self, servers: int, cancel: bool) -> None:
        import tests.ext._probe as _probe

        self.bench = _probe.Bench(
            MAX_SERVERS, (), 0, cancel_abandoned=cancel, clean_changed=True
        )
        self.sessions: dict[int, Session] = {}
        self.clients: list[int] = []
        for _ in range(servers):
            self.sessions[self.bench.add_server()] = Session()
        for _ in range(2):
            self.clients.append(self.bench.add_client())

    def follow(self) -> None:
        """What was sent arrives; who was closed is gone."""
        for kind, i, data in self.bench.take_sent():
            if kind == "server":
                self.sessions[i].take(data)
        for i in self.bench.take_cancels():
            self.bench.cancelled(i)
        for i in list(self.sessions):
            if self.bench.server_state(i)[0] == ServerState.SERVER_CLOSED:
                del self.sessions[i]
        self.clients = [i for i in self.clients if self.state(i) != "closed"]
        self.bench.take_events()

    def state(self, i: int) -> str:
        state = self.bench.client_state(i)[0]
        return "closed" if state == ClientState.CLIENT_CLOSED else ""

    # ---------------------------------------------------------------- the rules

    @precondition(lambda self: len(self.clients) < MAX_CLIENTS)
    @rule()
    def add_client(self) -> None:
        self.clients.append(self.bench.add_client())

    @precondition(lambda self: self.clients)
    @rule(pick=PICK, text=st.sampled_from(TEXTS))
    def ask(self, pick: int, text: str) -> None:
        i = self.clients[pick % len(self.clients)]
        if self.bench.client_state(i)[0] == ClientState.CLIENT_WAITING:
            return
        self.bench.client_feed(i, query(f"{text} -- {i}"))
        self.follow()

    @precondition(lambda self: any(s.todo for s in self.sessions.values()))
    @rule(pick=PICK)
    def answer(self, pick: int) -> None:
        busy = [i for i, s in self.sessions.items() if s.todo]
        i = busy[pick % len(busy)]
        self.bench.server_feed(i, self.sessions[i].run())
        self.follow()

    @rule(pick=PICK, text=st.sampled_from(TEXTS))
    def ask_and_answer(self, pick: int, text: str) -> None:
        """All that is under way is answered, so that servers are left."""
        if self.clients:
            self.ask(pick, text)
        while any(s.todo for s in self.sessions.values()):
            self.answer(0)

    @precondition(lambda self: self.clients)
    @rule(pick=PICK, polite=st.booleans())
    def leave(self, pick: int, polite: bool) -> None:
        i = self.clients[pick % len(self.clients)]
        waits = self.bench.client_state(i)[0] == ClientState.CLIENT_WAITING
        if polite and not waits:
            self.bench.client_feed(i, TERMINATE)
        else:
            self.bench.drop_client(i)
        self.follow()

    @precondition(lambda self: self.sessions)
    @rule(pick=PICK, how=st.sampled_from(["end_server", "drop_server", "retire"]))
    def lose_server(self, pick: int, how: str) -> None:
        servers = sorted(self.sessions)
        getattr(self.bench, how)(servers[pick % len(servers)])
        self.follow()

    @precondition(lambda self: self.bench.launches > self.launched)
    @rule(at_most=st.integers(0, 2))
    def launch(self, at_most: int) -> None:
        self.launched = self.bench.launches
        self.connecting += self.bench.launch(at_most)
        self.follow()

    @precondition(lambda self: self.connecting)
    @rule(succeeds=st.booleans())
    def connected(self, succeeds: bool) -> None:
        self.connecting -= 1
        if succeeds:
            i = self.bench.add_server()
            self.sessions[i] = Session()
        else:
            self.bench.launch_failed()
        self.follow()

    @rule()
    def pause(self) -> None:
        self.paused = not self.paused
        if self.paused:
            self.bench.pause()
        else:
            self.bench.resume()
        self.follow()

    # ----------------------------------------------------------- the invariants

    @invariant()
    def what_is_kept_is_idle_and_last(self) -> None:
        idle, _ = self.bench.lists()
        changed = [bool(self.bench.left(i)) for i in idle]
        assert changed == sorted(changed), "a clean server stands behind a changed one"
        kept = {self.bench.kept(i) for i in self.clients} - {None}
        assert kept == {i for i in idle if self.bench.left(i)}

    @invariant()
    def what_is_left_is_known(self) -> None:
        for i, session in self.sessions.items():
            if session.left_by and session.status == "I" and not session.todo:
                assert self.bench.left(i), "nobody knows what was left"

    @invariant()
    def nobody_waits_beside_an_idle_server(self) -> None:
        idle, waiting = self.bench.lists()
        if idle and waiting and not self.paused:
            tested = len(self.sessions) - len(idle) - self.bench.counts()["active"]
            assert tested or self.connecting or self.bench.launches > self.launched


TestKeptMachine = KeptMachine.TestCase
TestKeptMachine.settings = settings(stateful_step_count=40, report_multiple_bugs=False)
