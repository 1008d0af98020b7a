# SPDX-License-Identifier: MIT
"""Pools that nobody uses go, and a name that comes back begins anew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.integration.harness import (
    DATABASE,
    USER,
    MakePooler,
    Pooler,
    wait_until,
)
from tests.wire_client import startup

WORKERS = (1, 2)
Row = dict[str, Any]
NAMES = [f"made_up_{n}" for n in range(6)]


@contextlib.contextmanager
def operator(pooler: Pooler) -> Iterator[psycopg.Cursor[Row]]:
    with (
        pooler.connect("pgbouncer", "chief", autocommit=True) as connection,
        connection.cursor(row_factory=dict_row) as cursor,
    ):
        yield cursor


def names(cursor: psycopg.Cursor[Row], what: str) -> set[str]:
    """The databases that a SHOW has, but for the console's."""
    rows = cursor.execute(f"show {what}").fetchall()
    column = "name" if what == "databases" else "database"
    return {row[column] for row in rows} - {"pgbouncer"}


def queries(cursor: psycopg.Cursor[Row], database: str) -> int:
    rows = cursor.execute("show stats").fetchall()
    return sum(
        int(row["total_query_count"]) for row in rows if row["database"] == database
    )


@pytest.mark.parametrize("workers", WORKERS)
def test_databases_that_nobody_named_go(make_pooler: MakePooler, workers: int) -> None:
    """One that has a client stays; statistics go as well, as PgBouncer says."""
    pooler = make_pooler(
        {"*": f"dbname={DATABASE}", DATABASE: ""},
        workers=workers,
        admin_users="chief",
        server_idle_timeout=0.1,
        autodb_idle_timeout=0.5,
    )
    with operator(pooler) as cursor, pooler.client("stays") as stays:
        for name in (*NAMES, DATABASE):
            with pooler.client(name) as client:
                assert client.value("SELECT 1") == "1"
        assert names(cursor, "pools") == {*NAMES, DATABASE, "stays"}
        left = {"stays", DATABASE}
        wait_until(lambda: names(cursor, "pools") == left, "unused pools go")
        assert names(cursor, "databases") == left
        assert queries(cursor, NAMES[0]) == 0
        assert queries(cursor, DATABASE) == 1
        dropped = [line for line in pooler.log().splitlines() if "dropping" in line]
        assert len(dropped) == len(NAMES)
        assert stays.value("SELECT 2") == "2"
        with pooler.client(NAMES[0]) as client:  # it comes back, and begins anew
            assert client.value("SELECT 3") == "3"
            assert queries(cursor, NAMES[0]) == 1


@pytest.mark.parametrize("workers", WORKERS)
def test_pools_that_nobody_uses_go(make_pooler: MakePooler, workers: int) -> None:
    """What they have counted stays in the totals of their database."""
    pooler = make_pooler(
        {DATABASE: ""},
        workers=workers,
        admin_users="chief",
        server_idle_timeout=0.1,
        pool_idle_timeout=0.5,
    )
    with operator(pooler) as cursor:
        for round_number in (1, 2):
            for _ in range(4):
                with pooler.client() as client:
                    assert client.value("SELECT 1") == "1"
            assert queries(cursor, DATABASE) == 4 * round_number
            wait_until(lambda: not names(cursor, "pools"), "unused pools go")
            assert names(cursor, "databases") == {DATABASE}
            assert queries(cursor, DATABASE) == 4 * round_number
        line = "cleaning up idle pool for user app on db bench because: pool idle"
        assert pooler.log().count(f"{line} timeout") >= 2


@pytest.mark.parametrize("workers", WORKERS)
def test_who_waits_keeps_a_pool(make_pooler: MakePooler, workers: int) -> None:
    """So does one that is to be kept ready, and that has no server now."""
    pooler = make_pooler(
        {
            DATABASE: "",
            "goes": f"dbname={DATABASE}",
            "ready": f"dbname={DATABASE} user=app min_pool_size=1",
        },
        workers=workers,
        admin_users="chief",
        server_idle_timeout=0.1,
        pool_idle_timeout=0.3,
    )
    with operator(pooler) as cursor:
        with pooler.client("goes") as client:
            assert client.value("SELECT 1") == "1"
        wait_until(lambda: "ready" in names(cursor, "pools"), "it is kept ready")
        cursor.execute("pause")
        with pooler.wire() as waits:
            waits.send(startup(USER, DATABASE))
            wait_until(lambda: "goes" not in names(cursor, "pools"), "one goes")
            assert {DATABASE, "ready"} <= names(cursor, "pools")
            cursor.execute("resume")
            waits.read_greeting()
            assert waits.value("SELECT 2") == "2"
