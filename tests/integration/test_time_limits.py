# SPDX-License-Identifier: MIT
"""Time limits before a real PostgreSQL, changed while clients are there."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import USER, Pooler, wait_until

Set = Callable[..., None]
WAITS = "No server connection available in postgres backend, client being queued"


@pytest.fixture(scope="module")
def pooler(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pooler]:
    """Its databases differ in the mode; ``by_user`` has limits of its users' own."""
    made = Pooler(
        tmp_path_factory.mktemp("limits"),
        postgres.port,
        {
            "session": "dbname=postgres pool_mode=session",
            "transaction": "dbname=postgres pool_mode=transaction",
            "short": "dbname=postgres server_lifetime=1",
            "small": "dbname=postgres pool_size=1 query_wait_timeout=2",
        },
        {"admin_users": "chief"},
    )
    try:
        yield made.start()
    finally:
        made.finish()


@pytest.fixture
def limits(pooler: Pooler) -> Iterator[Set]:
    """SET on the console; what the files say is back behind the test."""
    with pooler.connect("pgbouncer", "chief", autocommit=True) as console:

        def change(**settings: object) -> None:
            for name, value in settings.items():
                console.execute(f"SET {name} = '{value}'")

        yield change
        console.execute("RELOAD")


def backends(postgres: Postgres, where: str) -> int:
    return int(
        postgres.psql(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type ="
            f" 'client backend' AND pid <> pg_backend_pid() AND {where}"
        )[0][0]
    )


def is_ended(connection: psycopg.Connection[Any], text: str, sql: str) -> None:
    with pytest.raises(psycopg.OperationalError, match=text):
        connection.execute(sql)


MODES = ("session", "transaction")


@pytest.mark.parametrize("mode", MODES)
def test_a_long_query(
    pooler: Pooler, postgres: Postgres, limits: Set, mode: str
) -> None:
    limits(query_timeout=0.3)
    with pooler.connect(mode) as connection:
        is_ended(connection, "query timeout", "SELECT pg_sleep(30)")
    wait_until(lambda: backends(postgres, "state = 'active'") == 0, "it is cancelled")
    pooler.wait_log("closing because: query timeout")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("limit", "text"),
    [
        ("transaction_timeout", "transaction timeout"),
        ("idle_transaction_timeout", "idle transaction timeout"),
    ],
)
def test_a_long_transaction(
    pooler: Pooler, postgres: Postgres, limits: Set, mode: str, limit: str, text: str
) -> None:
    with pooler.connect(mode) as connection:
        connection.execute("SELECT 1")  # psycopg has begun a transaction
        limits(**{limit: 0.3})
        wait_until(lambda: f"closing because: {text}" in pooler.log(), "it is ended")
        wait_until(
            lambda: backends(postgres, "state LIKE 'idle in%'") == 0, "the server too"
        )
        is_ended(connection, text, "SELECT 1")


@pytest.mark.parametrize("mode", MODES)
def test_an_idle_client(pooler: Pooler, limits: Set, mode: str) -> None:
    before = pooler.log().count("closing because: client_idle_timeout")
    with pooler.connect(mode, autocommit=True) as connection:
        connection.execute("SELECT 1")
        limits(client_idle_timeout=0.3)
        connection.execute("SELECT pg_sleep(0.5)")
        pooler.wait_log("closing because: client_idle_timeout", before + 1)
        is_ended(connection, "client_idle_timeout", "SELECT 1")


def test_who_waits_is_told(pooler: Pooler, limits: Set) -> None:
    """A limit of the database's own ends the wait, or that of a query if it is less."""
    limits(query_wait_notify=1)
    told: list[str | None] = []
    with pooler.connect("small") as busy:
        busy.execute("SELECT 1")
        with pooler.connect("small") as waiting:
            waiting.add_notice_handler(lambda it: told.append(it.message_primary))
            is_ended(waiting, "query_wait_timeout", "SELECT 1")
        assert told == [WAITS]
        limits(query_timeout=0.3)
        with pooler.connect("small") as waiting:
            is_ended(waiting, "query_timeout", "SELECT 1")


def test_servers_have_their_time(
    pooler: Pooler, postgres: Postgres, limits: Set
) -> None:
    for database in ("session", "transaction"):
        with pooler.connect(database) as connection:
            connection.execute("SELECT 1")
    assert backends(postgres, "true") > 0
    limits(server_idle_timeout=0.1)
    wait_until(lambda: backends(postgres, "true") == 0, "servers are closed")
    pooler.wait_log("closing because: server idle timeout")


def test_a_database_may_have_its_own_lifetime(
    pooler: Pooler, postgres: Postgres
) -> None:
    with pooler.connect("short", autocommit=True) as connection:
        connection.execute("SELECT 1")
        wait_until(
            lambda: "closing because: server lifetime over" in pooler.log(), "it ends"
        )
        connection.execute("SELECT 1")


def test_servers_for_single_use(pooler: Pooler, limits: Set) -> None:
    limits(server_lifetime=0)
    sql = "SELECT pg_backend_pid()"
    with pooler.connect("transaction", autocommit=True) as connection:
        pids = [connection.execute(sql).fetchall()[0][0] for _ in range(4)]
        assert len(set(pids[1:])) == 3  # the first one may have been there before


def test_limits_of_a_user(pooler: Pooler) -> None:
    with pooler.ini.open("a") as ini:
        ini.write(f"query_timeout = 1000\n[users]\n{USER} = query_timeout=1\n")
    pooler.send(signal.SIGHUP)
    with pooler.connect("transaction") as connection:

        def hears_of_it() -> bool:
            try:
                connection.execute("SELECT pg_sleep(2)")
            except psycopg.OperationalError as error:
                return "query timeout" in str(error)
            return False

        wait_until(hears_of_it, "the reload counts")
