# SPDX-License-Identifier: MIT
"""Limits and answers under random load while workers and servers are lost.

POOLER_CHAOS_SECONDS makes the long runs longer, POOLER_CHAOS_SEED makes them others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.chaos import (
    Deaths,
    Killer,
    LimitSampler,
    Load,
    wait_at_rest,
)
from tests.integration.harness import MakePooler, Pooler
from tests.wire_client import ConnectionEnded, WireClient, query

SECONDS = float(os.environ.get("POOLER_CHAOS_SECONDS", "20"))
SEED = int(os.environ.get("POOLER_CHAOS_SEED", "1"))
CLIENTS = 16
MOST_CLIENTS = 60
POOL_SIZE = 3
MOST_OF_DATABASE = 5
MOST_OF_USER = 7
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
    """Three databases, each with a table for what was committed."""
    for user in USERS:
        postgres.psql(f"CREATE ROLE {user} LOGIN")
    for number in range(1, 4):
        postgres.psql(f"CREATE DATABASE chaos_{number}")
        postgres.psql(
            "CREATE TABLE ledger (t text); GRANT ALL ON ledger TO PUBLIC",
            f"chaos_{number}",
        )
    yield postgres
    for number in range(1, 4):
        postgres.psql(f"DROP DATABASE chaos_{number} WITH (FORCE)")
    for user in USERS:
        postgres.psql(f"DROP ROLE {user}")


def make(make_pooler: MakePooler, workers: int, **more: object) -> Pooler:
    settings: dict[str, Any] = {
        "workers": workers,
        "default_pool_size": POOL_SIZE,
        "max_user_connections": MOST_OF_USER,
        "max_client_conn": MOST_CLIENTS,
        "admin_users": "app",
        "log_connections": 0,
        "log_disconnections": 0,
        **more,
    }
    return make_pooler(DATABASES, **settings)


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
                client.ask(query("BEGIN"))
        assert came == MOST_CLIENTS
        assert postgres.psql(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE state = 'idle in transaction' AND usename = 'chaos_a'"
        ) == [(POOL_SIZE,)]


def run(
    pooler: Pooler, postgres: Postgres, seconds: float, *, kill: bool = True
) -> Load:
    """Load for a time, with all that is to be true meanwhile and afterwards."""
    deaths = Deaths()
    load = Load(pooler, POOLS, deaths, SEED)
    with LimitSampler(postgres) as sampler:
        with load.running(CLIENTS), ExitStack() as stack:
            if kill:
                stack.enter_context(Killer(pooler, deaths, SEED))
            load.go_on(seconds)
        took_s = wait_at_rest(pooler, postgres, EXACT_S)
    print(
        f"{load.visits} visits, {load.deeds} deeds, {len(deaths.times)} kills,"
        f" {load.lost} lost, {sampler.looks} looks, most {dict(sampler.most)},"
        f" {dict(sampler.most_of_database)}, {dict(sampler.most_of_user)},"
        f" longest login {load.longest_login_s:.2f} s, exact after {took_s:.2f} s"
    )
    assert not load.problems, "\n".join([*load.problems, f"killed: {deaths.times}"])
    assert load.deeds > CLIENTS
    assert not kill or deaths.times
    check_limits(sampler)
    check_ledger(postgres, load)
    check_places(pooler, postgres)
    return load


@pytest.mark.parametrize("workers", [1, 2])
def test_a_few_seconds_of_everything(
    make_pooler: MakePooler, chaos_postgres: Postgres, workers: int
) -> None:
    run(make(make_pooler, workers), chaos_postgres, 2)


@pytest.mark.full
@pytest.mark.timeout(60 + 3 * SECONDS)
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_everything_for_long(
    make_pooler: MakePooler, chaos_postgres: Postgres, workers: int
) -> None:
    run(make(make_pooler, workers), chaos_postgres, SECONDS)


@pytest.mark.full
def test_nobody_notices_anything_if_nobody_dies(
    make_pooler: MakePooler, chaos_postgres: Postgres
) -> None:
    assert run(make(make_pooler, 2), chaos_postgres, 10, kill=False).lost == 0
