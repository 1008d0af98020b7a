# SPDX-License-Identifier: MIT
"""psycopg 3, synchronous: queries, transactions, COPY, cursors, cancel."""

from __future__ import annotations

import contextlib
import datetime
import threading
from collections.abc import Callable, Generator, Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.drivers.target import ENDLESS, Target

Connection = psycopg.Connection[tuple[Any, ...]]
Connect = Callable[..., Connection]

VALUES = [
    1,
    -(2**62),
    "naïve 東京",
    Decimal("12.5000"),
    1.5,
    True,
    datetime.date(2024, 2, 29),
    datetime.timedelta(days=3, seconds=5),
    [1, 2, None],
    Jsonb({"a": [1, None]}),
    b"\0\1\xff",
]


@pytest.fixture(params=[5, 0], ids=["prepares-later", "prepares-at-once"])
def connect(target: Target, request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Connect with the driver's defaults, or so that it prepares everything."""
    with contextlib.ExitStack() as stack:

        def make(**more: Any) -> Connection:
            more.setdefault("prepare_threshold", request.param)
            made = psycopg.connect(
                host=target.host,
                port=target.port,
                dbname=target.database,
                user=target.user,
                connect_timeout=10,
                **more,
            )
            stack.callback(made.close)
            return made

        yield make


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_types_go_and_come(connect: Connect, value: object, binary: bool) -> None:
    with connect() as conn, conn.cursor(binary=binary) as cursor:
        cursor.execute("SELECT %b, 1" if binary else "SELECT %s, 1", (value,))
        expected = value.obj if isinstance(value, Jsonb) else value
        assert cursor.fetchone() == (expected, 1)


def test_large_values(connect: Connect) -> None:
    text = "0123456789" * 200_000
    with connect() as conn:
        assert conn.execute("SELECT %s::text", (text,)).fetchone() == (text,)
        assert conn.execute("SELECT %s::jsonb", (Jsonb({"a": text}),)).fetchone() == (
            {"a": text},
        )


def test_repeated_statement(connect: Connect) -> None:
    """By default psycopg prepares at the sixth time."""
    with connect() as conn:
        for number in range(20):
            found = conn.execute("SELECT %s + 1", (number,)).fetchone()
            assert found == (number + 1,)
            conn.commit()


def test_prepared_statements_are_dropped(connect: Connect) -> None:
    """More statements than psycopg keeps: it deallocates the oldest."""
    with connect(autocommit=True) as conn:
        conn.prepared_max = 3
        for number in range(10):
            query = sql.SQL("SELECT {}, %s").format(number)
            for _ in range(7):
                assert conn.execute(query, (1,)).fetchone() == (number, 1)


def test_executemany(connect: Connect, target: Target) -> None:
    table = target.table("many", "id int, name text")
    with connect() as conn, conn.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {table} VALUES (%s, %s) RETURNING id",
            [(number, "x" * number) for number in range(500)],
            returning=True,
        )
        ids = [cursor.fetchone()]
        while cursor.nextset():
            ids.append(cursor.fetchone())
    assert ids == [(number,) for number in range(500)]
    assert target.value(f"SELECT sum(length(name)) FROM {table}") == 499 * 250


def test_several_statements_in_one_query(connect: Connect) -> None:
    with connect(autocommit=True) as conn:
        cursor = conn.execute("SELECT 1; SELECT 2; SELECT 3", prepare=False)
        found = [cursor.fetchone()]
        while cursor.nextset():
            found.append(cursor.fetchone())
        assert found == [(1,), (2,), (3,)]


def test_transactions(connect: Connect, target: Target) -> None:
    table = target.table("moves", "id int PRIMARY KEY")
    insert = f"INSERT INTO {table} VALUES (%s)"
    with connect(autocommit=True) as conn:
        with conn.transaction():
            conn.execute(insert, (1,))
            with pytest.raises(psycopg.errors.UniqueViolation), conn.transaction():
                conn.execute(insert, (1,))
            with conn.transaction(force_rollback=True):
                conn.execute(insert, (2,))
            conn.execute(insert, (3,))
        with pytest.raises(ZeroDivisionError), conn.transaction():
            conn.execute(insert, (4,))
            raise ZeroDivisionError
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        found = conn.execute(f"SELECT id FROM {table} ORDER BY 1").fetchall()
    assert found == [(1,), (3,)]


