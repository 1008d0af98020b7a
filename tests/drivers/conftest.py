# SPDX-License-Identifier: MIT
"""Fixtures: one PostgreSQL that replicates, and a pooler before it in each mode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pooler.demo.postgres import Postgres
from tests.drivers.askers import TABLES
from tests.drivers.target import DIRECT, MODES, REPLICATOR, Target, leftovers
from tests.integration.conftest import make_pooler, worker_in_process
from tests.integration.harness import DATABASE, HOST, USER, Pooler, wait_until

__all__ = ["make_pooler", "worker_in_process"]

# Few servers, so that concurrent clients must share them in transaction mode; as
# many as the clients that one test opens at the same time in session mode.
POOL_SIZES = {"session": 12, "transaction": 3}


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for every driver and for replication clients."""
    with Postgres(
        settings={
            "max_connections": "100",
            "max_prepared_transactions": "10",
            "max_replication_slots": "10",
            "max_wal_senders": "10",
            "wal_level": "logical",
        },
        # In the database column, `all` does not match physical replication.
        hba=f"host all all {HOST}/32 trust\nhost replication all {HOST}/32 trust\n",
    ) as server:
        server.psql(f"CREATE ROLE {USER} LOGIN")
        server.psql(f"CREATE ROLE {REPLICATOR} LOGIN REPLICATION")
        server.psql(f"CREATE DATABASE {DATABASE} OWNER {USER}")
        yield server


@pytest.fixture(scope="module", params=MODES)
def running(
    request: pytest.FixtureRequest,
    postgres: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Target]:
    """One pooler for all tests of a module that are in the same mode."""
    mode = request.param
    directory: Path = tmp_path_factory.mktemp(mode)
    settings = {
        # pgjdbc sends it; PgBouncer refuses it too, and its manual says this.
        "ignore_startup_parameters": "extra_float_digits",
        **({} if mode == DIRECT else {"pool_mode": mode}),
        "default_pool_size": POOL_SIZES.get(mode, 1),
    }
    pooler = Pooler(directory, postgres.port, settings=settings).start()
    try:
        yield Target(pooler, postgres, mode)
    finally:
        pooler.finish()


@pytest.fixture
def target(running: Target) -> Iterator[Target]:
    """The pooler; afterwards no client, transaction or lock may be left in it."""
    postgres = running.postgres
    postgres.psql(f"CREATE SCHEMA IF NOT EXISTS public AUTHORIZATION {USER}", DATABASE)
    yield running
    wait_until(lambda: running.pooler.sockets_of_workers() == 0, "clients leave")
    wait_until(lambda: not leftovers(postgres), "servers are idle", 5)
    running.clean()


@pytest.fixture
def tables(postgres: Postgres) -> Iterator[None]:
    """What the questions of ``askers`` are about."""
    with psycopg.connect(
        postgres.dsn(DATABASE), autocommit=True, options=f"-c role={USER}"
    ) as conn:
        conn.execute(TABLES, prepare=False)
        yield
        conn.execute("DROP TABLE things, shapes, taken, kept")
