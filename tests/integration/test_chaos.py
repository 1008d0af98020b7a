# SPDX-License-Identifier: MIT
"""Limits and answers under random load while workers and servers are lost.

POOLER_CHAOS_SECONDS makes the long runs longer, POOLER_CHAOS_SEED makes them others.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest

from pooler.demo.postgres import Postgres
from tests.integration.chaos import (
    SLOT_BITS,
    Deaths,
    Killer,
    LimitSampler,
    Load,
    Visits,
    look_at_accounts,
    network,
    restart,
    shown,
    wait_at_rest,
    wait_grown,
)
from tests.integration.harness import (
    HOST,
    MakePooler,
    Pooler,
    rss_bytes,
    wait_until,
)
from tests.integration.meddler import Meddler
from tests.name_server import NameServer
from tests.wire_client import ConnectionEnded, WireClient, query, startup

SECONDS = float(os.environ.get("POOLER_CHAOS_SECONDS", "20"))
SEED = int(os.environ.get("POOLER_CHAOS_SEED", "1"))
CLIENTS = 16
MOST_CLIENTS = 60
POOL_SIZE = 3
MOST_OF_DATABASE = 5
MOST_OF_USER = 7
A_MOMENT_S = 3.0
EXACT_S = 3.0  # a second, and what a busy machine takes

DATABASES = {
    "by_transaction": f"dbname=chaos_1 max_db_connections={MOST_OF_DATABASE}",
    "by_session": "dbname=chaos_2 pool_mode=session",
    "by_statement": "dbname=chaos_3 pool_mode=statement",
}
USERS = ("chaos_a", "chaos_b")
POOLS = [
    (database, user, database.removeprefix("by_"))
    for database in DATABASES
    for user in USERS
]


@pytest.fixture(scope="module")
def chaos_postgres(postgres: Postgres) -> Iterator[Postgres]:
    """Shared by all tests of this module."""
    fill(postgres)
    yield postgres
    for number in range(1, 4):
        postgres.psql(f"DROP DATABASE chaos_{number} WITH (FORCE)")
    for user in USERS:
        postgres.psql(f"DROP ROLE {user}")


def fill(postgres: Postgres) -> None:
    """Three databases, each with a table for what was committed."""
    for user in USERS:
        postgres.psql(f"CREATE ROLE {user} LOGIN")
    for number in range(1, 4):
        postgres.psql(f"CREATE DATABASE chaos_{number}")
        postgres.psql(
            "CREATE TABLE ledger (t text); GRANT ALL ON ledger TO PUBLIC",
            f"chaos_{number}",
        )


FULL = [pytest.mark.full, pytest.mark.timeout(4 * SECONDS + 600)]
LONG = pytest.param(SECONDS, marks=FULL)


def make(
    make_pooler: MakePooler,
    workers: int,
    databases: Mapping[str, str] = DATABASES,
    **more: object,
) -> Pooler:
    settings: dict[str, Any] = {
        "workers": workers,
        "default_pool_size": POOL_SIZE,
        "max_user_connections": MOST_OF_USER,
        "max_client_conn": MOST_CLIENTS,
        "worker_stuck_timeout": Killer.STUCK_S,
        "admin_users": "app",
        "log_connections": 0,
        "log_disconnections": 0,
        **more,
    }
    return make_pooler(databases, **settings)


def check_limits(sampler: LimitSampler) -> None:
    assert sampler.looks > 20
    for (database, user), most in sampler.most.items():
        if user in USERS:
            assert 1 <= most <= POOL_SIZE, (database, user, most)
    assert sampler.most_of_database["chaos_1"] <= MOST_OF_DATABASE
    for user in USERS:
        assert sampler.most_of_user[user] <= MOST_OF_USER


def check_ledger(postgres: Postgres, load: Load) -> None:
    """What was committed is there, and nothing of what was left open."""
    found = {
        row[0]
        for number in range(1, 4)
        for row in postgres.psql("SELECT t FROM ledger", f"chaos_{number}")
    }
    assert not load.kept - found
    assert not [one for one in found if one.startswith("lost")]


def check_places(pooler: Pooler, postgres: Postgres) -> None:
    """Each limit can be reached, and not be passed, by clients and by servers."""
    with ExitStack() as stack:
        came = 0
        for _ in range(MOST_CLIENTS + 3):
            client = stack.enter_context(WireClient(pooler.port))
            try:
                client.login("chaos_a", "by_transaction")
            except (AssertionError, ConnectionEnded):
                continue
            came += 1
            if came <= POOL_SIZE:
                begin(client, pooler, postgres)
        assert came == MOST_CLIENTS
        assert postgres.psql(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE state = 'idle in transaction' AND usename = 'chaos_a'"
        ) == [(POOL_SIZE,)]


def begin(client: WireClient, pooler: Pooler, postgres: Postgres) -> None:
    """A client gets a server; if not, what is said of those that there are."""
    try:
        client.ask(query("BEGIN"))
    except TimeoutError:
        rows = [list(row.values()) for row in shown(pooler, "SHOW POOLS")]
        seen = look_at_accounts(pooler, postgres)
        raise AssertionError(f"no server: {seen}, {rows}") from None


def watch(
    load: Load, postgres: Postgres, seconds: float, killer: Killer | None = None
) -> None:
    """Load for a time, with all that is to be true meanwhile and afterwards."""
    pooler = load.pooler
    with LimitSampler(postgres) as sampler:
        with load.running(CLIENTS), killer or nullcontext():
            load.go_on(seconds)
        took_s = wait_at_rest(pooler, postgres, EXACT_S)
    load.tell()
    sampler.tell()
    print(f"exact after {took_s:.2f} s")
    assert load.deeds > CLIENTS
    check_limits(sampler)
    check_ledger(postgres, load)
    check_places(pooler, postgres)


def kill_and_watch(pooler: Pooler, postgres: Postgres, seconds: float) -> None:
    deaths = Deaths()
    load = Load(pooler, POOLS, deaths, SEED)
    watch(load, postgres, seconds, Killer(pooler, deaths, SEED))
    assert deaths.times


@pytest.mark.parametrize(
    ("workers", "seconds"),
    [(1, 2), (2, 2), *(pytest.param(n, SECONDS, marks=FULL) for n in range(1, 5))],
)
def test_workers_are_killed(
    make_pooler: MakePooler, chaos_postgres: Postgres, workers: int, seconds: float
) -> None:
    kill_and_watch(make(make_pooler, workers), chaos_postgres, seconds)


@pytest.mark.full
def test_nobody_notices_anything_if_nobody_dies(
    make_pooler: MakePooler, chaos_postgres: Postgres
) -> None:
    load = Load(make(make_pooler, 2), POOLS, Deaths(), SEED)
    watch(load, chaos_postgres, 10)
    assert load.lost == 0


# The network


@pytest.fixture
def meddlers() -> Iterator[Callable[[int], Meddler]]:
    made: list[Meddler] = []

    def make_meddler(target: int) -> Meddler:
        made.append(Meddler(target, SEED))
        return made[-1]

    yield make_meddler
    for one in made:
        one.close()


@pytest.mark.parametrize("seconds", [2, LONG])
def test_a_bad_network_of_clients(
    make_pooler: MakePooler,
    chaos_postgres: Postgres,
    meddlers: Callable[[int], Meddler],
    seconds: float,
) -> None:
    """Whoever's connection is spoilt is lost; limits and answers are as ever."""
    pooler = make(make_pooler, 2)
    meddler = meddlers(pooler.port)
    load = Load(pooler, POOLS, Deaths(), SEED, meddler.port, network)
    watch(load, chaos_postgres, seconds)
    assert meddler.spoilt


