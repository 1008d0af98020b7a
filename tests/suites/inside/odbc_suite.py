# SPDX-License-Identifier: MIT
"""What psqlODBC sends, by pyodbc; its Debian package brings no tests of its own.

With Protocol=7.4-2 a statement that fails inside a transaction is taken back to a
savepoint of the driver's own (SAVEPOINT _EXEC_SVP_…, ROLLBACK TO, RELEASE), often
together with a DEALLOCATE in one Query; prepared statements are _PLAN….
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import pyodbc

VALUES = (
    ("text", None),
    ("text", ""),
    ("text", "ü€'\\"),
    ("text", "x" * 8000),
    ("int", 2**31 - 1),
    ("float", 1.5),
    ("bytea", b"\0\xff'\\"),
)
Test = Callable[[], None]
TESTS: dict[str, Test] = {}


class Way(NamedTuple):
    """How the driver is set.

    ``prepare``: on the server. ``rollback``: what an error takes back; 0 leaves the
    transaction failed, 1 rolls it back, 2 takes back the statement. ``fetch``: rows
    come by DECLARE and FETCH.
    """

    prepare: int
    rollback: int
    fetch: int


WAYS = list(itertools.starmap(Way, itertools.product((0, 1), (0, 1, 2), (0, 1))))


def connect(way: Way, autocommit: bool = False) -> Any:
    """A connection to the server of libpq's variables."""
    server = f"Server={os.environ['PGHOST']};Port={os.environ['PGPORT']}"
    login = f"Database={os.environ['PGDATABASE']};Uid={os.environ['PGUSER']}"
    options = (
        f"UseServerSidePrepare={way.prepare};Protocol=7.4-{way.rollback}"
        f";UseDeclareFetch={way.fetch};Fetch=3"
    )
    driver = "Driver={PostgreSQL Unicode}"
    return pyodbc.connect(f"{driver};{server};{login};{options}", autocommit=autocommit)


def test(function: Callable[[Way], None]) -> Callable[[Way], None]:
    """Take a function as a test of each way."""
    for way in WAYS:
        named = "-".join(f"{key}={value}" for key, value in way._asdict().items())
        TESTS[f"{function.__name__}[{named}]"] = functools.partial(function, way)
    return function


def fails(cursor: Any, sql: str, *values: object, state: str) -> None:
    """Run what must fail with this SQLSTATE."""
    try:
        cursor.execute(sql, *values)
    except pyodbc.Error as error:
        found = error.args[0]
    else:
        found = "no error"
    assert found == state, f"{sql}: {found}"


def table(cursor: Any, name: str) -> None:
    cursor.execute(f"DROP TABLE IF EXISTS {name}")
    cursor.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, t text)")


@test
def parameters(way: Way) -> None:
    """Statements with parameters, executed more than once."""
    with connect(way) as connection:
        cursor = connection.cursor()
        for number in range(20):
            cursor.execute("SELECT ?::int + 1, ?::text", number, f"t{number}")
            assert tuple(cursor.fetchone()) == (number + 1, f"t{number}")
            connection.commit()


@test
def other_statements(way: Way) -> None:
    """Many statements that are prepared and dropped in between."""
    with connect(way) as connection:
        for number in range(20):
            cursor = connection.cursor()
            cursor.execute(f"SELECT ?::int + {number}", number)
            assert cursor.fetchval() == 2 * number
            cursor.close()
            connection.commit()


@test
def error_in_a_transaction(way: Way) -> None:
    """What stands after an error is what the level of rollback says."""
    with connect(way) as connection:
        cursor = connection.cursor()
        table(cursor, "odbc_errors")
        connection.commit()
        for number in (1, 2, 3):
            cursor.execute("INSERT INTO odbc_errors VALUES (?, 'kept')", number)
        fails(cursor, "INSERT INTO odbc_errors VALUES (?, 'x')", 2, state="23505")
        if way.rollback == 0:
            connection.rollback()
        cursor.execute("SELECT count(*) FROM odbc_errors")
        assert cursor.fetchval() == (3 if way.rollback == 2 else 0)
        connection.commit()


