# SPDX-License-Identifier: MIT
"""Whether an exchange is legal and fair now; see the package's docstring."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tests.differential.messages import (
    Bind,
    Describe,
    Exchange,
    Execute,
    FunctionCall,
    Leave,
    Message,
    Parse,
    Query,
    Sync,
)
from tests.differential.tags import Tags, classify, commands


@dataclass
class Standing:
    """What is known of one client."""

    status: str = "I"  # of its last ReadyForQuery
    open_batch: bool = False
    exclusive: bool = False  # holds locks that others would wait for
    # Nobody knows what random() begins with, nor what errors in pg_temp say.
    unsure: set[str] = field(default_factory=lambda: {"seed", "pg_temp"})
    # In this transaction: set for it, and set for the session.
    known: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    # Every tag that a name may stand for by now.
    statements: dict[str, Tags] = field(default_factory=dict)
    portals: dict[str, Tags] = field(default_factory=dict)

    @property
    def holds_server(self) -> bool:
        return self.status != "I" or self.open_batch

    def parts(self, one: Message) -> list[Tags]:
        """What a message reads and changes as it comes now, command by command."""
        if isinstance(one, Query):
            return [self._with_names(tags) for tags in commands(one.sql)]
        if isinstance(one, Parse):
            return [self._with_names(classify(one.sql)).reading]
        if isinstance(one, Bind):
            return [self.statements.get(one.statement, Tags()).reading]
        if isinstance(one, Execute):
            return [self.portals.get(one.portal, Tags())]
        if isinstance(one, Describe) and one.kind == "S":
            return [self.statements.get(one.name, Tags()).reading]
        return []

    def learn(self, one: Message) -> None:
        """What names may stand for after this message."""
        if isinstance(one, Query | Parse):
            tags = self._with_names(classify(one.sql))
            for name in tags.names:
                self.statements[name] = self.statements.get(name, Tags()) | tags
            if isinstance(one, Parse):
                self.statements[one.name] = self.statements.get(one.name, Tags()) | tags
        elif isinstance(one, Bind):
            tags = self.statements.get(one.statement, Tags())
            self.portals[one.portal] = self.portals.get(one.portal, Tags()) | tags

    def _with_names(self, tags: Tags) -> Tags:
        for name in sorted(tags.names):
            tags |= self.statements.get(name, Tags())
        for name in sorted(tags.cursors):
            tags |= self.portals.get(name, Tags())
        return tags


class Referee:
    """Knows all clients of a scenario; told of each exchange and its outcome."""

    def __init__(self, clients: int, pool_size: int) -> None:
        self.clients = [Standing() for _ in range(clients)]
        self._pool_size = pool_size
        self._hidden: set[str] = set()  # unsure for whoever gets the server later

    def may_speak(self, client: int) -> bool:
        """Whether there is a server for a client, and nobody it might wait for."""
        others = [c for c in self.clients if c is not self.clients[client]]
        if any(one.exclusive for one in others):
            return False
        held = sum(one.holds_server for one in others)
        return self.clients[client].holds_server or held < self._pool_size

    def allows(self, exchange: Exchange) -> bool:
        """Whether this may be sent now; asks only."""
        if not exchange.messages:
            return False
        if any(isinstance(one, Leave) for one in exchange.messages):
            return len(exchange.messages) == 1
        if not self.may_speak(exchange.client):
            return False
        return self._walk(self._scratch(exchange.client), exchange) is not None

    def left(self, client: int) -> None:
        """Somebody new has taken a client's place."""
        self.clients[client] = Standing()

    def runs_ddl(self, exchange: Exchange) -> bool:
        """Whether it may change tables of all."""
        walked = self._walk(self._scratch(exchange.client), exchange) or []
        return any(tags.exclusive for tags in walked)

    def _scratch(self, number: int) -> Standing:
        client = self.clients[number]
        return replace(
            client, statements=dict(client.statements), portals=dict(client.portals)
        )

    def _walk(self, client: Standing, exchange: Exchange) -> list[Tags] | None:
        """The tags of everything that runs; None when it is not fair. Learns names."""
        alone = not any(
            one.holds_server
            for number, one in enumerate(self.clients)
            if number != exchange.client
        )
        in_block = client.status != "I"
        # Changed by this exchange: in this transaction, and in one that may be over.
        recent: set[str] = set()
        over: set[str] = set()
        walked: list[Tags] = []
        for one in exchange.messages:
            for tags in client.parts(one):
                if tags.exclusive and not alone:
                    return None
                unsure = client.unsure | self._hidden
                if tags.needs & ((unsure - client.known) | over):
                    return None
                recent |= tags.session
                if tags.control and not isinstance(one, Parse | Bind):
                    in_block = False
                    over |= recent
                walked.append(tags)
            client.learn(one)
            if isinstance(one, Query | Sync | FunctionCall) and not in_block:
                over |= recent
        return walked

    def note(self, exchange: Exchange, status: str, open_batch: bool) -> bool:
        """Tell what was sent, and the state in which it has left the client.

        Returns whether a transaction has ended that may have left something behind.
        """
        client = self.clients[exchange.client]
        walked = self._walk(client, exchange) or []
        client.status, client.open_batch = status, open_batch
        for tags in walked:
            client.changed |= tags.session
            self._hidden |= tags.hidden
            client.exclusive |= tags.exclusive
            client.known |= tags.session | tags.local
            if tags.control:
                client.known.clear()
        if status == "E":
            client.known.clear()
        if client.holds_server:
            return False
        left = bool(client.changed)
        client.unsure |= client.changed
        client.changed.clear()
        client.known.clear()
        client.exclusive = False
        client.portals.clear()
        return left
