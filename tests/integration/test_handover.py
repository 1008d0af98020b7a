# SPDX-License-Identifier: MIT
"""Server connections that move between workers, before a real PostgreSQL."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TypeVar

import psycopg
import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import DATABASE, HOST, USER, InProcess, wait_until

T = TypeVar("T")


def ask(worker: InProcess, question: Callable[[], T]) -> T:
    """Run something in the thread of a worker, between two turns of its loop."""

    async def answer() -> T:
        return question()

    return asyncio.run_coroutine_threadsafe(answer(), worker.loop).result(10)


def move(giver: InProcess, taker: InProcess) -> bool:
    """Move the server of the first pool that was used last; False: it has to stay.

    Return when it is idle there.
    """

    def give() -> tuple[int, bytes] | None:
        idle = giver.engine.pool_idle_servers(0)
        return giver.engine.server_give(idle[-1]) if idle else None

    given = ask(giver, give)
    if given is None:
        return False
    ask(taker, lambda: taker.engine.server_receive(given[0], 0, given[1]))
    wait_until(
        lambda: ask(taker, lambda: taker.engine.pool_stats(0)["tested"]) == 0,
        "its names are forgotten",
    )
    return True


def connect(worker: InProcess, **options: str) -> psycopg.Connection:
    connection = psycopg.connect(
        host=HOST,
        port=worker.port,
        user=USER,
        dbname=DATABASE,
        autocommit=True,
        options=" ".join(f"-c {name}={value}" for name, value in options.items()),
    )
    connection.prepare_threshold = 0
    return connection


def value(connection: psycopg.Connection, sql: str) -> object:
    row = connection.execute(sql).fetchone()
    assert row is not None
    return row[0]


def backend(connection: psycopg.Connection) -> object:
    return value(connection, "SELECT pg_backend_pid()")


@pytest.fixture
def pair(
    worker_in_process: Callable[..., InProcess],
) -> tuple[InProcess, InProcess]:
    """Two workers, whose names of statements on servers are the same."""
    return (
        worker_in_process(default_pool_size=2),
        worker_in_process(default_pool_size=2),
    )


def test_nobody_sees_another_workers_session(
    pair: tuple[InProcess, InProcess], postgres: Postgres
) -> None:
    one, two = pair
    with connect(one, timezone="Asia/Tokyo") as a, connect(two, timezone="CET") as b:
        first, second = backend(a), backend(b)
        assert a.execute("SELECT 'of a', %s::int", [1]).fetchone() == ("of a", 1)
        assert b.execute("SELECT 'of b', %s::int", [2]).fetchone() == ("of b", 2)
        assert move(one, two)
        assert backend(b) == first
        assert value(b, "SHOW timezone") == "CET"
        assert b.execute("SELECT 'of b', %s::int", [3]).fetchone() == ("of b", 3)
        assert b.execute("SELECT 'of a', %s::int", [4]).fetchone() == ("of a", 4)

        assert move(two, one)
        assert backend(a) == first
        assert value(a, "SHOW timezone") == "Asia/Tokyo"
        assert a.execute("SELECT 'of a', %s::int", [5]).fetchone() == ("of a", 5)
        assert backend(b) == second
        assert postgres.psql(
            f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{USER}'"
        ) == [(2,)]


def test_values_of_sequences_are_nobodys_there(
    pair: tuple[InProcess, InProcess],
) -> None:
    one, two = pair
    with connect(one) as a, connect(two) as b:
        first = backend(a)
        backend(b)
        a.execute("CREATE SEQUENCE IF NOT EXISTS moved_numbers")
        value(a, "SELECT nextval('moved_numbers')")
        assert move(one, two)
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            b.execute("SELECT lastval()")
        assert backend(b) == first
        a.execute("DROP SEQUENCE moved_numbers")


def test_what_clients_make_up_travels(pair: tuple[InProcess, InProcess]) -> None:
    """A server on which a parameter was made is not taken for one that lacks it."""
    one, two = pair
    with connect(one) as a, connect(two) as b:
        first = backend(a)
        assert value(b, "SELECT current_setting('my.other', true)") is None
        b.execute("SET LOCAL my.other = ''")
        a.execute("SET LOCAL my.own = ''")
        assert value(a, "SELECT current_setting('my.own', true)") == ""
        assert backend(a) == first
        assert move(one, two)
        for _ in range(3):
            assert value(b, "SELECT current_setting('my.own', true)") is None
        assert backend(b) != first


def test_hundreds_of_moves(pair: tuple[InProcess, InProcess]) -> None:
    """Each client has its own session at each of them, and nothing is left behind."""
    one, two = pair
    with connect(one, timezone="Asia/Tokyo") as a, connect(two, timezone="CET") as b:
        first = backend(a)
        backend(b)
        files = len(os.listdir("/proc/self/fd"))
        for n in range(125):
            assert move(one, two)
            assert b.execute("SELECT %s::int", [n]).fetchone() == (n,)
            if n % 50 == 0:
                assert value(b, "SHOW timezone") == "CET"
                assert backend(b) == first
            wait_until(lambda: move(two, one), "the server is idle again")
            assert a.execute("SELECT %s::int + 1", [n]).fetchone() == (n + 1,)
            if n % 50 == 0:
                assert value(a, "SHOW timezone") == "Asia/Tokyo"
                assert backend(a) == first
            wait_until(
                lambda: ask(one, lambda: one.engine.pool_stats(0)["idle"]) == 1,
                "the server is idle again",
            )
        assert len(os.listdir("/proc/self/fd")) == files
        assert ask(one, lambda: one.engine.pool_stats(0)["servers"]) == 1
        assert ask(two, lambda: two.engine.pool_stats(0)["servers"]) == 1
