# SPDX-License-Identifier: MIT
"""Prepared statements over tables that change, in transaction mode.

What another client has prepared on a server is none of a client's business: it meets
neither the plan of another one nor rows of types that it was not told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from pooler.demo.postgres import Postgres
from tests.drivers.askers import EXTRA, Asyncpg, Question, another_server, check
from tests.drivers.target import TIMEOUT_S
from tests.integration.harness import (
    DATABASE,
    USER,
    MakePooler,
    Pooler,
    wait_until,
)
from tests.wire_client import (
    SYNC,
    WireClient,
    bind,
    codes,
    describe,
    execute,
    parse,
    query,
)

SERVERS = 3
WHOLE = "SELECT * FROM shapes WHERE id = $1::int"


@pytest.fixture
def shared(
    make_pooler: MakePooler, postgres: Postgres, tables: None
) -> Iterator[Pooler]:
    """One server, which has `SELECT *` statements that have gone stale."""
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as client:
        for name in ("", "", "whole"):
            read = client.ask(
                parse(WHOLE, name), bind(b"1", statement=name), execute(), SYNC
            )
            assert codes(read) == "12DCZ"
        client.ask(query("ALTER TABLE shapes ADD COLUMN extra int DEFAULT 7"))
        yield pooler


@pytest.mark.parametrize("name", ["", "mine"], ids=["unnamed", "named"])
@pytest.mark.parametrize("begin", [False, True], ids=["alone", "in-transaction"])
def test_stale_plan_of_another_client(shared: Pooler, begin: bool, name: str) -> None:
    """A client that prepares after the change never meets a plan from before it."""
    with shared.client() as client:
        if begin:
            client.ask(query("BEGIN"))
        read = client.ask(
            *(parse(WHOLE, name), bind(b"5", statement=name)),
            *(describe(), execute(), SYNC),
        )
        assert codes(read) == "12TDCZ", [one.fields for one in read if one.code == "E"]
        assert read[3].row == [b"5", b"shape 5", b"7"]


def test_stale_plan_of_another_client_in_a_batch(shared: Pooler) -> None:
    """Not the first statement of the batch."""
    with shared.client() as client:
        read = client.ask(
            *(parse("SELECT 1"), bind(), execute()),
            *(parse(WHOLE), bind(b"5"), describe(), execute(), SYNC),
        )
        assert codes(read) == "12DC12TDCZ", check(read)


def test_stale_plan_of_a_prepare_that_had_to_wait(
    make_pooler: MakePooler, postgres: Postgres, tables: None
) -> None:
    """The table changes between the pooler's PREPARE and the client's EXECUTE."""
    pooler = make_pooler(default_pool_size=SERVERS)

    def wait_for_locks(count: int) -> None:
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        wait_until(lambda: postgres.psql(waiting) == [(count,)], f"{count} wait")

    def direct() -> WireClient:
        return WireClient(postgres.port).login(USER, DATABASE)

    with pooler.client() as client, direct() as first, direct() as second:
        client.rows("PREPARE whole AS SELECT * FROM shapes WHERE id = 5")
        with another_server(pooler.port):
            first.ask(query("BEGIN; LOCK TABLE shapes"))
            client.send(query("EXECUTE whole"))
            wait_for_locks(1)
            second.send(query("ALTER TABLE shapes ADD COLUMN extra int DEFAULT 7"))
            wait_for_locks(2)
            first.ask(query("COMMIT"))
            read = check(client.read_until("Z"))
        (row,) = (one.row for one in read if one.code == "D")
        assert row in ([b"5", b"shape 5"], [b"5", b"shape 5", b"7"])


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same-server", "another"])
@pytest.mark.parametrize(
    "change",
    [
        "ALTER COLUMN price TYPE float4",
        "ALTER COLUMN price TYPE text",
        "ADD COLUMN extra int DEFAULT 7",
        "ALTER COLUMN id TYPE int8",
    ],
)
def test_types_that_a_driver_remembers(
    make_pooler: MakePooler, tables: None, change: str, elsewhere: bool
) -> None:
    """It hears that its statement is stale, as from PostgreSQL, and prepares anew.

    It reads and writes values by the types that it was told: others are garbage.
    """
    pooler = make_pooler(default_pool_size=SERVERS)
    question = Question("SELECT * FROM things WHERE id = $1", (4,), [])

    async def work() -> None:
        client = await Asyncpg.connect(pooler.port, 0)
        try:
            await client.command("ALTER TABLE things ALTER COLUMN price TYPE int")
            for _ in range(3):
                assert await client.ask(question) == [(4, "thing 4", 6)]
            await client.command(f"ALTER TABLE things {change}")
            with another_server(pooler.port) if elsewhere else nullcontext():
                ((id_, name, price, *more),) = await client.ask(question)
            assert (id_, name, float(price)) == (4, "thing 4", 6.0)
            assert more in ([], [EXTRA])
        finally:
            await client.close()

    asyncio.run(asyncio.wait_for(work(), TIMEOUT_S))