@pytest.mark.parametrize("seconds", [2, LONG])
def test_a_bad_network_of_servers(
    make_pooler: MakePooler,
    chaos_postgres: Postgres,
    meddlers: Callable[[int], Meddler],
    seconds: float,
) -> None:
    """A client that has lost its server hears so; afterwards all is well again.

    Backends whose connection was lost behind our back are nothing that we can count:
    these notice it by themselves, also one whose cancel request was lost.
    """
    for user in USERS:
        check = "client_connection_check_interval = '200ms'"
        chaos_postgres.psql(f"ALTER ROLE {user} SET {check}")
    meddler = meddlers(chaos_postgres.port)
    databases = {
        name: f"host={HOST} port={meddler.port} {entry}"
        for name, entry in DATABASES.items()
    }
    pooler = make(make_pooler, 2, databases, server_login_retry=0.5)
    load = Load(pooler, POOLS, Deaths(), SEED, is_expected=network)
    with load.running(CLIENTS):
        load.go_on(seconds)
    meddler.heal()
    wait_at_rest(pooler, chaos_postgres, EXACT_S)
    for user in USERS:
        chaos_postgres.psql(f"ALTER ROLE {user} RESET ALL")
    load.tell()
    assert meddler.spoilt
    assert load.lost
    check_ledger(chaos_postgres, load)
    check_places(pooler, chaos_postgres)