@test
def many_errors(way: Way) -> None:
    """Errors of every kind between statements that work, in one transaction."""
    with connect(way) as connection:
        cursor = connection.cursor()
        table(cursor, "odbc_many")
        connection.commit()
        for number in range(10):
            if way.rollback != 2:
                connection.rollback()
            cursor.execute("INSERT INTO odbc_many VALUES (?, ?)", number, "t")
            fails(cursor, "SELECT nothing FROM odbc_many", state="42703")
            if way.rollback != 2:
                connection.rollback()
            fails(cursor, "SELECT 1 / ?::int", 0, state="22012")
        connection.commit()
        cursor.execute("SELECT count(*) FROM odbc_many")
        assert cursor.fetchval() == (10 if way.rollback == 2 else 0)
        connection.commit()


@test
def error_by_itself(way: Way) -> None:
    """Errors without a transaction, and the same statement again."""
    with connect(way, autocommit=True) as connection:
        cursor = connection.cursor()
        for number in range(10):
            fails(cursor, "SELECT 1 / ?::int", 0, state="22012")
            if way.rollback == 0 and way.fetch:
                # FETCH wants a transaction, and at this level it stays failed.
                cursor.execute("ROLLBACK")
            cursor.execute("SELECT 10 / ?::int", number + 1)
            assert cursor.fetchval() == 10 // (number + 1)


@test
def several_statements(way: Way) -> None:
    """Several statements in one text, with several results."""
    with connect(way, autocommit=True) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT 1; SELECT 2 UNION SELECT 3 ORDER BY 1; SELECT 4")
        found = [[tuple(row) for row in cursor.fetchall()]]
        while cursor.nextset():
            found.append([tuple(row) for row in cursor.fetchall()])
        assert found == [[(1,)], [(2,), (3,)], [(4,)]], found


@test
def two_cursors(way: Way) -> None:
    """Two results are read in turn inside of one transaction."""
    with connect(way) as connection:
        one, other = connection.cursor(), connection.cursor()
        one.execute("SELECT g FROM generate_series(1, 20) g")
        other.execute("SELECT g * 2 FROM generate_series(1, 20) g")
        for number in range(1, 21):
            assert one.fetchval() == number
            assert other.fetchval() == number * 2
        connection.commit()


@test
def cursor_and_commit(way: Way) -> None:
    """A result that was read whole is there after the commit."""
    with connect(way) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT g FROM generate_series(1, 10) g")
        first = cursor.fetchval()
        rest = cursor.fetchall()
        connection.commit()
        assert (first, len(rest)) == (1, 9)


@test
def many_rows_at_once(way: Way) -> None:
    """executemany, in which one fails."""
    with connect(way) as connection:
        cursor = connection.cursor()
        table(cursor, "odbc_rows")
        connection.commit()
        rows = [(number, f"t{number}") for number in range(50)]
        cursor.executemany("INSERT INTO odbc_rows VALUES (?, ?)", rows)
        connection.commit()
        try:
            cursor.executemany(
                "INSERT INTO odbc_rows VALUES (?, ?)", [(60, ""), (1, "")]
            )
        except pyodbc.IntegrityError:
            connection.rollback()
        else:
            raise AssertionError("did not fail")
        cursor.execute("SELECT count(*) FROM odbc_rows")
        assert cursor.fetchval() == 50
        connection.commit()


@test
def catalog(way: Way) -> None:
    """What SQLTables, SQLColumns and SQLPrimaryKeys ask."""
    with connect(way) as connection:
        cursor = connection.cursor()
        table(cursor, "odbc_catalog")
        connection.commit()
        assert [row.table_name for row in cursor.tables("odbc_catalog")] == [
            "odbc_catalog"
        ]
        columns = cursor.columns("odbc_catalog").fetchall()
        assert [row.column_name for row in columns] == ["id", "t"]
        keys = cursor.primaryKeys("odbc_catalog").fetchall()
        assert [row.column_name for row in keys] == ["id"]
        connection.commit()


@test
def values(way: Way) -> None:
    """Values of many kinds come back as they went."""
    with connect(way) as connection:
        cursor = connection.cursor()
        for kind, value in VALUES:
            cursor.execute(f"SELECT ?::{kind}", value)
            assert cursor.fetchval() == value, value
        connection.commit()


def main() -> int:
    """Run all and write a line for each."""
    with open(os.environ["SUITE_RESULTS"], "a") as file:
        for name, function in TESTS.items():
            outcome = "passed"
            try:
                function()
            except Exception:
                outcome = "failed"
                print(f"{name}:\n{traceback.format_exc()}", flush=True)
            file.write(json.dumps({"name": name, "outcome": outcome}) + "\n")
            file.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
