# SPDX-License-Identifier: MIT
"""Holds a scenario on both ways at once, and finds the first difference."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.differential.bed import DEADLINE_S, Bed, clean
from tests.differential.compare import Comparison, kind_of, shown
from tests.differential.messages import Exchange, Leave, Scenario, Sync
from tests.differential.peer import Answers, Peer, Silence
from tests.differential.referee import Referee
from tests.wire_client import ConnectionEnded
from tests.wire_client import Message as Answer

# Longer than anything takes but a pooler that never answers.
PATIENCE_S = 3.0


class NotLegal(Exception):
    """The scenario breaks a rule of the referee, or PostgreSQL itself waits."""


class Ended(NotLegal):
    """PostgreSQL has closed the straight connection: nothing can be compared behind."""


@dataclass
class Difference:
    """Where the two ways part. ``scenario`` ends with the exchange that shows it."""

    scenario: Scenario
    straight: list[Answer]
    pooled: list[Answer]
    expected: Answer | None
    got: Answer | None
    why: str = ""

    @property
    def kind(self) -> str:
        """Two differences of one kind are likely to have one reason."""
        expected = kind_of(self.expected, self.got)
        return f"{expected} -> {self.why or kind_of(self.got)}"

    def report(self) -> str:
        """For people: the scenario as Python, and what was answered at its end."""
        lines = [self.scenario.python(), "# PostgreSQL's answer to the last exchange:"]
        lines += [f"#   {shown(one)}" for one in self.straight]
        lines.append("# through the pooler:")
        lines += [f"#   {shown(one)}" for one in self.pooled]
        if self.why:
            lines.append(f"#   {self.why}")
        return "\n".join(lines)


@dataclass
class _Client:
    straight: Peer
    pooled: Peer
    status: str = "I"
    skipping: bool = False
    open_batch: bool = False


@dataclass
class Played:
    """What an exchange has come to, for the generator."""

    failed: bool
    status: str
    open_batch: bool


@dataclass
class Play:
    """One scenario while it is held; a context manager."""

    bed: Bed
    scenario: Scenario
    comparison: Comparison = field(default_factory=Comparison)
    held: list[Exchange] = field(default_factory=list)
    difference: Difference | None = None

    def __post_init__(self) -> None:
        self.referee = Referee(len(self.scenario.logins), self.scenario.pool_size)
        self._clients: list[_Client] = []

    def __enter__(self) -> Play:
        self.bed.pooler(self.scenario.max_prepared_statements)
        self.bed.renew()
        self._clients = [self._login(n) for n in range(len(self.scenario.logins))]
        return self

    def _login(self, number: int) -> _Client:
        """A new client on both ways, whose greetings are compared."""
        straight = self.bed.straight(self.scenario, number)
        try:
            pooled = self.bed.pooled(self.scenario, number)
        except BaseException:
            straight.close()
            raise
        expected, got = _told(straight.greeting), _told(pooled.greeting)
        other = sorted(
            name for name in {*expected, *got} if expected.get(name) != got.get(name)
        )
        if other and self.difference is None:
            self._differ([], [], None, None, f"greeting {' '.join(other)}")
        return _Client(straight, pooled)

    def _leave(self, exchange: Exchange) -> Played:
        """The client is gone on both ways, and another one has taken its place."""
        client = self._clients[exchange.client]
        for peer in (client.straight, client.pooled):
            peer.leave(exchange.raw(), time.monotonic() + DEADLINE_S)
        self.referee.left(exchange.client)
        self._clients[exchange.client] = self._login(exchange.client)
        return Played(False, "I", False)

    def __exit__(self, *_: object) -> None:
        for one in self._clients:
            one.straight.close()
            one.pooled.close()

    def exchange(self, exchange: Exchange) -> Played:
        """Send to both and compare; ``difference`` says whether they differ."""
        if not self.referee.allows(exchange):
            raise NotLegal(repr(exchange))
        self.held.append(exchange)
        self.bed.ddl_was_run |= self.referee.runs_ddl(exchange)
        if isinstance(exchange.messages[0], Leave):
            return self._leave(exchange)
        client = self._clients[exchange.client]
        expected = self._ask_straight(client, exchange)
        self._ask_pooled(client, exchange, expected)
        played = Played(self._failed, client.status, client.open_batch)
        left = self.referee.note(exchange, client.status, client.open_batch)
        if left and not self.difference:
            clean(client.straight)
        return played

    def _ask_straight(self, client: _Client, exchange: Exchange) -> list[Answer]:
        deadline = time.monotonic() + DEADLINE_S
        answers = Answers(
            lambda: client.straight.read(deadline), client.status, client.skipping
        )
        answers.open_batch = client.open_batch
        client.straight.send(exchange.raw())
        try:
            expected = list(answers.of(exchange.messages))
            client.straight.drain(deadline)
        except Silence:
            raise NotLegal(f"PostgreSQL waits: {exchange!r}") from None
        except ConnectionEnded:
            raise Ended(f"PostgreSQL ends the connection: {exchange!r}") from None
        client.status, client.skipping = answers.status, answers.skipping
        client.open_batch = answers.open_batch
        self._failed = answers.failed
        return expected

    def _ask_pooled(
        self, client: _Client, exchange: Exchange, expected: list[Answer]
    ) -> None:
        peer = client.pooled
        got: list[Answer] = []
        unasked = peer.unasked()
        if unasked is not None:
            why = f"unasked {kind_of(unasked)}"
            self._differ([], [unasked], None, unasked, why)
            return
        deadline = time.monotonic() + PATIENCE_S
        pieces = exchange.pieces()
        try:
            for piece in pieces[:-1]:
                peer.send(piece)
                peer.drain(deadline)
                self.bed.pace(self.scenario.max_prepared_statements)
            peer.send(pieces[-1])
            for wanted in expected:
                got.append(peer.read(deadline))
                if not self.comparison.same(wanted, got[-1]):
                    self._differ(expected, got, wanted, got[-1])
                    return
            peer.drain(deadline)
        except (Silence, ConnectionEnded) as end:
            why = "silence" if isinstance(end, Silence) else "the connection ended"
            missing = expected[len(got)] if len(got) < len(expected) else None
            self._differ(expected, got, missing, None, why)

    def finish(self) -> None:
        """Nothing more has come, and every client can still be served."""
        for number in range(len(self._clients)):
            exchange = Exchange(number, (Sync(),))
            if self.difference is None and self.referee.allows(exchange):
                self.exchange(exchange)

    def _differ(
        self,
        straight: list[Answer],
        pooled: list[Answer],
        expected: Answer | None,
        got: Answer | None,
        why: str = "",
    ) -> None:
        scenario = with_exchanges(self.scenario, tuple(self.held))
        self.difference = Difference(scenario, straight, pooled, expected, got, why)


def with_exchanges(scenario: Scenario, exchanges: tuple[Exchange, ...]) -> Scenario:
    """The same scenario with other exchanges."""
    return Scenario(
        scenario.logins,
        scenario.pool_size,
        scenario.max_prepared_statements,
        exchanges,
    )


def replay(bed: Bed, scenario: Scenario) -> Difference | None:
    """Hold a scenario that is written down; NotLegal if it breaks the rules."""
    with Play(bed, scenario) as play:
        for exchange in scenario.exchanges:
            if play.difference is None:
                play.exchange(exchange)
        if play.difference is None:
            play.finish()
        return play.difference


def _told(greeting: list[Answer]) -> Mapping[str, str]:
    """The parameters that a greeting reports."""
    return {one.strings[0]: one.strings[1] for one in greeting if one.code == "S"}
