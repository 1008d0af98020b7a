# SPDX-License-Identifier: MIT
"""psycopg2: libpq with simple queries only."""

from __future__ import annotations

import contextlib
import io
import select
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extensions
import psycopg2.extras
import pytest

from tests.drivers.target import Target
from tests.integration.harness import wait_until

Connect = Callable[..., Any]


@pytest.fixture
def connect(target: Target) -> Iterator[Connect]:
    with contextlib.ExitStack() as stack:

        def make(autocommit: bool = False, **more: Any) -> Any:
            made = psycopg2.connect(
                host=target.host,
                port=target.port,
                user=target.user,
                dbname=target.database,
                connect_timeout=10,
                **more,
            )
            stack.callback(made.close)
            if not more.get("async_"):
                made.autocommit = autocommit
            return made

        yield make


def fetch(conn: Any, query: str, *values: object) -> list[tuple[Any, ...]]:
    with conn.cursor() as cursor:
        cursor.execute(query, values)
        return cursor.fetchall() if cursor.description else []


def test_queries(connect: Connect) -> None:
    conn = connect()
    assert fetch(conn, "SELECT %s, %s, %s", 1, "naïve 東京", [1, 2]) == [
        (1, "naïve 東京", [1, 2])
    ]
    text = "0123456789" * 200_000
    assert fetch(conn, "SELECT %s", text) == [(text,)]
    with pytest.raises(psycopg2.errors.DivisionByZero):
        fetch(conn, "SELECT 1 / %s", 0)
    conn.rollback()
    assert fetch(conn, "SELECT 1; SELECT 2") == [(2,)]
    conn.commit()


def test_transactions(connect: Connect, target: Target) -> None:
    table = target.table("moves", "id int PRIMARY KEY")
    conn = connect()
    conn.set_session(isolation_level="REPEATABLE READ")
    with conn:
        fetch(conn, f"INSERT INTO {table} VALUES (1)")
    with pytest.raises(psycopg2.errors.UniqueViolation), conn:
        fetch(conn, f"INSERT INTO {table} VALUES (2), (1)")
    assert fetch(conn, f"SELECT id FROM {table}") == [(1,)]
    conn.rollback()


def test_execute_values(connect: Connect, target: Target) -> None:
    table = target.table("many", "id int, name text")
    rows = [(number, "x" * number) for number in range(1000)]
    conn = connect()
    with conn, conn.cursor() as cursor:
        psycopg2.extras.execute_values(cursor, f"INSERT INTO {table} VALUES %s", rows)
        psycopg2.extras.execute_batch(
            cursor, f"INSERT INTO {table} VALUES (%s, %s)", rows, page_size=50
        )
    assert target.value(f"SELECT count(*) FROM {table}") == 2000


def test_copy_expert(connect: Connect, target: Target) -> None:
    table = target.table("copied", "id int, name text")
    text = "".join(f"{number}\tnaïve {number}\n" for number in range(20_000))
    conn = connect()
    with conn, conn.cursor() as cursor:
        cursor.copy_expert(f"COPY {table} FROM STDIN", io.StringIO(text))
        assert cursor.rowcount == 20_000
        taken = io.StringIO()
        cursor.copy_expert(f"COPY {table} TO STDOUT", taken)
        assert taken.getvalue() == text
    with pytest.raises(psycopg2.errors.InvalidTextRepresentation), conn:
        conn.cursor().copy_expert(f"COPY {table} FROM STDIN", io.StringIO("x\ty\n"))
    assert fetch(conn, f"SELECT count(*) FROM {table}") == [(20_000,)]
    conn.rollback()


