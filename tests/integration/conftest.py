# SPDX-License-Identifier: MIT
"""Fixtures: a PostgreSQL for the session, poolers before it."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from pooler.demo.postgres import Postgres
from pooler.ipc.board import Board
from pooler.login.scram import KeyRequest
from tests.certificates import Certificates, make_certificates
from tests.integration.fake_server import FakeServer
from tests.integration.harness import (
    DATABASE,
    HOST,
    SERVER_PASSWORD,
    USER,
    Derivations,
    InProcess,
    MakePooler,
    Pooler,
)

# Who must come in which way; the databases are named for what they ask.
SECURE_HBA = """
local all all trust
host as_password all 127.0.0.1/32 password
host as_md5 all 127.0.0.1/32 md5
host as_scram all 127.0.0.1/32 scram-sha-256
hostssl as_cert all 127.0.0.1/32 cert
hostssl all by_tls 127.0.0.1/32 trust
hostnossl all in_clear 127.0.0.1/32 trust
hostssl all by_certificate 127.0.0.1/32 cert
host all by_tls,in_clear,by_certificate 127.0.0.1/32 reject
host all by_scram 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
"""


@pytest.fixture(scope="session")
def server_certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of ``secure_postgres``."""
    return make_certificates(
        tmp_path_factory.mktemp("tls"), "localhost", "db.example", "127.0.0.1"
    )


@pytest.fixture(scope="session")
def secure_postgres(server_certificates: Certificates) -> Iterator[Postgres]:
    """A server that offers TLS and asks for proofs."""
    with Postgres(hba=SECURE_HBA) as server:
        owner = server.data_dir.owner()
        for path in (
            server_certificates.cert_file,
            server_certificates.key_file,
            server_certificates.ca_file,
        ):
            there = server.data_dir / path.name
            shutil.copyfile(path, there)
            there.chmod(0o600)
            shutil.chown(there, owner)
        for name, value in (
            ("ssl_cert_file", server_certificates.cert_file.name),
            ("ssl_key_file", server_certificates.key_file.name),
            ("ssl_ca_file", server_certificates.ca_file.name),
            ("ssl", "on"),
        ):
            server.psql(f"ALTER SYSTEM SET {name} = '{value}'")
        server.reload()
        for user in ("by_tls", "in_clear", "by_certificate", "by_scram", USER):
            server.psql(
                f"SET password_encryption = 'scram-sha-256';"
                f" CREATE ROLE {user} LOGIN PASSWORD '{SERVER_PASSWORD}'"
            )
        server.psql(f"CREATE DATABASE {DATABASE}")
        yield server


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
        board = settings.pop("board", None)
        assert isinstance(port, int)
        assert board is None or isinstance(board, Board)
        made.append(InProcess(directory, port, board, **settings))
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


REPLICATION_HBA = (
    "local all all trust\n"
    "host all all 127.0.0.1/32 trust\n"
    "host replication all 127.0.0.1/32 trust\n"
)


@pytest.fixture(scope="module")
def primary() -> Iterator[Postgres]:
    """A PostgreSQL that others may replicate from."""
    with Postgres(settings={"wal_level": "logical"}, hba=REPLICATION_HBA) as postgres:
        yield postgres
