# SPDX-License-Identifier: MIT
"""Limits are totals over all workers, at every moment."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from pooler.demo.postgres import Postgres
from tests.integration.harness import (
    DATABASE,
    USER,
    Background,
    MakePooler,
    Pooler,
    backends,
    wait_until,
)
from tests.wire_client import ConnectionEnded, WireClient, startup

WORKERS = (1, 2)


class Sampler(Background):
    """Looks at pg_stat_activity as fast as it can; ``most`` is what it has seen."""

    def __init__(self, postgres: Postgres, where: str) -> None:
        super().__init__()
        self._postgres = postgres
        self._query = (
            "SELECT count(*) FROM pg_stat_activity"
            f" WHERE backend_type IN ('client backend', 'walsender') AND {where}"
        )
        self.most = 0
        self.looks = 0

    def _run(self) -> None:
        with psycopg.connect(self._postgres.dsn(), autocommit=True) as connection:
            while not self._stop.is_set():
                row = connection.execute(self._query).fetchone()
                assert row is not None
                self.most = max(self.most, row[0])
                self.looks += 1

    def look_again(self, times: int) -> None:
        looks = self.looks + times
        wait_until(lambda: self.looks > looks, "samples")


@contextmanager
def connected(
    pooler: Pooler, count: int, **more: str
) -> Iterator[list[psycopg.Connection[tuple[object, ...]]]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(pooler.connect(autocommit=True, **more))
            for _ in range(count)
        ]


def backends_of(*connections: psycopg.Connection[tuple[object, ...]]) -> set[object]:
    """The server of each, which all have at the same time."""
    found = set()
    with ExitStack() as stack:
        for connection in connections:
            stack.enter_context(connection.transaction())
            row = connection.execute("SELECT pg_backend_pid()").fetchone()
            assert row is not None
            found.add(row[0])
    return found


@pytest.mark.parametrize("workers", WORKERS)
def test_a_pool_serves_as_many_wherever_they_land(
    make_pooler: MakePooler, workers: int
) -> None:
    pooler = make_pooler(workers=workers, default_pool_size=2, query_wait_timeout=10)
    with connected(pooler, 8) as clients:
        for one in clients:
            for other in clients:
                if one is not other:
                    assert len(backends_of(one, other)) == 2


@pytest.mark.parametrize("workers", WORKERS)
def test_a_client_beyond_the_pool_gets_the_next_free_server(
    make_pooler: MakePooler, workers: int
) -> None:
    pooler = make_pooler(workers=workers, default_pool_size=4, query_wait_timeout=10)
    with connected(pooler, 5) as clients:
        *holders, last = clients
        for holder in holders:
            holder.execute("BEGIN")
        done = threading.Event()

        def ask() -> None:
            last.execute("SELECT 1")
            done.set()

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        assert not done.wait(0.3), "it was served beyond the limit"
        holders[2].execute("COMMIT")
        assert done.wait(5), "it waits beside an idle server"
        thread.join()
        for holder in (holders[0], holders[1], holders[3]):
            holder.execute("COMMIT")


def work(pooler: Pooler, seed: int, until_s: float, databases: Sequence[str]) -> None:
    """Come and go, and keep servers for random times; be lost with a killed worker."""
    chance = random.Random(seed)
    while time.monotonic() < until_s:
        with (
            suppress(psycopg.OperationalError),
            pooler.connect(chance.choice(databases), autocommit=True) as connection,
        ):
            for _ in range(chance.randrange(1, 6)):
                pause_s = chance.choice((0, 0, 0.01, 0.05))
                connection.execute(f"SELECT pg_sleep({pause_s})")


@contextmanager
def load(
    pooler: Pooler, clients: int, seconds: float, databases: Sequence[str]
) -> Iterator[None]:
    """Clients at work, all of which end well; at least for a time."""
    until_s = time.monotonic() + seconds
    threads = [
        threading.Thread(
            target=work, args=(pooler, seed, until_s, databases), daemon=True
        )
        for seed in range(clients)
    ]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.parametrize("workers", WORKERS)
def test_there_are_never_more_than_the_pool_size(
    make_pooler: MakePooler, postgres: Postgres, workers: int
) -> None:
    wait_until(lambda: not backends(postgres), "none are left of another test")
    pooler = make_pooler(workers=workers, default_pool_size=3)
    of_pool = f"datname = '{DATABASE}' AND usename = '{USER}'"
    with Sampler(postgres, of_pool) as sampler, load(pooler, 8, 3, [DATABASE]):
        pass
    assert sampler.looks > 10
    assert 1 <= sampler.most <= 3


def test_what_a_killed_worker_leaves_counts(
    make_pooler: MakePooler, postgres: Postgres
) -> None:
    pooler = make_pooler(workers=2, default_pool_size=3)
    of_pool = f"datname = '{DATABASE}' AND usename = '{USER}'"
    chance = random.Random(7)
    with Sampler(postgres, of_pool) as sampler, load(pooler, 8, 3, [DATABASE]):
        for count in range(1, 4):
            sampler.look_again(50)
            os.kill(chance.choice(pooler.worker_pids()), signal.SIGKILL)
            pooler.wait_log("killed by SIGKILL", count)
            wait_until(lambda: len(pooler.worker_pids()) == 2, "a successor")
    assert 1 <= sampler.most <= 3
    # and all places are there again
    with connected(pooler, 3) as clients:
        assert len(backends_of(*clients)) == 3


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize(
    ("setting", "where"),
    [("max_db_connections", "datname"), ("max_user_connections", "usename")],
)
def test_limits_over_several_pools(
    make_pooler: MakePooler,
    postgres: Postgres,
    workers: int,
    setting: str,
    where: str,
) -> None:
    """Idle servers of other pools make room, on whichever worker they are."""
    entries = dict.fromkeys(("one", "two", "three"), f"dbname={DATABASE}")
    if setting == "max_db_connections":
        entries = {"one": f"dbname={DATABASE}"}
    limits: dict[str, Any] = {setting: 3}
    pooler = make_pooler(entries, workers=workers, default_pool_size=3, **limits)
    users = [USER] if len(entries) > 1 else [USER, "postgres"]
    names = [(database, user) for database in entries for user in users]
    with ExitStack() as stack:
        sampler = stack.enter_context(
            Sampler(
                postgres,
                f"datname = '{DATABASE}' AND usename IN ('{USER}', 'postgres')",
            )
        )
        for turn in range(3):
            for database, user in names:
                clients = [
                    stack.enter_context(pooler.connect(database, user, autocommit=True))
                    for _ in range(3)
                ]
                assert len(backends_of(*clients)) == 3, (turn, database, user)
    assert sampler.most == 3, where
    assert "closing because: evicted" in pooler.log()


@pytest.mark.parametrize("workers", WORKERS)
def test_the_reserve_is_for_who_waits_long(
    make_pooler: MakePooler, postgres: Postgres, workers: int
) -> None:
    pooler = make_pooler(
        workers=workers,
        default_pool_size=2,
        reserve_pool_size=1,
        reserve_pool_timeout=0.3,
    )
    with connected(pooler, 4) as clients:
        for holder in clients[:2]:
            holder.execute("BEGIN")
        begun_s = time.monotonic()
        clients[2].execute("BEGIN")
        assert 0.25 < time.monotonic() - begun_s < 5
        pooler.wait_log("taking connection from reserve_pool")
        assert len(backends(postgres)) == 3
        waits = threading.Thread(target=lambda: clients[3].execute("SELECT 1"))
        waits.start()
        waits.join(0.6)
        assert waits.is_alive(), "more than pool and reserve"
        assert len(backends(postgres)) == 3
        clients[0].execute("COMMIT")
        waits.join(5)
        assert not waits.is_alive()
        for holder in clients[1:3]:
            holder.execute("COMMIT")


@pytest.mark.parametrize("workers", WORKERS)
def test_servers_are_kept_ready(
    make_pooler: MakePooler, postgres: Postgres, workers: int
) -> None:
    pooler = make_pooler(
        {"forced": f"dbname={DATABASE} user={USER}", "*": ""},
        workers=workers,
        min_pool_size=2,
        default_pool_size=4,
    )
    wait_until(lambda: len(backends(postgres)) == 2, "those of the forced user")
    others = partial(backends, postgres, "postgres", "postgres")
    wait_until(lambda: not others(), "none of a pool without a client")
    with pooler.connect("postgres", "postgres") as client:
        client.execute("SELECT 1")
        wait_until(lambda: len(others()) >= 2, "those of a pool with a client")
    assert len(backends(postgres)) == 2


def test_a_smaller_pool_gives_servers_up(
    make_pooler: MakePooler, postgres: Postgres
) -> None:
    pooler = make_pooler(workers=2, default_pool_size=4)
    with connected(pooler, 4) as clients:
        assert len(backends_of(*clients)) == 4
        pooler.reload(default_pool_size=1)
        wait_until(lambda: len(backends(postgres)) == 1, "three are closed")
        assert [client.execute("SELECT 1").fetchone() for client in clients]


REFUSALS = [
    ("max_client_conn", "no more connections allowed (max_client_conn)"),
    (
        "max_db_client_connections",
        "client connections exceeded (max_db_client_connections)",
    ),
    (
        "max_user_client_connections",
        "client connections exceeded (max_user_client_connections)",
    ),
]


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize(("setting", "text"), REFUSALS)
def test_clients_are_counted_over_all_workers(
    make_pooler: MakePooler, workers: int, setting: str, text: str
) -> None:
    limit = 5
    limits: dict[str, Any] = {setting: limit}
    pooler = make_pooler(workers=workers, admin_users=USER, **limits)
    with ExitStack() as stack:
        clients: list[WireClient] = []

        def comes_in() -> bool:
            client = stack.enter_context(pooler.wire())
            try:
                client.login(USER, DATABASE)
            except (AssertionError, ConnectionEnded):
                return False
            clients.append(client)
            return True

        for _ in range(limit):
            assert comes_in()
        silent = stack.enter_context(pooler.wire())
        for _ in range(6):
            with pytest.raises(psycopg.OperationalError) as refused:
                pooler.connect()
            assert text in str(refused.value)
        with pooler.connect("pgbouncer", autocommit=True) as console:
            console.execute("SHOW VERSION")
        for _ in range(3):  # who leaves makes room, for one
            clients.pop().close()
            wait_until(comes_in, "a place")
            assert not comes_in()
        assert silent is not None


def test_many_at_once_are_no_more_than_may_be(make_pooler: MakePooler) -> None:
    """Also those that the engine leads alone."""
    limit = 10
    pooler = make_pooler(workers=2, max_client_conn=limit)
    with ExitStack() as stack:
        stack.enter_context(pooler.client())  # its login is known from here on
        clients = [stack.enter_context(pooler.wire()) for _ in range(60)]
        for client in clients:
            client.send(startup(USER, DATABASE))
        came_in = 0
        for client in clients:
            try:
                client.read_greeting()
                came_in += 1
            except (AssertionError, ConnectionEnded):
                continue
        assert came_in == limit - 1


@pytest.mark.parametrize("workers", WORKERS)
def test_a_database_and_a_user_have_limits_of_their_own(
    make_pooler: MakePooler, workers: int
) -> None:
    pooler = make_pooler(
        {"narrow": f"dbname={DATABASE} max_db_client_connections=1", "*": ""},
        workers=workers,
        max_db_client_connections=2,
    )
    with pooler.connect("narrow"), pooler.connect(), pooler.connect():
        for name in ("narrow", DATABASE):
            with pytest.raises(psycopg.OperationalError, match="max_db_client"):
                pooler.connect(name)


CHIEF, WATCHER = "chief", "watcher"


@pytest.fixture
def watched(make_pooler: MakePooler, request: pytest.FixtureRequest) -> Pooler:
    """With an operator, who may do all, and a watcher, who only looks."""
    return make_pooler(
        {DATABASE: "", "forced": f"dbname={DATABASE} user={USER}"},
        "".join(f'"{name}" "x"\n' for name in (CHIEF, WATCHER, USER)),
        workers=request.param,
        auth_type="trust",
        admin_users=CHIEF,
        stats_users=WATCHER,
    )


def clients_shown(pooler: Pooler, what: str, name: str) -> tuple[int, int]:
    """(how many there may be, how many there are), the one who looks among them."""
    with pooler.connect("pgbouncer", CHIEF, autocommit=True) as console:
        rows = console.cursor(row_factory=dict_row).execute(f"show {what}").fetchall()
    (row,) = [row for row in rows if row["name"] == name]
    limit = {"databases": "max_client_connections"}.get(
        what, "max_user_client_connections"
    )
    return row[limit], row["current_client_connections"]


@pytest.mark.parametrize("watched", WORKERS, indirect=True)
@pytest.mark.parametrize(
    ("setting", "where", "what", "name", "lookers"),
    [
        ("max_db_client_connections", "pgbouncer", "databases", "pgbouncer", 1),
        ("max_user_client_connections", "pgbouncer", "users", WATCHER, 0),
        ("max_db_client_connections", "forced", "databases", "forced", 0),
        ("max_user_client_connections", "forced", "users", WATCHER, 0),
    ],
)
def test_the_console_has_limits_and_operators_have_none(
    watched: Pooler, setting: str, where: str, what: str, name: str, lookers: int
) -> None:
    limit = 2
    with watched.connect("pgbouncer", CHIEF, autocommit=True) as console:
        console.execute(f"set {setting} = {limit}")
    with ExitStack() as stack:
        clients = [stack.enter_context(watched.connect(where, WATCHER)) for _ in "ab"]
        assert clients_shown(watched, what, name) == (limit, limit + lookers)
        for _ in range(2):
            with pytest.raises(psycopg.OperationalError, match=setting):
                watched.connect(where, WATCHER)
        with connected(watched, limit + 1, database="pgbouncer", user=CHIEF):
            pass  # an operator always comes in, and counts
        clients.pop().close()

        def has_left() -> bool:
            return clients_shown(watched, what, name) == (limit, limit - 1 + lookers)

        wait_until(has_left, "the client has left")
        stack.enter_context(watched.connect(where, WATCHER))


@pytest.mark.parametrize("watched", [1], indirect=True)
def test_clients_count_for_who_has_logged_in(watched: Pooler) -> None:
    """Not as whom their server has, and also those of names that nobody has listed."""
    for _ in range(2):  # the second login is one that is known
        with connected(watched, 2, database="forced", user=WATCHER):
            assert clients_shown(watched, "users", WATCHER) == (0, 2)
            assert clients_shown(watched, "users", USER) == (0, 0)
    with connected(watched, 2, user=USER):
        assert clients_shown(watched, "users", USER) == (0, 2)
        assert clients_shown(watched, "databases", DATABASE) == (0, 2)


def replication_client(pooler: Pooler, done: list[float]) -> None:
    """Be a replication client for a moment."""
    with psycopg.connect(
        pooler.dsn("postgres", "postgres"), autocommit=True, replication="database"
    ) as connection:
        connection.execute("IDENTIFY_SYSTEM")
        time.sleep(0.05)
    done.append(time.monotonic())


@pytest.mark.parametrize("workers", WORKERS)
def test_replication_servers_count(
    primary: Postgres, make_pooler: MakePooler, workers: int
) -> None:
    pooler = make_pooler(
        {"*": f"host=127.0.0.1 port={primary.port}"},
        workers=workers,
        default_pool_size=2,
    )
    with pooler.connect("postgres", "postgres", autocommit=True) as client:
        client.execute("SELECT 1")  # its idle server makes room for them
        done: list[float] = []
        threads = [
            threading.Thread(target=replication_client, args=(pooler, done))
            for _ in range(10)
        ]
        with Sampler(primary, "pid <> pg_backend_pid()") as sampler:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
        assert len(done) == 10
        assert sampler.most == 2
        assert client.execute("SELECT 2").fetchone() == (2,)


def test_a_replication_client_waits_no_longer_than_it_may(
    primary: Postgres, make_pooler: MakePooler
) -> None:
    pooler = make_pooler(
        {"*": f"host=127.0.0.1 port={primary.port}"},
        default_pool_size=1,
        query_wait_timeout=1,
    )
    with pooler.connect("postgres", "postgres") as client:
        client.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="query_wait_timeout"):
            replication_client(pooler, [])


@pytest.mark.parametrize("workers", WORKERS)
def test_those_of_auth_query_count(
    make_pooler: MakePooler, postgres: Postgres, workers: int
) -> None:
    """They make room for clients, and clients for them."""
    pooler = make_pooler(
        {DATABASE: ""},
        workers=workers,
        auth_type="trust",
        auth_user="postgres",
        auth_query="SELECT usename::text, ''::text FROM pg_user WHERE usename = $1",
        userlist='"postgres" ""',
        max_db_connections=1,
    )
    with Sampler(
        postgres, f"datname = '{DATABASE}' AND usename IN ('{USER}', 'postgres')"
    ) as sampler:
        for _ in range(4):
            with pooler.connect(autocommit=True) as client:
                assert client.execute("SELECT 1").fetchone() == (1,)
    assert sampler.most == 1