def test_error_ends_the_transaction_only(connect: Connect) -> None:
    with connect() as conn:
        with pytest.raises(psycopg.errors.DivisionByZero):
            conn.execute("SELECT 1 / %s", (0,))
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            conn.execute("SELECT 1")
        conn.rollback()
        with pytest.raises(psycopg.errors.SyntaxError):
            conn.execute("SELEKT")
        conn.rollback()
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_two_phase_commit(connect: Connect, target: Target) -> None:
    table = target.table("phases", "id int")
    with connect() as conn, connect() as other:
        xid = conn.xid(1, "driver", target.mode)
        conn.tpc_begin(xid)
        conn.execute(f"INSERT INTO {table} VALUES (1)")
        conn.tpc_prepare()
        assert [one.gtrid for one in other.tpc_recover()] == ["driver"]
        conn.tpc_commit()
    assert target.value(f"SELECT count(*) FROM {table}") == 1


def test_close_in_a_transaction_rolls_back(connect: Connect, target: Target) -> None:
    table = target.table("gone", "id int")
    conn = connect()
    conn.execute(f"INSERT INTO {table} VALUES (1)")
    conn.close()
    other = connect()
    other.execute(f"INSERT INTO {table} VALUES (2)")
    other.commit()
    assert target.sql(f"SELECT id FROM {table}") == [(2,)]


def test_pipeline(connect: Connect, target: Target) -> None:
    table = target.table("pipe", "id int")
    with connect(autocommit=True) as conn:
        with conn.pipeline() as pipeline:
            cursors = [conn.execute("SELECT %s::int", (n,)) for n in range(300)]
            pipeline.sync()
            with conn.transaction():
                conn.execute(f"INSERT INTO {table} VALUES (1)")
            assert [one.fetchone() for one in cursors] == [(n,) for n in range(300)]
        assert conn.execute(f"SELECT * FROM {table}").fetchall() == [(1,)]


def test_pipeline_after_an_error(connect: Connect, target: Target) -> None:
    """What follows the error is skipped up to the sync, and nothing after it."""
    table = target.table("aborted", "id int")
    insert = f"INSERT INTO {table} VALUES (%s)"
    with connect(autocommit=True) as conn:
        # The error is raised wherever psycopg happens to read it.
        with pytest.raises(psycopg.errors.DivisionByZero), conn.pipeline() as pipeline:
            conn.execute(insert, (1,))
            pipeline.sync()
            conn.execute(insert, (2,))
            conn.execute("SELECT 1 / %s", (0,))
            conn.execute(insert, (3,))
        with conn.pipeline():
            conn.execute(insert, (4,))
            found = conn.execute(f"SELECT id FROM {table} ORDER BY 1")
            assert found.fetchall() == [(1,), (4,)]


@pytest.mark.parametrize("form", ["text", "binary"])
def test_copy(connect: Connect, target: Target, form: str) -> None:
    table = target.table("copied", "id int, name text")
    rows = [(number, f"naïve\t{number}") for number in range(20_000)]
    with connect() as conn, conn.cursor() as cursor:
        with cursor.copy(f"COPY {table} FROM STDIN (FORMAT {form})") as copy:
            if form == "binary":
                copy.set_types(["int4", "text"])
            for row in rows:
                copy.write_row(row)
        conn.commit()
        query = f"COPY (SELECT * FROM {table} ORDER BY id) TO STDOUT (FORMAT {form})"
        with cursor.copy(query) as copy:
            copy.set_types(["int4", "text"])
            assert list(copy.rows()) == rows


def test_copy_that_fails(connect: Connect, target: Target) -> None:
    """By the client (CopyFail) and by the server, outside a transaction."""
    table = target.table("refused", "id int")
    with connect(autocommit=True) as conn, conn.cursor() as cursor:
        with (
            pytest.raises(ZeroDivisionError),
            cursor.copy(f"COPY {table} FROM STDIN") as copy,
        ):
            copy.write_row((1,))
            raise ZeroDivisionError
        with (
            pytest.raises(psycopg.errors.InvalidTextRepresentation),
            cursor.copy(f"COPY {table} FROM STDIN") as copy,
        ):
            for _ in range(50_000):
                copy.write(b"no number\n")
        assert conn.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_copy_out_that_is_left(connect: Connect) -> None:
    """psycopg cancels the COPY, by a second connection, and reads the rest."""
    with connect(autocommit=True) as conn, conn.cursor() as cursor:
        with pytest.raises(ZeroDivisionError), cursor.copy(ENDLESS) as copy:
            assert copy.read()
            raise ZeroDivisionError
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_server_side_cursor(connect: Connect) -> None:
    with connect() as conn:
        with conn.cursor("rows", scrollable=True) as cursor:
            cursor.execute("SELECT generate_series(1, %s)", (1000,))
            assert cursor.fetchmany(3) == [(1,), (2,), (3,)]
            cursor.scroll(500, mode="absolute")
            assert cursor.fetchone() == (501,)
            cursor.itersize = 100
            assert len(list(cursor)) == 499
        conn.commit()
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_cursor_with_hold(connect: Connect, target: Target) -> None:
    if not target.session:
        pytest.skip("a cursor WITH HOLD belongs to the session")
    with connect() as conn, conn.cursor("held", withhold=True) as cursor:
        cursor.execute("SELECT generate_series(1, 10)")
        conn.commit()
        assert len(cursor.fetchall()) == 10