def test_copy_from_a_broken_file(connect: Connect, target: Target) -> None:
    """What the file raises becomes CopyFail."""
    table = target.table("broken", "id int")

    class Broken(io.StringIO):
        def read(self, size: int | None = -1) -> str:
            text = super().read(size)
            if not text:
                raise OSError("no more")
            return text

    conn = connect()
    with pytest.raises(psycopg2.errors.QueryCanceled), conn.cursor() as cursor:
        cursor.copy_expert(f"COPY {table} FROM STDIN", Broken("1\n" * 5000))
    conn.rollback()
    assert fetch(conn, f"SELECT count(*) FROM {table}") == [(0,)]


def test_large_object(connect: Connect) -> None:
    """In one transaction; then by its number in another one."""
    data = bytes(range(256)) * 1000
    conn = connect()
    with conn:
        large = conn.lobject(0, "wb")
        for start in range(0, len(data), 10_000):
            large.write(data[start : start + 10_000])
        oid = large.oid
        large.close()
    with conn:
        large = conn.lobject(oid, "rb")
        assert large.read() == data
        large.seek(-256, 2)
        assert large.read(10) == data[:10]
        large.close()
    with conn:
        conn.lobject(oid, "n").unlink()
    with pytest.raises(psycopg2.OperationalError), conn:
        conn.lobject(oid, "rb")


def test_named_cursor(connect: Connect) -> None:
    conn = connect()
    with conn, conn.cursor("rows") as cursor:
        cursor.itersize = 70
        cursor.execute("SELECT generate_series(1, 1000)")
        assert [row[0] for row in cursor] == list(range(1, 1001))


def test_cancel(connect: Connect, target: Target) -> None:
    conn = connect()
    caught: list[BaseException] = []

    def sleep() -> None:
        try:
            fetch(conn, "SELECT pg_sleep(25)")
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=sleep)
    thread.start()
    target.wait_for_query("SELECT pg_sleep(25)")
    conn.cancel()
    thread.join(10)
    assert [type(error) for error in caught] == [psycopg2.errors.QueryCanceled]
    conn.rollback()
    assert fetch(conn, "SELECT 1") == [(1,)]


def test_notifications(connect: Connect, target: Target) -> None:
    if not target.session:
        pytest.skip("LISTEN belongs to the session")
    listener, speaker = connect(autocommit=True), connect(autocommit=True)
    fetch(listener, "LISTEN news")
    fetch(speaker, "NOTIFY news, 'flash'")
    assert select.select([listener], [], [], 10)[0]
    listener.poll()
    assert [one.payload for one in listener.notifies] == ["flash"]


def test_asynchronous(connect: Connect) -> None:
    def settle(conn: psycopg2.extensions.connection) -> None:
        def polled() -> bool:
            return conn.poll() == psycopg2.extensions.POLL_OK

        wait_until(polled, "psycopg2 has its answer", 10)

    conn = connect(async_=1)
    settle(conn)
    cursor = conn.cursor()
    for number in range(5):
        cursor.execute("SELECT %s, repeat('x', 100000)", (number,))
        settle(conn)
        assert cursor.fetchone()[0] == number


def test_two_phase_commit(connect: Connect, target: Target) -> None:
    table = target.table("phases", "id int")
    conn, other = connect(), connect()
    conn.tpc_begin(conn.xid(2, "psycopg2", target.mode))
    fetch(conn, f"INSERT INTO {table} VALUES (1)")
    conn.tpc_prepare()
    conn.reset()
    assert [one.gtrid for one in other.tpc_recover()] == ["psycopg2"]
    other.tpc_rollback(other.xid(2, "psycopg2", target.mode))
    assert target.value(f"SELECT count(*) FROM {table}") == 0


def test_client_encoding(connect: Connect) -> None:
    latin, utf = connect(client_encoding="LATIN1"), connect()
    for _ in range(3):
        assert fetch(latin, "SELECT 'é', current_setting('client_encoding')") == [
            ("é", "LATIN1")
        ]
        latin.commit()
        assert fetch(utf, "SELECT 'é', current_setting('client_encoding')") == [
            ("é", "UTF8")
        ]
        utf.commit()
