# SPDX-License-Identifier: MIT
"""Fixtures: a PostgreSQL for the session, poolers before it."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from pooler.demo.postgres import Postgres
from pooler.login.scram import KeyRequest
from tests.integration.fake_server import FakeServer
from tests.integration.harness import (
    DATABASE,
    HOST,
    USER,
    Derivations,
    InProcess,
    MakePooler,
    Pooler,
)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server that lets everybody in; database ``bench`` of ``app`` for pgbench."""
    with Postgres(settings={"max_connections": "150"}) as server:
        server.psql(f"CREATE ROLE {USER} LOGIN")
        server.psql(f"CREATE DATABASE {DATABASE} OWNER {USER}")
        pgbench = server.installation.tool("pgbench")
        assert pgbench is not None
        target = ["-h", HOST, "-p", str(server.port), "-U", USER]
        subprocess.run(
            [pgbench, *target, "-i", "-s", "1", "-q", DATABASE],
            check=True,
            capture_output=True,
            timeout=60,
        )
        yield server


@pytest.fixture
def make_pooler(postgres: Postgres, tmp_path: Path) -> Iterator[MakePooler]:
    """Start poolers; all of them must end well."""
    made: list[Pooler] = []
    numbers = itertools.count()

    def make(
        databases: Mapping[str, str] | None = None,
        userlist: str | None = None,
        **settings: object,
    ) -> Pooler:
        directory = tmp_path / f"pooler{next(numbers)}"
        directory.mkdir()
        pooler = Pooler(directory, postgres.port, databases or {}, settings, userlist)
        made.append(pooler)
        return pooler.start()

    yield make
    problems: list[AssertionError] = []
    for pooler in made:
        try:
            pooler.finish()
        except AssertionError as problem:
            problems.append(problem)
    assert not problems, problems


@pytest.fixture
def worker_in_process(
    postgres: Postgres, tmp_path: Path
) -> Iterator[Callable[..., InProcess]]:
    """Start workers in threads; settings by keyword, ``server_port`` as well."""
    made: list[InProcess] = []

    def make(**settings: object) -> InProcess:
        directory = tmp_path / f"worker{len(made)}"
        directory.mkdir()
        port = settings.pop("server_port", postgres.port)
        assert isinstance(port, int)
        made.append(InProcess(directory, port, **settings))
        return made[-1]

    yield make
    for worker in made:
        worker.wait_for_clients_to_leave()
        worker.stop()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A PostgreSQL that the test plays."""
    made = FakeServer()
    yield made
    made.close()


@pytest.fixture
def worker(
    worker_in_process: Callable[..., InProcess], server: FakeServer
) -> InProcess:
    """A worker in front of it, with one server per pool."""
    return worker_in_process(server_port=server.port, default_pool_size=1)


@pytest.fixture
def derivations(monkeypatch: pytest.MonkeyPatch) -> Iterator[Derivations]:
    made = Derivations()
    monkeypatch.setattr(KeyRequest, "derive", lambda request: made.derive(request))
    yield made
    made.may_go.set()
