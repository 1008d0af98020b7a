# SPDX-License-Identifier: MIT
"""psycopg 3 under asyncio: many clients at once, pipelines, COPY, cancel."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import psycopg
import pytest

from tests.drivers.target import TIMEOUT_S, Target

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, TIMEOUT_S))


async def connect(target: Target, **more: Any) -> Connection:
    return await psycopg.AsyncConnection.connect(
        host=target.host,
        port=target.port,
        user=target.user,
        dbname=target.database,
        connect_timeout=10,
        **more,
    )


THRESHOLDS = pytest.mark.parametrize("threshold", [5, 1, 0])


@THRESHOLDS
def test_clients_at_once(target: Target, threshold: int) -> None:
    """Transactions of many clients do not mix, and none is lost."""
    table = target.table("sums", "client int, step int, pid int")
    clients = 10 if target.session else 30
    steps = 15

    async def work(client: int) -> None:
        async with await connect(target, prepare_threshold=threshold) as conn:
            for step in range(steps):
                async with conn.transaction(), conn.cursor() as cursor:
                    insert = f"INSERT INTO {table} VALUES (%s, %s, pg_backend_pid())"
                    await cursor.execute(insert, (client, step))
                    query = f"SELECT max(step) FROM {table} WHERE client = %s"
                    await cursor.execute(query, (client,))
                    assert await cursor.fetchone() == (step,)

    async def all_of_them() -> None:
        await asyncio.gather(*map(work, range(clients)))

    run(all_of_them())
    assert target.value(f"SELECT count(*) FROM {table}") == clients * steps
    servers = target.value(f"SELECT count(DISTINCT pid) FROM {table}")
    assert servers <= (clients if target.session else 3) or target.mode == "direct"


@THRESHOLDS
def test_pipelines_at_once(target: Target, threshold: int) -> None:
    async def work(client: int) -> None:
        options = {"autocommit": True, "prepare_threshold": threshold}
        async with await connect(target, **options) as conn:
            for _ in range(5):
                async with conn.pipeline() as pipeline:
                    cursors = []
                    for number in range(40):
                        query = "SELECT %s::int * 1000 + %s::int"
                        cursors.append(await conn.execute(query, (client, number)))
                        if number % 10 == 0:
                            await pipeline.sync()
                    found = [await one.fetchone() for one in cursors]
                assert found == [(client * 1000 + number,) for number in range(40)]

    async def all_of_them() -> None:
        await asyncio.gather(*map(work, range(10)))

    run(all_of_them())


def test_copy_at_once(target: Target) -> None:
    table = target.table("async_copied", "client int, number int")

    async def work(client: int) -> None:
        async with await connect(target) as conn, conn.cursor() as cursor:
            async with cursor.copy(f"COPY {table} FROM STDIN") as copy:
                for number in range(3000):
                    await copy.write_row((client, number))
            query = f"COPY (SELECT * FROM {table} WHERE client = {client}) TO STDOUT"
            async with cursor.copy(query) as copy:
                rows = [row async for row in copy.rows()]
            assert len(rows) == 3000

    async def all_of_them() -> None:
        await asyncio.gather(*map(work, range(8)))

    run(all_of_them())
    assert target.value(f"SELECT count(*) FROM {table}") == 24_000


def test_cancelled_task(target: Target) -> None:
    """When a task is cancelled psycopg cancels its query, and the connection lives."""

    async def work() -> None:
        async with await connect(target, autocommit=True) as conn:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(conn.execute("SELECT pg_sleep(25)"), 0.2)
            cursor = await conn.execute("SELECT 1")
            assert await cursor.fetchone() == (1,)

    run(work())


def test_server_side_cursor(target: Target) -> None:
    async def work() -> None:
        async with await connect(target) as conn, conn.cursor("rows") as cursor:
            await cursor.execute("SELECT generate_series(1, 1000)")
            cursor.itersize = 100
            assert [row[0] async for row in cursor] == list(range(1, 1001))

    run(work())


def test_notifications(target: Target) -> None:
    if not target.session:
        pytest.skip("LISTEN belongs to the session")

    async def work() -> None:
        async with (
            await connect(target, autocommit=True) as listener,
            await connect(target, autocommit=True) as speaker,
        ):
            await listener.execute("LISTEN news")
            await speaker.execute("NOTIFY news, 'flash'")
            heard = listener.notifies(timeout=10, stop_after=1)
            assert [one.payload async for one in heard] == ["flash"]

    run(work())
