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
