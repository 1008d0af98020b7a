# SPDX-License-Identifier: MIT
"""Prepared statements over tables that change, in transaction mode.

What another client has prepared on a server is none of a client's business: it meets
neither the plan of another one nor rows of types that it was not told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, nullcontext
from decimal import Decimal
from typing import Protocol

import asyncpg
import psycopg
import pytest

from pooler.demo.postgres import Postgres
from tests.drivers.askers import EXTRA, TABLES, Asyncpg, Question, another_server, check
from tests.drivers.target import TIMEOUT_S
from tests.integration.harness import (
    DATABASE,
    HOST,
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


# ------------------------------------------------------------ beside PostgreSQL

BY_PRICE = "SELECT * FROM things WHERE price = {}"
CHANGES = {
    "none": "SELECT 1",
    "column gone": "ALTER TABLE things DROP COLUMN name",
    "column more": f"ALTER TABLE things ADD COLUMN extra int DEFAULT {EXTRA}",
    "result": "ALTER TABLE things ALTER COLUMN name TYPE bytea USING name::bytea",
    "parameter": "ALTER TABLE things ALTER COLUMN price TYPE text",
    "silent": "ALTER TABLE things ALTER COLUMN price TYPE float8",
    "gone": "DROP TABLE things",
}
STALE = "0A000"
Outcome = list[object]


class SyncAsker(Protocol):
    """One connection that asks by a price, and says what came of it."""

    def ask(self, price: object, within: bool) -> object: ...

    def close(self) -> None: ...


class AsyncpgAsker:
    """asyncpg: Parse, Describe and Flush; then Bind with a format for each column."""

    def __init__(self, port: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.conn = self.loop.run_until_complete(
            asyncpg.connect(host=HOST, port=port, user=USER, database=DATABASE)
        )

    async def _ask(self, price: object, within: bool) -> object:
        sql = BY_PRICE.format("$1")
        try:
            if not within:
                rows = await self.conn.fetch(sql, price)
            else:
                async with self.conn.transaction():
                    rows = await self.conn.fetch(sql, price)
        except (asyncpg.PostgresError, asyncpg.DataError) as error:
            return getattr(error, "sqlstate", None), type(error)
        return [list(row.items()) for row in rows]

    def ask(self, price: object, within: bool) -> object:
        return self.loop.run_until_complete(self._ask(price, within))

    def close(self) -> None:
        self.loop.run_until_complete(self.conn.close())
        self.loop.close()


class PsycopgAsker:
    """psycopg: Parse and Sync; then Bind, Describe and Execute."""

    binary = False

    def __init__(self, port: int) -> None:
        self.conn = psycopg.connect(
            host=HOST,
            port=port,
            user=USER,
            dbname=DATABASE,
            autocommit=True,
            prepare_threshold=0,
        )

    def ask(self, price: object, within: bool) -> object:
        sql = BY_PRICE.format("%s")
        try:
            with self.conn.transaction() if within else nullcontext():
                cursor = self.conn.execute(sql, (price,), binary=self.binary)
                names = [column.name for column in cursor.description or ()]
                return [list(zip(names, row, strict=True)) for row in cursor]
        except psycopg.Error as error:
            return error.sqlstate, type(error)

    def close(self) -> None:
        self.conn.close()


class PsycopgBinaryAsker(PsycopgAsker):
    binary = True


ASKERS: tuple[Callable[[int], SyncAsker], ...] = (
    AsyncpgAsker,
    PsycopgAsker,
    PsycopgBinaryAsker,
)
PRICES: tuple[object, ...] = (Decimal(6), "6.0", 6.0, Decimal(9))


def ask_all(asker: SyncAsker, within: bool) -> Outcome:
    return [asker.ask(price, within) for price in PRICES]


def change(postgres: Postgres, sql: str) -> None:
    """What the pooler does not see."""
    with WireClient(postgres.port).login(USER, DATABASE) as client:
        check(client.ask(query(sql)))


def is_stale(outcome: object) -> bool:
    return isinstance(outcome, tuple) and outcome[0] == STALE


@pytest.mark.parametrize("within", [False, True], ids=["alone", "in-transaction"])
@pytest.mark.parametrize("make", ASKERS, ids=lambda make: make.__name__)
def test_a_driver_is_told_what_postgresql_tells_it(
    make_pooler: MakePooler,
    postgres: Postgres,
    tables: None,
    make: Callable[[int], SyncAsker],
    within: bool,
) -> None:
    """One that has its statements from before a change, and one that begins then.

    Rows are never others. Where PostgreSQL fails a statement of before, a repeat may
    give it the rows of today; or it hears that its statement is stale.
    """
    pooler = make_pooler(default_pool_size=1)
    ports = (pooler.port, postgres.port)
    for name, sql in CHANGES.items():
        change(postgres, TABLES)
        with ExitStack() as ends:
            before, after = (
                [ends.enter_context(closing(make(port))) for port in ports]
                for _ in range(2)
            )
            compare(postgres, sql, before, after, within, name)
    change(postgres, TABLES)


def compare(
    postgres: Postgres,
    sql: str,
    before: list[SyncAsker],
    after: list[SyncAsker],
    within: bool,
    name: str,
) -> None:
    """Of each list the first is before the pooler, the second is straight."""
    assert ask_all(before[0], within) == ask_all(before[1], within), name
    change(postgres, sql)
    today = ask_all(after[1], within)
    assert ask_all(after[0], within) == today, name
    for _ in range(3):
        ours, right = (ask_all(one, within) for one in before)
        for mine, its, new in zip(ours, right, today, strict=True):
            assert mine == its or (
                isinstance(its, tuple) and (mine == new or is_stale(mine))
            ), (name, mine, its)