def test_stream(connect: Connect) -> None:
    """Single-row mode, to the end and left in between."""
    with connect() as conn, conn.cursor() as cursor:
        query = "SELECT generate_series(1, %s)"
        assert sum(row[0] for row in cursor.stream(query, (5000,))) == 12_502_500
        rows = cursor.stream(query, (10_000_000,))
        assert isinstance(rows, Generator)
        assert next(rows) == (1,)
        rows.close()
        conn.rollback()
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_notices(connect: Connect) -> None:
    with connect() as conn:
        heard: list[str | None] = []
        conn.add_notice_handler(lambda notice: heard.append(notice.message_primary))
        conn.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
    assert heard == ["hello"]


def test_notifications(connect: Connect, target: Target) -> None:
    if not target.session:
        pytest.skip("LISTEN belongs to the session")
    with connect(autocommit=True) as listener, connect(autocommit=True) as speaker:
        listener.execute("LISTEN news")
        speaker.execute("SELECT pg_notify('news', 'flash')")
        found = [one.payload for one in listener.notifies(timeout=10, stop_after=1)]
    assert found == ["flash"]


def test_cancel(connect: Connect, target: Target) -> None:
    """In transaction mode the key is the pooler's own."""
    with connect() as conn:
        caught: list[BaseException] = []

        def sleep() -> None:
            try:
                conn.execute("SELECT pg_sleep(25)")
            except BaseException as error:
                caught.append(error)

        thread = threading.Thread(target=sleep)
        thread.start()
        target.wait_for_query("SELECT pg_sleep(25)")
        conn.cancel_safe(timeout=10)
        thread.join(10)
        assert [type(error) for error in caught] == [psycopg.errors.QueryCanceled]
        conn.rollback()
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_cancel_of_nothing(connect: Connect) -> None:
    """A late cancel hits neither us nor the one who has the server now."""
    with connect(autocommit=True) as conn, connect(autocommit=True) as other:
        for _ in range(10):
            conn.cancel_safe(timeout=10)
            assert other.execute("SELECT pg_sleep(0.01), 1").fetchone() == ("", 1)
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_large_object(connect: Connect) -> None:
    with connect() as conn:
        data = bytes(range(256)) * 100
        found = conn.execute("SELECT lo_from_bytea(0, %s)", (data,)).fetchone()
        assert found is not None
        assert conn.execute("SELECT lo_get(%s)", found).fetchone() == (data,)
        conn.execute("SELECT lo_unlink(%s)", found)


def test_parameters_of_each_client(connect: Connect) -> None:
    """Encoding, time zone and name are a client's own, whichever server it gets."""
    conns = [connect(autocommit=True, application_name=f"app{n}") for n in range(6)]
    encodings = ["UTF8", "LATIN1"]
    zones = ["Europe/Berlin", "Asia/Tokyo", "UTC"]
    for number, conn in enumerate(conns):
        conn.execute(f"SET client_encoding TO '{encodings[number % 2]}'")
        conn.execute(f"SET TimeZone TO '{zones[number % 3]}'")
    for _ in range(3):
        for number, conn in enumerate(conns):
            assert conn.execute("SHOW TimeZone").fetchone() == (zones[number % 3],)
            assert conn.execute("SHOW client_encoding").fetchone() == (
                encodings[number % 2],
            )
            assert conn.execute("SELECT %s", ("é",)).fetchone() == ("é",)
            assert conn.execute("SHOW application_name").fetchone() == (f"app{number}",)
