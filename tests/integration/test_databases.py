# SPDX-License-Identifier: MIT
"""Databases are made, copied, renamed and dropped through the pooler, as test runners
do it: no idle server is in the way, but a client is, as it would be without us.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import USER, Pooler
from tests.wire_client import SYNC, WireClient, extended, query, startup

OBJECT_IN_USE = "55006"
UNKNOWN_DATABASE = "3D000"
NAMES = (f"made_{number}" for number in itertools.count())
Send = Callable[[str], bytes]


@pytest.fixture(scope="module", params=["session", "transaction"])
def pooler(
    postgres: Postgres,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pooler]:
    """With two workers: the idle server may be the other one's."""
    postgres.psql(f"ALTER ROLE {USER} CREATEDB")
    made = Pooler(
        tmp_path_factory.mktemp("databases"),
        postgres.port,
        {"*": f"user={USER}"},
        {"pool_mode": request.param, "workers": 2},
    )
    try:
        yield made.start()
    finally:
        made.finish()
        postgres.psql(f"ALTER ROLE {USER} NOCREATEDB")


@pytest.fixture
def owner(pooler: Pooler) -> Iterator[WireClient]:
    with pooler.client("postgres") as client:
        yield client


def state(client: WireClient, request: bytes) -> str | None:
    """The SQLSTATE of the answer, if it is an error."""
    errors = [one.fields["C"] for one in client.ask(request) if one.code == "E"]
    return errors[0] if errors else None


def use(pooler: Pooler, database: str, clients: int = 4) -> None:
    """Leave idle servers in each worker, most likely."""
    for _ in range(clients):
        with pooler.client(database) as client:
            assert client.value("SELECT 1") == "1"


def made(owner: WireClient) -> str:
    name = next(NAMES)
    assert state(owner, query(f"CREATE DATABASE {name}")) is None
    return name


@pytest.mark.parametrize(
    "send", [query, lambda sql: extended(sql) + SYNC], ids=["simple", "extended"]
)
def test_an_idle_server_is_in_nobodys_way(
    pooler: Pooler, owner: WireClient, send: Send
) -> None:
    name = made(owner)
    use(pooler, name)
    assert (
        state(owner, send(f'CREATE DATABASE copy_of_{name} TEMPLATE "{name}"')) is None
    )
    use(pooler, name)
    assert state(owner, send(f"ALTER DATABASE {name} RENAME TO new_{name}")) is None
    use(pooler, f"new_{name}")
    use(pooler, f"copy_of_{name}", 1)
    assert state(owner, send(f"/* gone */ DROP DATABASE new_{name}")) is None
    assert state(owner, send(f"drop  database if exists copy_of_{name}")) is None


def test_a_client_is_in_the_way(pooler: Pooler, owner: WireClient) -> None:
    """Though it has no server of its own at that time."""
    if pooler.settings["pool_mode"] == "session":
        return  # then PostgreSQL itself sees it, and takes five seconds to say so
    name = made(owner)
    with pooler.client(name) as client:
        assert client.value("SELECT 1") == "1"
        assert state(owner, query(f"DROP DATABASE {name}")) == OBJECT_IN_USE
        assert client.value("SELECT 2") == "2"
    assert state(owner, query(f"DROP DATABASE {name}")) is None


def login_error(pooler: Pooler, database: str) -> str:
    with pooler.wire() as client:
        client.send(startup(USER, database))
        return client.read_fatal()["C"]


def test_a_database_that_is_made_is_there_at_once(
    pooler: Pooler, owner: WireClient
) -> None:
    """No login of before is remembered; nor is the greeting, once it is dropped."""
    name = next(NAMES)
    for _ in range(2):
        assert login_error(pooler, name) == UNKNOWN_DATABASE
        assert state(owner, query(f"CREATE DATABASE {name}")) is None
        use(pooler, name)
        assert state(owner, query(f"DROP DATABASE {name}")) is None