@pytest.mark.parametrize("seconds", [2, LONG])
def test_a_name_server_falls_silent(
    make_pooler: MakePooler, chaos_postgres: Postgres, tmp_path: Path, seconds: float
) -> None:
    """Whom it need not be asked about is served as ever, also under names known before.

    Clients come all the while whose databases nobody can find.
    """
    name_server = NameServer(tmp_path)
    name_server.set("known.example", HOST)
    where = {"by_transaction": HOST, "by_session": "known.example"}
    where |= {f"lost{number}": f"lost{number}.example" for number in range(8)}
    databases = {
        name: f"host={host} port={chaos_postgres.port} {DATABASES.get(name, '')}"
        for name, host in where.items()
    }
    pooler = make(
        make_pooler,
        2,
        databases,
        resolv_conf=name_server.resolv_conf,
        dns_max_ttl=1,
        max_client_conn=1000,
    )
    load = Load(pooler, POOLS[:4], Deaths(), SEED)
    with ExitStack() as stack:
        stack.callback(name_server.close)
        workers: set[int] = set()
        while len(workers) < 2:  # by then both know the name
            with pooler.wire().login("chaos_a", "by_session") as client:
                assert client.value("SELECT 1") == "1"
                workers.add(client.key[0] & SLOT_BITS)
        for host in set(where.values()) - {HOST}:
            name_server.silence(host)
        for number in range(200):
            lost = stack.enter_context(pooler.wire())
            lost.send(startup("chaos_a", f"lost{number % 8}"))
        with load.running(CLIENTS):
            load.go_on(seconds)
        load.tell()
        assert load.lost == 0
        assert load.longest_login_s < A_MOMENT_S
        assert name_server.asked("known.example") > 1


# PostgreSQL


@pytest.mark.full
def test_postgres_is_killed(make_pooler: MakePooler) -> None:
    """Its clients hear so; when it is there again all is well, for all."""
    with Postgres(settings={"synchronous_commit": "on"}) as own:
        own.psql("CREATE ROLE app LOGIN")
        fill(own)
        databases = {
            name: f"host={HOST} port={own.port} {entry}"
            for name, entry in DATABASES.items()
        }
        pooler = make(make_pooler, 2, databases, server_login_retry=0.5)
        load = Load(pooler, POOLS, Deaths(), SEED, is_expected=restart)
        with load.running(CLIENTS):
            for _ in range(3):
                load.go_on(1.5)
                os.kill(own.pid, signal.SIGKILL)
                own.restart()
        load.tell()
        assert load.lost
        check_ledger(own, load)
        watch(Load(pooler, POOLS, Deaths(), SEED), own, 2)


# What is left


def descriptors(pid: int) -> int:
    return psutil.Process(pid).num_fds()


@pytest.mark.parametrize("kills", [pytest.param(200, marks=FULL)])
def test_kills_in_a_row_leave_nothing(
    make_pooler: MakePooler, chaos_postgres: Postgres, kills: int
) -> None:
    """New clients wait no more than a moment, and the master grows by nothing."""
    pooler = make(make_pooler, 4)
    deaths = Deaths()
    visits = Visits(pooler, deaths)
    children = len(psutil.Process(pooler.pid).children())
    with visits:
        wait_until(lambda: visits.count > 20, "visits")
        fds, memory = descriptors(pooler.pid), rss_bytes(pooler.pid)
        for number in range(0, kills, 2):
            slots = wait_grown(pooler)
            for slot in (number % 4, (number + 1) % 4):
                deaths.kill(slot, slots[slot])
        wait_grown(pooler)
    print(
        f"{visits.count} visits, {visits.lost} lost, longest {visits.longest_s:.2f} s"
    )
    assert visits.problems == []
    assert visits.longest_s < A_MOMENT_S
    wait_until(lambda: descriptors(pooler.pid) <= fds, "no descriptor is left")
    grown = rss_bytes(pooler.pid) - memory
    print(f"the master has grown by {grown} bytes")
    assert grown < 2_000_000
    assert len(psutil.Process(pooler.pid).children()) == children
    wait_at_rest(pooler, chaos_postgres, EXACT_S)
    check_places(pooler, chaos_postgres)
