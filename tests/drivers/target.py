# SPDX-License-Identifier: MIT
"""What a driver test is given: a pooler in one mode, and the server behind it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from pooler.demo.postgres import Postgres
from tests.integration.harness import DATABASE, HOST, USER, Pooler, wait_until

# "direct" is no pool mode: it leaves the pooler out, to see whether a test is right.
DIRECT = "direct"
MODES = (DIRECT,) if os.environ.get("DRIVERS_DIRECT") else ("session", "transaction")
REPLICATOR = "replicator"
TIMEOUT_S = 30
# As good as endless: it takes minutes, and fills every buffer on the way.
ENDLESS = "COPY (SELECT generate_series(1, 2000000000)) TO STDOUT"
FETCH = "run dev/fetch_drivers.sh"

Row = tuple[Any, ...]

# What must not be left of a test: a transaction, a lock, session state.
LEFT = f"""
    SELECT pid, state, query FROM pg_stat_activity
     WHERE datname = '{DATABASE}' AND usename = '{USER}' AND state <> 'idle'
    UNION ALL
    SELECT pid, locktype, mode FROM pg_locks
     WHERE database = (SELECT oid FROM pg_database WHERE datname = '{DATABASE}')
       AND locktype IN ('advisory', 'object', 'tuple')
"""


def leftovers(postgres: Postgres) -> list[Row]:
    return postgres.psql(LEFT)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a driver connects to; ``mode`` is the pool mode."""

    pooler: Pooler
    postgres: Postgres
    mode: str
    host: str = HOST
    database: str = DATABASE
    user: str = USER

    @property
    def port(self) -> int:
        return self.postgres.port if self.mode == DIRECT else self.pooler.port

    @property
    def session(self) -> bool:
        return self.mode != "transaction"

    def sql(self, statement: str) -> list[Row]:
        """Run SQL at the server itself, in the database of the tests."""
        with psycopg.connect(
            self.postgres.dsn(DATABASE),
            autocommit=True,
            connect_timeout=10,
            # A lock that a test has left must not stop the suite.
            options="-c lock_timeout=5s -c statement_timeout=20s",
        ) as conn:
            cursor = conn.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def value(self, statement: str) -> Any:
        return self.sql(statement)[0][0]

    def table(self, name: str, columns: str) -> str:
        """Make an empty table that belongs to the user."""
        self.sql(f"DROP TABLE IF EXISTS {name}")
        self.sql(f"CREATE TABLE {name} ({columns})")
        self.sql(f"ALTER TABLE {name} OWNER TO {USER}")
        return name

    def clean(self) -> None:
        """Remove what a test has left, even one that failed."""
        for (name,) in self.sql("SELECT gid FROM pg_prepared_xacts"):
            self.sql(f"ROLLBACK PREPARED '{name}'")
        for (name,) in self.sql(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        ):
            self.sql(f'DROP TABLE "{name}"')

    def wait_for_query(self, text: str, count: int = 1) -> None:
        """Wait until so many queries that begin like this run at the server."""
        running = (
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active'"
            f" AND query LIKE '{text}%' AND usename = '{USER}'"
        )
        wait_until(lambda: self.value(running) == count, f"{text!r} runs")

    def runs(self, text: str) -> bool:
        return bool(
            self.value(
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'active'"
                f" AND query LIKE '{text}%' AND usename = '{USER}'"
            )
        )

    def environment(self, **more: str) -> Mapping[str, str]:
        """Libpq's variables, and ours for scripts of other languages."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        return {
            **kept,
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGDATABASE": self.database,
            "PGCONNECT_TIMEOUT": "10",
            "POOL_MODE": self.mode,
            **more,
        }

    def run(
        self,
        command: Sequence[str | Path],
        *,
        text: str = "",
        check: bool = True,
        **more: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program that connects by libpq's variables."""
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S * 2,
            check=False,
            env=self.environment(**more),
        )
        said = f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr}"
        assert not check or done.returncode == 0, said
        return done


def results(output: str) -> dict[str, Any]:
    """The checks that a script of another language reports, one JSON a line."""
    found: dict[str, Any] = {}
    for line in output.splitlines():
        if line.startswith("{"):
            found.update(json.loads(line))
    return found
