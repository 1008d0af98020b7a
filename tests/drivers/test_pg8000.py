# SPDX-License-Identifier: MIT
"""pg8000: pure Python; an execution takes three batches.

It parses, describes and binds the unnamed statement with a Sync after each, and so
outside a transaction each batch can meet another server. Its DB-API form begins
transactions by itself.
"""

from __future__ import annotations

import contextlib
import datetime
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pg8000.dbapi
import pg8000.native
import pytest

from tests.drivers.target import Target

Connect = Callable[..., Any]


@pytest.fixture
def connect(target: Target) -> Iterator[Connect]:
    with contextlib.ExitStack() as stack:

        def make(module: Any = pg8000.dbapi, **more: Any) -> Any:
            opener = getattr(module, "connect", None) or module.Connection
            made = opener(
                user=target.user,
                host=target.host,
                port=target.port,
                database=target.database,
                timeout=20,
                **more,
            )
            stack.callback(made.close)
            return made

        yield make


def test_types_go_and_come(connect: Connect) -> None:
    cursor = connect().cursor()
    for value, name in (
        (2**62, "int8"),
        ("naïve 東京", "text"),
        (Decimal("12.50"), "numeric"),
        (True, "bool"),
        (datetime.date(2024, 2, 29), "date"),
        (b"\0\1\xff", "bytea"),
        ([1, None, 3], "int4[]"),
        ("0123456789" * 100_000, "text"),
    ):
        cursor.execute(f"SELECT CAST(%s AS {name})", (value,))
        assert cursor.fetchone()[0] == value


def test_transactions(connect: Connect, target: Target) -> None:
    table = target.table("moves", "id int PRIMARY KEY")
    conn = connect()
    cursor = conn.cursor()
    cursor.execute(f"INSERT INTO {table} VALUES (%s)", (1,))
    conn.commit()
    with pytest.raises(pg8000.dbapi.DatabaseError, match="23505"):
        cursor.execute(f"INSERT INTO {table} VALUES (%s)", (1,))
    conn.rollback()
    cursor.execute(f"SELECT id FROM {table}")
    assert list(cursor.fetchall()) == [[1]]
    conn.commit()


def test_executemany(connect: Connect, target: Target) -> None:
    table = target.table("many", "id int, name text")
    conn = connect()
    rows = [(number, "x" * number) for number in range(200)]
    conn.cursor().executemany(f"INSERT INTO {table} VALUES (%s, %s)", rows)
    conn.commit()
    assert target.value(f"SELECT count(*) FROM {table}") == 200


def test_copy(connect: Connect, target: Target) -> None:
    table = target.table("copied", "id int, name text")
    text = "".join(f"{number}\tnaïve {number}\n" for number in range(10_000))
    conn = connect()
    cursor = conn.cursor()
    cursor.execute(f"COPY {table} FROM STDIN", stream=io.BytesIO(text.encode()))
    conn.commit()
    taken = io.BytesIO()
    cursor.execute(f"COPY {table} TO STDOUT", stream=taken)
    assert taken.getvalue().decode() == text
    conn.commit()


@pytest.mark.parametrize("begin", [True, False])
def test_prepared(connect: Connect, begin: bool) -> None:
    conn = connect(pg8000.native)
    if begin:
        conn.run("BEGIN")
    statement = conn.prepare("SELECT CAST(:v AS int) + 1")
    assert [statement.run(v=n)[0][0] for n in range(10)] == list(range(1, 11))
    if begin:
        conn.run("COMMIT")
        assert statement.run(v=41) == [[42]]
    statement.close()
    assert conn.run("SELECT CAST(:v AS int) + 1", v=1) == [[2]]


def test_native(connect: Connect) -> None:
    conn = connect(pg8000.native)
    assert conn.run("SELECT 1; SELECT 2") in ([[1], [2]], [[2]])
    assert conn.run("SELECT CAST(:v AS text)", v="x") == [["x"]]


def test_notifications(connect: Connect, target: Target) -> None:
    if not target.session:
        pytest.skip("LISTEN belongs to the session")
    listener, speaker = connect(pg8000.native), connect(pg8000.native)
    listener.run("LISTEN news")
    speaker.run("NOTIFY news, 'flash'")
    listener.run("SELECT 1")
    assert [one[2] for one in listener.notifications] == ["flash"]


@pytest.mark.parametrize("autocommit", [False, True])
def test_clients_at_once(connect: Connect, autocommit: bool) -> None:
    """In a transaction the three batches of an execution stay on one server."""
    conns = [connect() for _ in range(10)]

    def work(number: int) -> None:
        conns[number].autocommit = autocommit
        cursor = conns[number].cursor()
        for step in range(10):
            cursor.execute(f"SELECT CAST(%s AS int) + {number}", (step,))
            assert cursor.fetchone()[0] == step + number
            conns[number].commit()

    with ThreadPoolExecutor(len(conns)) as threads:
        for future in [threads.submit(work, number) for number in range(len(conns))]:
            future.result(20)


def test_error_keeps_the_connection(connect: Connect) -> None:
    conn = connect()
    cursor = conn.cursor()
    for _ in range(5):
        with pytest.raises(pg8000.dbapi.DatabaseError, match="42601"):
            cursor.execute("SELEKT %s", (1,))
        conn.rollback()
        with pytest.raises(pg8000.dbapi.DatabaseError, match="22012"):
            cursor.execute("SELECT 1 / CAST(%s AS int)", (0,))
        conn.rollback()
    cursor.execute("SELECT 1")
    assert cursor.fetchone()[0] == 1
