# SPDX-License-Identifier: MIT
"""asyncpg: its own protocol code, binary, with a cache of prepared statements."""

from __future__ import annotations

import asyncio
import datetime
import io
from collections.abc import Coroutine
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from tests.drivers.target import TIMEOUT_S, Target


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, TIMEOUT_S))


def options(target: Target) -> dict[str, Any]:
    return {
        "host": target.host,
        "port": target.port,
        "user": target.user,
        "database": target.database,
        "timeout": 10,
        "command_timeout": 20,
    }


class Connected:
    """A connection for ``async with``."""

    def __init__(self, target: Target, **more: Any) -> None:
        self._options = {**options(target), **more}

    async def __aenter__(self) -> Any:
        self._conn = await asyncpg.connect(**self._options)
        return self._conn

    async def __aexit__(self, *_: object) -> None:
        await self._conn.close(timeout=10)


def test_types_go_and_come(target: Target) -> None:
    values = {
        "int8": 2**62,
        "text": "naïve 東京",
        "numeric": Decimal("12.50"),
        "float8": 1.5,
        "bool": True,
        "date": datetime.date(2024, 2, 29),
        "bytea": b"\0\1\xff",
        "int[]": [1, None, 3],
        "text[]": ["a", "b'\\c"],
        "timestamptz": datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC),
    }

    async def work() -> None:
        async with Connected(target) as conn:
            for name, value in values.items():
                for _ in range(3):
                    found = await conn.fetchval(f"SELECT $1::{name}", value)
                    assert found == value, name
            # A composite type makes asyncpg look its parts up first.
            row = await conn.fetchrow("SELECT ROW(1, 'x'::text) AS pair, $1::int", 5)
            assert row["pair"] == (1, "x")

    run(work())


def test_queries(target: Target) -> None:
    async def work() -> None:
        async with Connected(target) as conn:
            rows = await conn.fetch("SELECT i FROM generate_series(1, $1) i", 5000)
            assert [row["i"] for row in rows] == list(range(1, 5001))
            assert await conn.execute("SELECT 1; SELECT 2") == "SELECT 1"
            text = "0123456789" * 100_000
            assert await conn.fetchval("SELECT $1::text", text) == text
            with pytest.raises(asyncpg.DivisionByZeroError):
                await conn.fetchval("SELECT 1 / $1::int", 0)
            with pytest.raises(asyncpg.PostgresSyntaxError):
                await conn.execute("SELEKT")
            assert await conn.fetchval("SELECT 1") == 1

    run(work())


def test_executemany(target: Target) -> None:
    table = target.table("many", "id int, name text")

    async def work() -> None:
        async with Connected(target) as conn:
            rows = [(number, "x" * number) for number in range(1000)]
            await conn.executemany(f"INSERT INTO {table} VALUES ($1, $2)", rows)
            with pytest.raises(asyncpg.DivisionByZeroError):
                await conn.executemany(
                    f"INSERT INTO {table} VALUES (1 / $1::int, $2)",
                    [(1, "a"), (0, "b"), (1, "c")],
                )
            found = await conn.fetchval(f"SELECT count(*) FROM {table}")
            assert found == 1000

    run(work())


def test_transactions(target: Target) -> None:
    table = target.table("moves", "id int PRIMARY KEY")
    insert = f"INSERT INTO {table} VALUES ($1)"

    async def work() -> None:
        async with Connected(target) as conn:
            async with conn.transaction(isolation="serializable"):
                await conn.execute(insert, 1)
                with pytest.raises(asyncpg.UniqueViolationError):
                    async with conn.transaction():
                        await conn.execute(insert, 1)
                await conn.execute(insert, 2)
            with pytest.raises(ZeroDivisionError):
                async with conn.transaction():
                    await conn.execute(insert, 3)
                    raise ZeroDivisionError
            found = await conn.fetch(f"SELECT id FROM {table} ORDER BY 1")
            assert [row["id"] for row in found] == [1, 2]

    run(work())


def test_cursor_and_prepared_in_a_transaction(target: Target) -> None:
    async def work() -> None:
        async with Connected(target) as conn, conn.transaction():
            query = "SELECT generate_series(1, $1::int)"
            found = [row[0] async for row in conn.cursor(query, 500, prefetch=60)]
            assert found == list(range(1, 501))
            cursor = await conn.cursor(query, 100)
            assert await cursor.forward(50) == 50
            assert (await cursor.fetchrow())[0] == 51
            prepared = await conn.prepare("SELECT $1::int + 1")
            assert [await prepared.fetchval(n) for n in range(5)] == [1, 2, 3, 4, 5]

    run(work())


