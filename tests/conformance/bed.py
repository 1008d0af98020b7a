# SPDX-License-Identifier: MIT
"""A PostgreSQL with poolers before it, on which every script can be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pooler.embedded import Postgres
from tests.conformance.script import Line, Script
from tests.conformance.scripts import SETUP
from tests.conformance.transcript import DATABASE, USER, Transcript, run
from tests.integration.harness import Pooler
from tests.wire_client import WireClient, query

# Way to the server -> pool mode and the size of the pieces that a client sends.
WAYS = {
    "session": ("session", 0),
    "transaction": ("transaction", 0),
    "transaction in pieces": ("transaction", 7),
}
# Above this, sending in pieces of a few bytes takes too long.
MOST_BYTES_IN_PIECES = 20_000


class Bed:
    """Compares scripts; a context manager. Each pool has one server.

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

    def pooler(self, mode: str) -> Pooler:
        """The pooler of a pool mode, started when it is first wanted."""
        if mode not in self.poolers:
            directory = self._directory / mode
            directory.mkdir()
            settings = {"pool_mode": mode, "default_pool_size": 1}
            made = Pooler(directory, self.server.port, {}, settings)
            self.poolers[mode] = made
            made.start()
        return self.poolers[mode]

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
        mode, piece = WAYS[way]
        port = self.pooler(mode).port

        def server_is_free(transcript: Transcript) -> None:
            if mode == "transaction" and transcript.transaction_status in "I":
                self.check(port)

        made = run(
            script,
            port,
            elsewhere=self.elsewhere,
            afterwards=server_is_free,
            piece=piece,
        )
        self.check(port)
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
        mode, piece = WAYS[way]
        if piece and script.size > MOST_BYTES_IN_PIECES:
            return False
        return mode == "session" or not script.session_only
