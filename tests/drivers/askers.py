# SPDX-License-Identifier: MIT
"""Clients of several drivers, and questions whose answers are known beforehand.

No two questions have the same answer, so a statement that stands for another shows.
"""

from __future__ import annotations

import asyncio
import datetime
import random
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

import asyncpg
import psycopg

from tests.drivers.target import Row
from tests.integration.harness import DATABASE, HOST, USER, wait_until
from tests.wire_client import (
    SYNC,
    ConnectionEnded,
    Message,
    WireClient,
    bind,
    codes,
    describe,
    execute,
    message,
    parse,
    query,
    text,
)

WIRE_TIMEOUT_S = 20
EXTRA = 7  # what a column that comes and goes holds
ADMIN_SHUTDOWN = "57P01"

SHAPES = (
    "CREATE TABLE shapes AS SELECT id, 'shape ' || id AS name"
    " FROM generate_series(0, 99) id"
)
TABLES = f"""
    DROP TABLE IF EXISTS things, shapes, taken, kept;
    CREATE TABLE things AS SELECT id, 'thing ' || id AS name, id * 1.5 AS price
      FROM generate_series(0, 99) id;
    CREATE TABLE taken AS SELECT id FROM generate_series(0, 99) id;
    CREATE UNIQUE INDEX ON taken (id);
    CREATE TABLE kept (client int, step int);
    {SHAPES};
"""


class Refused(Exception):
    """PostgreSQL has answered with an error; the connection lives."""

    def __init__(self, sqlstate: str | None, said: object) -> None:
        super().__init__(f"{sqlstate}: {said}")
        self.sqlstate = sqlstate


class Lost(Exception):
    """The connection is gone."""


# ---------------------------------------------------------------- questions


@dataclass(frozen=True, slots=True)
class Question:
    """A statement with $1, $2 in this order, and the rows that it must give."""

    sql: str
    values: tuple[Any, ...]
    rows: list[Row]
    more_columns: bool = False

    def check(self, found: list[Row]) -> None:
        right = found
        if self.more_columns:
            right = [row[:2] for row in found]
            extra = [str(value) for row in found for value in row[2:]]
            assert extra in ([], [str(EXTRA)]), (self, found)
        assert right == self.rows, (self, found)


def ask_number(kind: int, n: int) -> Question:
    return Question(
        f"SELECT $1::int8 * 1000 + {kind} AS n{kind}", (n,), [(n * 1000 + kind,)]
    )


def ask_texts(kind: int, n: int) -> Question:
    long = "naïve 東京 " * (n % 5 * 100)
    return Question(
        f"SELECT $1::text || '-{kind}', $2::text, NULL::int",
        (f"t{n}", long),
        [(f"t{n}-{kind}", long, None)],
    )


def ask_rows(kind: int, n: int) -> Question:
    return Question(
        f"SELECT i, i * {kind}::int8, 'k{kind}' FROM generate_series(1, $1::int) i",
        (n % 60,),
        [(i, i * kind, f"k{kind}") for i in range(1, n % 60 + 1)],
    )


def ask_types(kind: int, n: int) -> Question:
    day = datetime.date(2024, 1, 1) + datetime.timedelta(n % 1000)
    return Question(
        f"SELECT $1::numeric + {kind}, $2::date + {kind}, $3::bool, $4::bytea,"
        f" $5::int[] || {kind}",
        (Decimal(n) / 4, day, n % 2 == 0, bytes([n % 256, 0]), [n, None]),
        [
            (
                Decimal(n) / 4 + kind,
                day + datetime.timedelta(kind),
                n % 2 == 0,
                bytes([n % 256, 0]),
                [n, None, kind],
            )
        ],
    )


def ask_thing(kind: int, n: int) -> Question:
    return Question(
        f"SELECT name, price, {kind} FROM things WHERE id = $1::int",
        (n % 100,),
        [(f"thing {n % 100}", Decimal(n % 100) * 3 / 2, kind)],
    )


