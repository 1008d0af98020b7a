# SPDX-License-Identifier: MIT
"""The ways to a PostgreSQL: straight, and through a pooler in each mode.

Each run of a suite gets a PostgreSQL and a pooler of its own, so no run finds what
another has left.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pooler.demo.postgres import Postgres
from tests.integration.harness import HOST, Pooler
from tests.wire_client import ConnectionEnded, WireClient, query

STRAIGHT = "straight"
# Way -> settings of the pooler. The pools are as large as the suites have connections
# open at the same time; that servers change is what Rotation is for.
WAYS: dict[str, dict[str, object]] = {
    "session": {"pool_mode": "session", "default_pool_size": 60},
    "transaction": {"pool_mode": "transaction", "default_pool_size": 40},
}
USER = "suites"
DATABASE = "suites"

POSTGRES_SETTINGS = {
    "max_connections": "250",
    "max_prepared_transactions": "50",
    "max_replication_slots": "10",
    "max_wal_senders": "10",
    "wal_level": "logical",
    # A lock that a failed test has left must not stop the run.
    "lock_timeout": "20s",
    "idle_in_transaction_session_timeout": "5min",
}
POOLER_SETTINGS: dict[str, object] = {
    # As the manuals of PgBouncer and of the drivers advise.
    "ignore_startup_parameters": "extra_float_digits",
    "max_client_conn": 500,
    "query_wait_timeout": 20,
}
HELD_SERVERS = 2
TURN_S = 0.002


@dataclass(frozen=True, slots=True)
class Needs:
    """What a suite needs on the server.

    ``databases`` are made, and ``preparation`` is run in each of them by the superuser.
    ``user`` is whom it logs in as, also a superuser.
    """

    databases: Sequence[str] = (DATABASE,)
    preparation: str = ""
    user: str = USER

    def prepare(self, postgres: Postgres) -> None:
        """Make what is not there."""
        postgres.psql(f"CREATE ROLE {USER} SUPERUSER LOGIN")
        for database in self.databases:
            if database != "postgres":
                postgres.psql(f"CREATE DATABASE {database} OWNER {USER}")
            if self.preparation:
                postgres.psql(self.preparation, database)


class Ring:
    """Clients of one database: the first is idle, the others hold a server each.

    A test may end the server of one of them; then all of them are made anew.
    """

    def __init__(self, port: int, user: str, database: str) -> None:
        self._where = (port, user, database)
        self._clients: list[WireClient] = []

    def _login(self) -> None:
        port, user, database = self._where
        for _ in range(HELD_SERVERS + 1):
            self._clients.append(WireClient(port))
            self._clients[-1].login(user, database)
        for client in self._clients[1:]:
            client.ask(query("BEGIN"))

    def turn(self) -> None:
        """Hold the server that was used last, and let go of the one held longest."""
        try:
            if not self._clients:
                self._login()
            first, oldest, *_ = self._clients
            first.ask(query("BEGIN"))
            oldest.ask(query("COMMIT"))
            self._clients.append(self._clients.pop(0))
        except (ConnectionEnded, OSError):
            self.close()

    def close(self) -> None:
        """Let go of all."""
        for client in self._clients:
            client.close()
        self._clients.clear()


class Rotation:
    """Clients that hold servers in turn, so that others meet another one each time.

    An idle server is taken from the top of a stack. The one used last is taken away
    from there, for as long as it takes to take HELD_SERVERS others. A context manager;
    the turns are made by a thread.
    """

    def __init__(self, port: int, needs: Needs) -> None:
        self._rings = [Ring(port, needs.user, name) for name in needs.databases]
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._turn_all, daemon=True)

    def _turn_all(self) -> None:
        while not self._ending.wait(TURN_S):
            for ring in self._rings:
                ring.turn()

    def __enter__(self) -> Rotation:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        for ring in self._rings:
            ring.close()


@dataclass(frozen=True, slots=True)
class Target:
    """Where a suite connects to, and the server behind it."""

    way: str
    port: int
    postgres: Postgres
    host: str = HOST
    user: str = USER
    database: str = DATABASE

    @property
    def url(self) -> str:
        """For what wants a URL: ``//user@host:port/database``."""
        return f"//{self.user}@{self.host}:{self.port}/{self.database}"

    @property
    def environment(self) -> dict[str, str]:
        """Libpq's variables."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGDATABASE": self.database,
            "PGSSLMODE": "disable",
        }


@contextlib.contextmanager
def open_way(way: str, needs: Needs, logs: Path) -> Iterator[Target]:
    """Start what a run needs, and end it; ``logs`` gets what the pooler logged."""
    with (
        Postgres(settings=POSTGRES_SETTINGS) as postgres,
        contextlib.ExitStack() as stack,
    ):
        needs.prepare(postgres)
        if way == STRAIGHT:
            yield Target(way, postgres.port, postgres)
            return
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = {**POOLER_SETTINGS, **WAYS[way]}
        pooler = Pooler(directory, postgres.port, settings=settings)
        stack.callback(lambda: logs.write_text(pooler.log()))
        stack.callback(pooler.finish)
        pooler.start()
        if way == "transaction":
            stack.enter_context(Rotation(pooler.port, needs))
        yield Target(way, pooler.port, postgres)
