# SPDX-License-Identifier: MIT
"""Prepared statements over shared servers against PostgreSQL's own rules.

Each client is held twice: through the relay, which spreads it over a few backends
that all clients share, and straight on a backend of its own. Whatever messages it
sends, cut and delayed however, both ways must answer the same bytes.
"""

from __future__ import annotations

import struct
from types import ModuleType
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.reference.backend_ref import Backend
from tests.wire_client import (
    FLUSH,
    SYNC,
    bind,
    describe,
    execute,
    message,
    parse,
    query,
    text,
)

pytestmark = pytest.mark.usefixtures("probe")

NAMES = ("", "a", "b", "x" * 70, "p_1")
SQL_NAMES = ("a", "b", "c")
TEXTS = ("one", "two", "three", "four", "fail", "bad", "begin", "commit", "rollback")
# In a failed transaction PostgreSQL reads the last two and then finds the name taken;
# here the statement that has the name may not be there, and cannot be prepared then.
NAMED_TEXTS = TEXTS[:-2]
OURS = "p_1"  # what a server calls its first statement
PORTALS = ("", "p")
MOST_COMMANDS = 5  # of a Query


def close(name: str, kind: str = "S") -> bytes:
    return message("C", kind.encode() + text(name))


@st.composite
def sql(draw: st.DrawFn) -> str:
    """A text of a Query or Parse."""
    verb = draw(
        st.sampled_from(("", "", "", "prepare", "execute", "deallocate", "all"))
    )
    name = draw(st.sampled_from(SQL_NAMES))
    if verb == "prepare":
        return f"prepare {name} as {draw(st.sampled_from(TEXTS[:6]))}"
    if verb == "all":
        return "deallocate all"
    return f"{verb} {name}" if verb else draw(st.sampled_from(TEXTS))


@st.composite
def sql_by_parse(draw: st.DrawFn) -> str:
    """PREPARE, EXECUTE or DEALLOCATE, which look at names when they are run."""
    name = draw(st.sampled_from((*SQL_NAMES, OURS)))
    verb = draw(st.sampled_from(("prepare", "execute", "execute", "deallocate", "all")))
    if verb == "prepare":
        return f"prepare {name} as {draw(st.sampled_from(TEXTS[:6]))}"
    return "deallocate all" if verb == "all" else f"{verb} {name}"


names = st.sampled_from(NAMES)
portals = st.sampled_from(PORTALS)
extended = st.one_of(
    st.builds(parse, st.sampled_from(TEXTS), st.just("")),
    st.builds(parse, st.sampled_from(NAMED_TEXTS), names),
    # one that is itself executed by SQL is not found here
    st.builds(
        parse,
        sql_by_parse(),
        st.sampled_from(("", *(name for name in NAMES[3:] if name != OURS))),
    ),
    st.builds(lambda t: parse(t) + bind() + execute(), sql_by_parse()),
    st.builds(lambda n, p: bind(statement=n, portal=p), names, portals),
    st.builds(lambda n, p: bind(statement=n, portal=p) + execute(p), names, portals),
    st.builds(
        lambda t, n: parse(t, n) + bind(statement=n) + execute(),
        st.sampled_from(NAMED_TEXTS),
        names,
    ),
    st.builds(lambda n: describe(n, "S"), names),
    st.builds(describe, portals),
    st.builds(execute, portals),
    st.builds(close, names),
    st.builds(lambda n: close(n, "P"), portals),
    st.just(FLUSH),
)
requests = st.one_of(
    st.builds(lambda parts: b"".join(parts) + SYNC, st.lists(extended, max_size=4)),
    st.builds(query, sql()),
    st.builds(
        lambda commands: query("; ".join(commands)),
        st.lists(sql(), min_size=2, max_size=MOST_COMMANDS),
    ),
)