def ask_shape(kind: int, n: int) -> Question:
    """From a table that is replaced; the result type stays as it is."""
    return Question(
        f"SELECT name, {kind} FROM shapes WHERE id = $1::int",
        (n % 100,),
        [(f"shape {n % 100}", kind)],
    )


def ask_whole_shape(kind: int, n: int) -> Question:
    """From a table that is replaced, whatever columns it has."""
    return Question(
        f"SELECT * FROM shapes WHERE id = $1::int AND {kind} = {kind}",
        (n % 100,),
        [(n % 100, f"shape {n % 100}")],
        more_columns=True,
    )


def ask_division(kind: int, n: int, divisor: int) -> Question:
    return Question(
        f"SELECT $1::int / $2::int, {kind}", (n, divisor), [(n // (divisor or 1), kind)]
    )


def insert_taken(kind: int, n: int) -> Question:
    return Question(f"INSERT INTO taken VALUES ($1::int + {kind} * 0)", (n % 100,), [])


Make = Callable[[int, int], Question]
PLAIN: tuple[Make, ...] = (ask_number, ask_texts, ask_rows, ask_types, ask_thing)


# ---------------------------------------------------------------- clients


class Client(Protocol):
    """One connection, which its owner replaces when it is lost."""

    makes: tuple[Make, ...]

    @classmethod
    async def connect(cls, port: int, number: int) -> Client:
        """Log in; clients with other numbers have other options."""

    async def close(self) -> None: ...

    async def ask(self, question: Question) -> list[Row]:
        """Ask by a statement that may be prepared."""

    async def command(self, sql: str) -> None:
        """Run a simple query."""


class Asyncpg:
    """It binds without looking at the result type again, so that must not change."""

    makes: tuple[Make, ...] = (*PLAIN, ask_shape)

    def __init__(self, conn: Any) -> None:
        self._conn = conn

    @classmethod
    async def connect(cls, port: int, number: int) -> Client:
        return cls(
            await asyncpg.connect(
                host=HOST,
                port=port,
                user=USER,
                database=DATABASE,
                timeout=20,
                command_timeout=30,
                statement_cache_size=(100, 4)[number % 2],
            )
        )

    async def close(self) -> None:
        self._conn.terminate()

    async def _do(self, work: Awaitable[Any]) -> Any:
        try:
            return await work
        except asyncpg.PostgresError as error:
            if error.sqlstate == ADMIN_SHUTDOWN or self._conn.is_closed():
                raise Lost(error) from error
            raise Refused(error.sqlstate, error) from error
        except asyncpg.ProtocolError:
            raise
        except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
            # Internal: the FATAL message had come before the query was sent.
            await asyncio.to_thread(wait_until, self._conn.is_closed)
            raise Lost(error) from error

    async def ask(self, question: Question) -> list[Row]:
        rows = await self._do(self._conn.fetch(question.sql, *question.values))
        return [tuple(row) for row in rows]

    async def command(self, sql: str) -> None:
        await self._do(self._conn.execute(sql))


class Psycopg:
    """It reads the result type from each answer."""

    makes: tuple[Make, ...] = (*PLAIN, ask_shape, ask_whole_shape)
    THRESHOLDS = (0, 1, 5, None)  # 5 is psycopg's default

    def __init__(self, conn: psycopg.AsyncConnection[Row], number: int) -> None:
        self.conn = conn
        self.conn.prepared_max = (100, 4)[number // 2 % 2]
        self._binary = number % 2 == 0

    @classmethod
    async def connect(cls, port: int, number: int) -> Psycopg:
        conn = await psycopg.AsyncConnection.connect(
            host=HOST,
            port=port,
            user=USER,
            dbname=DATABASE,
            connect_timeout=20,
            autocommit=True,
            prepare_threshold=cls.THRESHOLDS[number % len(cls.THRESHOLDS)],
        )
        return cls(conn, number)

    async def close(self) -> None:
        await self.conn.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            if error.sqlstate in (None, ADMIN_SHUTDOWN) or self.conn.closed:
                raise Lost(error) from error
            raise Refused(error.sqlstate, error) from error

    async def run(
        self, sql: str, values: tuple[Any, ...] | None = None, **options: Any
    ) -> list[Row]:
        with self._translated():
            cursor = await self.conn.execute(sql, values, **options)
            return await cursor.fetchall() if cursor.description else []

    def _arguments(self, question: Question) -> dict[str, Any]:
        return {
            "query": re.sub(r"\$\d", "%s", question.sql),
            "params": question.values,
            "binary": self._binary,
        }

    async def ask(self, question: Question) -> list[Row]:
        with self._translated():
            cursor = await self.conn.execute(**self._arguments(question))
            return await cursor.fetchall() if cursor.description else []

    async def ask_together(self, questions: list[Question]) -> list[list[Row]]:
        """In one batch."""
        with self._translated():
            async with self.conn.pipeline():
                cursors = [
                    await self.conn.execute(**self._arguments(one)) for one in questions
                ]
                return [await one.fetchall() for one in cursors]

    async def command(self, sql: str) -> None:
        await self.run(sql, prepare=False)


class Raw:
    """It prepares in one round trip and executes in another, or does all in one."""

    makes: tuple[Make, ...] = (ask_number, ask_rows, ask_whole_shape)
    MOST_NAMES = 5

    def __init__(self, wire: WireClient, number: int) -> None:
        self._wire = wire
        self._dice = random.Random(number)
        self._named = number % 2 == 0
        self._names: dict[str, str] = {}  # of SQL; other texts' in other clients

    @classmethod
    async def connect(cls, port: int, number: int) -> Client:
        def login() -> WireClient:
            return WireClient(port, timeout_s=WIRE_TIMEOUT_S).login(USER, DATABASE)

        return cls(await asyncio.to_thread(login), number)

    async def close(self) -> None:
        self._wire.close()

    async def _say(self, *parts: bytes) -> list[Message]:
        try:
            return await asyncio.to_thread(self._wire.ask, *parts)
        except (ConnectionEnded, ConnectionError) as error:
            raise Lost(error) from error

    async def _free_name(self) -> str:
        if not self._named:
            return ""
        if len(self._names) == self.MOST_NAMES:
            _, name = self._names.popitem()
            check(await self._say(close_statement(name), SYNC))
        return min({f"s{n}" for n in range(5)} - set(self._names.values()))

    async def ask(self, question: Question) -> list[Row]:
        sql = question.sql
        name = self._names.get(sql)
        read: list[Message] = []
        first: tuple[bytes, ...] = ()
        if name is None:
            name = await self._free_name()
            first = (parse(sql, name), describe(name, "S"))
            if self._dice.randrange(2):
                read = await self._say(*first, SYNC)
                first = ()
        values = [str(value).encode() for value in question.values]
        if "E" not in codes(read):
            read += await self._say(
                *first, bind(*values, statement=name), describe(), execute(), SYNC
            )
        if name and read[0].code == "1":
            self._names[sql] = name
        check(read)
        shapes = [int.from_bytes(one.body[:2]) for one in read if one.code == "T"]
        rows = [one.row for one in read if one.code == "D"]
        assert all(len(row) == shapes[-1] for row in rows), (question, shapes, rows)
        return [tuple(row_value(value) for value in row) for row in rows]

    async def command(self, sql: str) -> None:
        check(await self._say(query(sql)))


def check(read: list[Message]) -> list[Message]:
    for one in read:
        if one.code == "E":
            raise Refused(one.fields["C"], one.fields["M"])
    return read


def row_value(raw: bytes | None) -> Any:
    """The values of the questions that raw clients ask: numbers, else texts."""
    if raw is None:
        return None
    return int(raw) if raw.lstrip(b"-").isdigit() else raw.decode()


def close_statement(name: str = "") -> bytes:
    return message("C", b"S" + text(name))


@contextmanager
def another_server(port: int) -> Iterator[None]:
    """Keep the server that was used last, so that the next one is another."""
    with WireClient(port).login(USER, DATABASE) as blocker:
        blocker.ask(query("BEGIN"))
        yield
