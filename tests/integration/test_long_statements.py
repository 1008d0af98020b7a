# SPDX-License-Identifier: MIT
"""Statements of many megabytes, in transaction mode before a real PostgreSQL.

Longer than any queue may become, and than what the kernel takes at once. What is not
needed any more is given back.
"""

from __future__ import annotations

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import MakePooler, Pooler, backends, wait_until
from tests.wire_client import (
    SYNC,
    Message,
    WireClient,
    bind,
    codes,
    execute,
    parse,
    query,
)

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

MIB = 1 << 20
LONG = 80 * MIB
SLACK = 24 * MIB
LONG_SQL = f"SELECT length('{'x' * LONG}') + $1::int"


@pytest.fixture
def pooler(make_pooler: MakePooler) -> Pooler:
    """Two servers, and no limits of ours."""
    return make_pooler(
        default_pool_size=2, max_client_prepared_bytes=0, max_prepared_memory=0
    )


def connect(pooler: Pooler) -> WireClient:
    """PostgreSQL takes its time for such a text."""
    client = pooler.client()
    client.socket.settimeout(60)
    return client


def value_of(answer: list[Message]) -> int:
    """The only value of an answer."""
    assert "E" not in codes(answer), [one.fields for one in answer if one.code == "E"]
    [row] = [one.row for one in answer if one.code == "D"]
    assert row[0] is not None
    return int(row[0])


def error_of(answer: list[Message]) -> dict[str, str]:
    [failed] = [one for one in answer if one.code == "E"]
    return failed.fields


def memory_is_back(pooler: Pooler, before: int, kept: int = 0) -> None:
    """``kept``: bytes of texts that somebody still has."""
    wait_until(
        lambda: pooler.rss_bytes() < before + kept + SLACK,
        f"memory: {before} before, {pooler.rss_bytes()} now",
    )


def end_servers(postgres: Postgres) -> None:
    for pid in backends(postgres):
        postgres.psql(f"SELECT pg_terminate_backend({pid})")
    wait_until(lambda: not backends(postgres), "servers are gone")


def test_named_parse(postgres: Postgres, pooler: Pooler) -> None:
    """Also on a server that has not seen it."""
    asked = bind(b"1", statement="a") + execute() + SYNC
    with connect(pooler) as client, connect(pooler) as other:
        client.value("SELECT 1")
        before = pooler.rss_bytes()
        assert value_of(client.ask(parse(LONG_SQL, "a"), asked)) == LONG + 1
        other.ask(query("BEGIN"))
        assert value_of(client.ask(asked)) == LONG + 1
        other.ask(query("COMMIT"))
        memory_is_back(pooler, before, LONG)
        end_servers(postgres)
        memory_is_back(pooler, before, LONG)
    memory_is_back(pooler, before)


def test_execute(pooler: Pooler) -> None:
    """Its value streams: no more of it is held than of any long message."""
    with connect(pooler) as client:
        client.ask(query("PREPARE a(text, int) AS SELECT length($1) + $2"))
        before = pooler.rss_bytes()
        client.send(query(f"EXECUTE a('{'x' * LONG}', 1)")[: LONG // 2])
        memory_is_back(pooler, before)
        client.send(query(f"EXECUTE a('{'x' * LONG}', 1)")[LONG // 2 :])
        assert value_of(client.read_until("Z")) == LONG + 1
        memory_is_back(pooler, before)
        said = client.ask(query(f"EXECUTE b('{'x' * LONG}', 1)"))
        assert error_of(said)["M"] == 'prepared statement "b" does not exist'
        assert value_of(client.ask(query("EXECUTE a('x', 1)"))) == 2


def test_prepare(postgres: Postgres, pooler: Pooler) -> None:
    """Also on a server that has not seen it."""
    with connect(pooler) as client, connect(pooler) as other:
        client.value("SELECT 1")
        before = pooler.rss_bytes()
        said = client.ask(query(f"PREPARE a(int) AS {LONG_SQL}"))
        assert codes(said) == "CZ"
        memory_is_back(pooler, before, LONG)
        assert value_of(client.ask(query("EXECUTE a(1)"))) == LONG + 1
        said = client.ask(query(f"PREPARE a(int) AS {LONG_SQL}"))
        assert error_of(said)["M"] == 'prepared statement "a" already exists'
        other.ask(query("BEGIN"))
        assert value_of(client.ask(query("EXECUTE a(2)"))) == LONG + 2
        other.ask(query("COMMIT"))
        memory_is_back(pooler, before, LONG)
        client.ask(query("DEALLOCATE a"))
        end_servers(postgres)
        memory_is_back(pooler, before)


def test_prepare_over_the_limits(make_pooler: MakePooler) -> None:
    """It is refused by its length; what is sent of it is dropped."""
    pooler = make_pooler(default_pool_size=1)
    with connect(pooler) as client:
        client.value("SELECT 1")
        before = pooler.rss_bytes()
        said = client.ask(query(f"PREPARE a(int) AS {LONG_SQL}"), query("SELECT 1"))
        assert error_of(said)["C"] == "53400"
        assert value_of(client.read_until("Z")) == 1
        memory_is_back(pooler, before)


def test_client_that_leaves_in_the_middle(pooler: Pooler) -> None:
    with connect(pooler) as client:
        client.value("SELECT 1")
        before = pooler.rss_bytes()
        client.send(query(f"PREPARE a(int) AS {LONG_SQL}")[: LONG // 2])
        wait_until(lambda: pooler.rss_bytes() > before + LONG // 3, "it is being kept")
        client.reset()
        memory_is_back(pooler, before)
    with connect(pooler) as client:
        assert client.value("SELECT 1") == "1"