class StatementMachine(RuleBasedStateMachine):
    """Clients whose statements are shared, and what each would see alone."""

    bench_class: ClassVar[Any]

    @initialize(
        servers=st.integers(1, 3), clients=st.integers(1, 4), most=st.integers(1, 4)
    )
    def start(self, servers: int, clients: int, most: int) -> None:
        self.bench = self.bench_class(8, (), most)
        self.most = most
        self.backends = [Backend() for _ in range(servers)]
        self.said = [b"" for _ in range(servers)]  # by backends, not yet delivered
        self.alone = [Backend() for _ in range(clients)]
        self.unsent = [b"" for _ in range(clients)]
        self.expected = [b"" for _ in range(clients)]
        self.got = [b"" for _ in range(clients)]
        for _ in range(servers):
            self.bench.add_server()
        for _ in range(clients):
            self.bench.add_client()

    # ------------------------------------------------------------ moving bytes

    def carry(self) -> None:
        """Bring what the relay has sent to where it belongs."""
        for kind, i, data in self.bench.take_sent():
            if kind == "server":
                self.said[i] += self.backends[i].feed(data)
            else:
                self.got[i] += data
        self.bench.take_woken()

    def send(self, i: int, size: int) -> None:
        data, self.unsent[i] = self.unsent[i][:size], self.unsent[i][size:]
        if data:
            _, _, status = self.bench.client_feed(i, data)
            assert status in ("ok", "wait", "align", "aligning"), status
            self.carry()

    def deliver(self, i: int, size: int) -> None:
        data, self.said[i] = self.said[i][:size], self.said[i][size:]
        if data:
            _, _, status = self.bench.server_feed(i, data)
            assert status == "ok", status
            self.carry()

    def run_dry(self) -> None:
        """Let everything arrive that is under way."""
        while any(self.said) or any(
            self.unsent[i] and not self.waits(i) for i in range(len(self.unsent))
        ):
            for i in range(len(self.unsent)):
                if not self.waits(i):
                    self.send(i, len(self.unsent[i]))
            for i in range(len(self.said)):
                self.deliver(i, len(self.said[i]))

    def waits(self, i: int) -> bool:
        state, _, _ = self.bench.client_state(i)
        return bool(state == 3)  # CLIENT_WAITING: it is not read

    # ------------------------------------------------------------ rules

    @rule(pick=st.integers(0, 99), asked=st.lists(requests, min_size=1, max_size=3))
    def ask(self, pick: int, asked: list[bytes]) -> None:
        """A client whose earlier requests are all answered asks for more."""
        i = pick % len(self.alone)
        if self.unsent[i] or self.waits(i) or self.got[i] != self.expected[i]:
            return
        for one in asked:
            self.unsent[i] += one
            self.expected[i] += self.alone[i].feed(one)

    @rule(pick=st.integers(0, 99), size=st.integers(1, 60))
    def some_of_a_client(self, pick: int, size: int) -> None:
        i = pick % len(self.alone)
        if not self.waits(i):
            self.send(i, size)

    @rule(pick=st.integers(0, 99), size=st.integers(1, 60))
    def some_of_a_server(self, pick: int, size: int) -> None:
        self.deliver(pick % len(self.backends), size)

    @rule()
    def all_there_is(self) -> None:
        self.run_dry()
        self.nobody_gets_anything_else()

    def nobody_gets_anything_else(self) -> None:
        """Who is not held up by another's transaction has all its answers."""
        for i, alone in enumerate(self.alone):
            if not self.waits(i):
                assert self.got[i] == self.expected[i], (i, alone.status)

    @invariant()
    def servers_keep_to_their_limit(self) -> None:
        for backend in getattr(self, "backends", ()):
            if backend.status == "I":
                assert len(backend.named) <= self.most + 2 + MOST_COMMANDS

    @invariant()
    def answers_come_in_order(self) -> None:
        for i in range(len(getattr(self, "got", ()))):
            assert self.expected[i].startswith(self.got[i]), i

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        for _ in range(len(self.alone) + 1):
            self.run_dry()
            for i, alone in enumerate(self.alone):
                if alone.status != "I" and not self.waits(i) and not self.unsent[i]:
                    self.unsent[i] = query("rollback")
                    self.expected[i] += alone.feed(query("rollback"))
        self.run_dry()
        self.nobody_gets_anything_else()
        for i in range(len(self.backends)):
            assert self.bench.effects(i) == 0
            assert self.bench.server_state(i)[2] == b""
            assert self.bench.stray(i) is False
            known = {name.decode() for name in self.bench.server_names(i)}
            assert known <= set(self.backends[i].named), "believed to be there"
        for i in range(len(self.alone)):
            self.bench.drop_client(i)
        for i in range(len(self.backends)):
            self.bench.drop_server(i)
        assert self.bench.statement_counts() == (0, 0)


@pytest.mark.slow
def test_statements_are_those_of_a_session_alone(probe: ModuleType) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    StatementMachine.bench_class = probe.Bench
    run_state_machine_as_test(
        StatementMachine,
        settings=settings(max_examples=300, stateful_step_count=30, deadline=None),
    )


def test_the_reference_keeps_postgres_rules() -> None:
    """The model itself, where the machine would not notice: texts and codes."""
    backend = Backend()
    said = backend.feed(parse("one", "a") + parse("two", "a") + parse("x") + SYNC)
    assert said.startswith(message("1"))
    assert b"42P05" in said
    assert said.endswith(message("Z", b"I"))
    assert said.count(b"SERROR") == 1
    assert b"26000" in backend.feed(bind(statement="nobody") + SYNC)
    row = struct.pack("!I", 3) + b"one"
    assert row in backend.feed(bind(statement="a") + execute() + SYNC)
