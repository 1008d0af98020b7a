# SPDX-License-Identifier: MIT
"""A PostgreSQL with poolers before it, on which every script can be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pooler.demo.postgres import Postgres
from tests.conformance.script import Line, Script
from tests.conformance.scripts import SETUP
from tests.conformance.transcript import DATABASE, USER, Transcript, run
from tests.integration.harness import Pooler
from tests.wire_client import WireClient, query

# Way to the server -> pooler and the size of the pieces that a client sends.
WAYS = {
    "session": ("session", 0),
    "transaction": ("transaction", 0),
    "transaction in pieces": ("transaction", 7),
    "another server each time": ("two servers", 0),
}
POOLERS: dict[str, dict[str, object]] = {
    "session": {"pool_mode": "session", "default_pool_size": 1},
    "transaction": {"pool_mode": "transaction", "default_pool_size": 1},
    "two servers": {
        "pool_mode": "transaction",
        "default_pool_size": 2,
        "max_prepared_statements": 4,  # so that some must go
    },
}
# Above this, sending in pieces of a few bytes takes too long.
MOST_BYTES_IN_PIECES = 20_000


class Holders:
    """Two clients before a pool of two servers; one of them holds one at any time.

    So whoever else asks gets the other one, and another one after each ``turn``.
    """

    def __init__(self, port: int) -> None:
        self._pair = [WireClient(port).login(USER, DATABASE) for _ in range(2)]
        self._pair[0].ask(query("BEGIN"))

    def turn(self) -> None:
        """Hold the server that was used last, and let go of the other."""
        holding, idle = self._pair
        idle.ask(query("BEGIN"))
        holding.ask(query("COMMIT"))
        self._pair.reverse()

    def close(self) -> None:
        """Let go of both."""
        for client in self._pair:
            client.close()


class Bed:
    """Compares scripts; a context manager. Each pool has one server to give.

    So a server that does not come back to its pool holds up the next client, and is
    found.
    """

    def __init__(self, server: Postgres, directory: Path) -> None:
        self.server = server
        server.psql(f"CREATE ROLE {USER} LOGIN")
        server.psql(f"CREATE DATABASE {DATABASE} OWNER {USER}")
        with WireClient(server.port) as client:
            client.login(USER, DATABASE).ask(query(SETUP))
        self.poolers: dict[str, Pooler] = {}
        self._directory = directory
        self._straight: dict[str, Transcript] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        problems = []
        for pooler in self.poolers.values():
            try:
                pooler.finish()
            except AssertionError as problem:
                problems.append(problem)
        assert not problems, problems

    def pooler(self, kind: str) -> Pooler:
        """The pooler of a kind, started when it is first wanted."""
        if kind not in self.poolers:
            directory = self._directory / kind
            directory.mkdir()
            made = Pooler(directory, self.server.port, {}, POOLERS[kind])
            self.poolers[kind] = made
            made.start()
        return self.poolers[kind]

    def elsewhere(self, sql: str) -> None:
        """Run SQL straight on the server."""
        with WireClient(self.server.port) as client:
            client.login(USER, DATABASE).rows(sql)

    def straight(self, script: Script) -> Transcript:
        """What PostgreSQL itself answers."""
        known = self._straight.get(script.name)
        if known is None:
            known = run(script, self.server.port, elsewhere=self.elsewhere)
            self._straight[script.name] = known
        return known

    def pooled(self, script: Script, way: str) -> Transcript:
        """What comes through the pooler."""
        kind, piece = WAYS[way]
        port = self.pooler(kind).port
        holders = Holders(port) if kind == "two servers" else None

        def server_is_free(transcript: Transcript) -> None:
            if kind != "session" and transcript.transaction_status in "I":
                self.check(port)

        try:
            made = run(
                script,
                port,
                elsewhere=self.elsewhere,
                afterwards=server_is_free,
                between=holders.turn if holders else None,
                piece=piece,
            )
            self.check(port)
        finally:
            if holders:
                holders.close()
        return made

    def check(self, port: int) -> None:
        """Another client gets the only server, and it is as new."""
        with WireClient(port) as client:
            client.login(USER, DATABASE)
            [[status]] = client.rows("SELECT 1")
            assert status == b"1"

    def both(self, script: Script, way: str) -> tuple[list[Line], list[Line]]:
        """What came through the pooler, and what PostgreSQL itself answers."""
        pooled, straight = self.pooled(script, way), self.straight(script)
        expected = straight.lines(script.pooler_speaks)
        if script.pooler_adds is not None:
            expected.insert(-1, script.pooler_adds)
        return pooled.lines(script.pooler_speaks), expected

    @staticmethod
    def possible(script: Script, way: str) -> bool:
        """Whether a script can be held on this way at all."""
        kind, piece = WAYS[way]
        if piece and script.size > MOST_BYTES_IN_PIECES:
            return False
        if kind == "two servers":
            return script.any_server
        return kind == "session" or not script.session_only
