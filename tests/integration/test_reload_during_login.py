# SPDX-License-Identifier: MIT
"""A server that logs in while the configuration changes is one of the old one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.fake_server import FakeServer, error
from tests.integration.harness import DATABASE, HOST, USER, MakePooler, Pooler
from tests.wire_client import WireClient, message, query, startup

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    made = FakeServer()
    yield made
    made.close()


def reload(pooler: Pooler, port: int, how: str) -> None:
    """Have the database elsewhere; return when it is."""
    pooler.databases = {DATABASE: f"host={HOST} port={port}"}
    pooler.write()
    with pooler.client("pgbouncer") as console:
        console.rows(how)


def begin(pooler: Pooler) -> WireClient:
    """A client that waits for the first server of its pool."""
    client = pooler.wire()
    client.send(startup(USER, DATABASE))
    return client


@pytest.mark.parametrize("workers", [1, 2])
def test_of_the_old_host(
    postgres: Postgres, server: FakeServer, make_pooler: MakePooler, workers: int
) -> None:
    """It is not used: the client would read, and write, where it should not."""
    old = {DATABASE: f"host={HOST} port={server.port}"}
    pooler = make_pooler(old, workers=workers, admin_users=USER)
    with begin(pooler) as client:
        backend = server.accept()
        reload(pooler, postgres.port, "RELOAD")
        backend.greet()
        client.read_greeting()
        assert client.value("SHOW port") == str(postgres.port)
        assert (
            client.parameters["server_version"][:2]
            == client.value("SHOW server_version")[:2]
        )
    for _ in range(4):
        with pooler.client() as client:
            assert client.value("SHOW port") == str(postgres.port)


def test_a_failure_of_the_old_host(
    postgres: Postgres, server: FakeServer, make_pooler: MakePooler
) -> None:
    """It says nothing of the new one: nobody is told, and there is no pause."""
    old = {DATABASE: f"host={HOST} port={server.port}"}
    pooler = make_pooler(old, admin_users=USER, server_login_retry=30)
    with begin(pooler) as client:
        backend = server.accept()
        reload(pooler, postgres.port, "RELOAD")
        backend.read_startup()
        backend.send(error("FATAL", "28P01", "password authentication failed"))
        client.read_greeting()
        assert client.value("SHOW port") == str(postgres.port)


def test_a_server_from_before_a_reconnect(
    postgres: Postgres, server: FakeServer, make_pooler: MakePooler
) -> None:
    """RECONNECT says that something has changed out there: a new login is made."""
    pooler = make_pooler(
        {DATABASE: f"host={HOST} port={server.port}"}, admin_users=USER
    )
    with begin(pooler) as client:
        backend = server.accept()
        with pooler.client("pgbouncer") as console:
            console.rows("RECONNECT")
        backend.greet()
        server.accept().greet()
        client.read_greeting()
        assert backend.is_closed()


def test_a_login_hears_of_a_failure_beside_a_server_that_leaves(
    server: FakeServer, make_pooler: MakePooler
) -> None:
    """What is on its way out serves nobody, however long its transaction lasts."""
    pooler = make_pooler(
        {DATABASE: f"host={HOST} port={server.port}"}, admin_users=USER
    )
    with begin(pooler) as busy:
        backend = server.accept().greet()
        busy.read_greeting()
        busy.send(query("BEGIN"))
        backend.read()
        backend.send(message("C", b"BEGIN\0") + message("Z", b"T"))
        busy.read_until("Z")
        with pooler.client("pgbouncer") as console:
            console.rows("RECONNECT")
        with begin(pooler) as late:
            refusing = server.accept()
            refusing.read_startup()
            refusing.send(error("FATAL", "28P01", "password authentication failed"))
            assert late.read_fatal()["C"] == "28P01"


def test_of_a_database_that_is_removed(
    server: FakeServer, make_pooler: MakePooler
) -> None:
    """Nobody asks for it any more, so it goes when it has logged in."""
    pooler = make_pooler(
        {DATABASE: f"host={HOST} port={server.port}"}, admin_users=USER
    )
    with begin(pooler) as client:
        backend = server.accept()
        pooler.databases = {"other": f"host={HOST} port={server.port}"}
        pooler.write()
        with pooler.client("pgbouncer") as console:
            console.rows("RELOAD")
        assert client.read_fatal()["M"] == "database removed"
        backend.greet()
        assert backend.is_closed()