def test_prepared_outside_a_transaction(target: Target) -> None:
    async def one(client: int) -> None:
        async with Connected(target) as conn:
            plus = await conn.prepare(f"SELECT $1::int + {client}")
            both = await conn.prepare("SELECT $1::text, $2::int[]")
            for number in range(10):
                assert await plus.fetchval(number) == number + client
                assert await both.fetchrow("é", [number]) == ("é", [number])
            await both.executemany([("x", [1]), ("y", [2])])

    async def work() -> None:
        await asyncio.gather(*map(one, range(10)))

    run(work())


def test_more_statements_than_it_keeps(target: Target) -> None:
    """It closes those that were used longest ago."""

    async def work() -> None:
        async with Connected(target, statement_cache_size=3) as conn:
            for number in range(50):
                query = f"SELECT $1::int + {number * number % 7}"
                assert await conn.fetchval(query, 1) == 1 + number * number % 7

    run(work())


def test_copy(target: Target) -> None:
    table = target.table("copied", "id int, name text")
    rows = [(number, f"naïve\t{number}") for number in range(20_000)]

    async def work() -> None:
        async with Connected(target) as conn:
            done = await conn.copy_records_to_table(table, records=rows)
            assert done == "COPY 20000"
            taken = io.BytesIO()
            await conn.copy_from_table(table, output=taken, format="csv")
            assert taken.getvalue().count(b"\n") == 20_000
            await conn.execute(f"TRUNCATE {table}")
            taken.seek(0)
            await conn.copy_to_table(table, source=taken, format="csv")
            assert await conn.fetchval(f"SELECT count(*) FROM {table}") == 20_000
            with pytest.raises(asyncpg.DataError):
                await conn.copy_to_table(table, source=io.BytesIO(b"x,y,z\n" * 9999))
            assert await conn.fetchval(f"SELECT count(*) FROM {table}") == 20_000

    run(work())


def test_close_after_an_argument_that_cannot_be_encoded(target: Target) -> None:
    """Parse, Describe and Flush are answered, no Sync was sent, and it says goodbye."""

    async def work() -> None:
        for _ in range(3):
            conn = await asyncpg.connect(**options(target))
            with pytest.raises(asyncpg.DataError):
                await conn.fetch("SELECT $1::int", "no number")
            await conn.close(timeout=5)

    run(work())


def test_cancel_by_timeout(target: Target) -> None:
    async def work() -> None:
        async with Connected(target) as conn:
            for _ in range(3):
                with pytest.raises(asyncio.TimeoutError):
                    await conn.execute("SELECT pg_sleep(25)", timeout=0.2)
                assert await conn.fetchval("SELECT 1") == 1
            with pytest.raises(asyncio.TimeoutError):
                await conn.fetch("SELECT pg_sleep($1)", 25, timeout=0.2)
            assert await conn.fetchval("SELECT 1") == 1

    run(work())
    assert not target.runs("SELECT pg_sleep")


def test_notifications(target: Target) -> None:
    if not target.session:
        pytest.skip("LISTEN belongs to the session")

    async def work() -> None:
        async with Connected(target) as listener, Connected(target) as speaker:
            heard: asyncio.Queue[str] = asyncio.Queue()
            await listener.add_listener("news", lambda *said: heard.put_nowait(said[3]))
            await speaker.execute("NOTIFY news, 'flash'")
            assert await asyncio.wait_for(heard.get(), 10) == "flash"
            await listener.remove_listener("news", lambda *_: None)

    run(work())


def test_its_pool(target: Target) -> None:
    """Its own pool resets a connection when it comes back."""

    async def work() -> None:
        pool = await asyncpg.create_pool(min_size=2, max_size=8, **options(target))
        try:

            async def one(number: int) -> int:
                async with pool.acquire(timeout=20) as conn, conn.transaction():
                    return int(await conn.fetchval("SELECT $1::int", number))

            found = await asyncio.gather(*map(one, range(200)))
            assert found == list(range(200))
        finally:
            await asyncio.wait_for(pool.close(), 10)

    run(work())


def test_clients_at_once(target: Target) -> None:
    """Without transactions too: each batch of asyncpg stands for itself."""

    async def one(client: int) -> None:
        async with Connected(target) as conn:
            for number in range(20):
                query = f"SELECT $1::int + {client}"
                assert await conn.fetchval(query, number) == number + client

    async def work() -> None:
        await asyncio.gather(*map(one, range(10 if target.session else 30)))

    run(work())


def test_terminate(target: Target) -> None:
    """It closes the socket at once, in a transaction."""
    table = target.table("gone", "id int")

    async def work() -> None:
        conn = await asyncpg.connect(**options(target))
        await conn.execute("BEGIN")
        await conn.execute(f"INSERT INTO {table} VALUES (1)")
        conn.terminate()
        async with Connected(target) as other:
            await other.execute(f"INSERT INTO {table} VALUES (2)")

    run(work())
    assert target.sql(f"SELECT id FROM {table}") == [(2,)]
