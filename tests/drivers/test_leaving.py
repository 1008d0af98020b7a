# SPDX-License-Identifier: MIT
"""Clients that leave in the middle of something, and those who come after them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import pq
from psycopg.pq.abc import PGconn

from tests.drivers.target import DIRECT, ENDLESS, Target
from tests.integration.harness import wait_until

Connection = psycopg.Connection[tuple[Any, ...]]


def say_goodbye(conn: PGconn) -> None:
    """Terminate, then close: what every driver does."""
    conn.finish()


def vanish(conn: PGconn) -> None:
    """The process dies: the kernel closes the socket, unread bytes and all."""
    with socket.socket(fileno=os.dup(conn.socket)) as raw:
        raw.shutdown(socket.SHUT_RDWR)
    conn.finish()


def begin(target: Target, *queries: str) -> PGconn:
    """Send queries, all but the last to their end."""
    conn = pq.PGconn.connect(
        f"host={target.host} port={target.port} user={target.user}"
        f" dbname={target.database} connect_timeout=10".encode()
    )
    for query in queries[:-1]:
        assert conn.exec_(query.encode()).status
    conn.send_query(queries[-1].encode())
    return conn


def connect(target: Target) -> Connection:
    return psycopg.connect(
        host=target.host,
        port=target.port,
        user=target.user,
        dbname=target.database,
        connect_timeout=5,
        autocommit=True,
    )


LEAVE = pytest.mark.parametrize("leave", [say_goodbye, vanish])


@LEAVE
@pytest.mark.parametrize("transaction", [False, True])
def test_leave_in_copy_out(
    target: Target, leave: Callable[[PGconn], None], transaction: bool
) -> None:
    """PostgreSQL ends a COPY that nobody takes; so must the pooler."""
    conn = begin(target, *(["BEGIN"] if transaction else []), ENDLESS)
    target.wait_for_query("COPY")
    try:
        leave(conn)
        wait_until(lambda: not target.runs("COPY"), "the COPY ends", 5)
    finally:
        stop_all(target)
    with connect(target) as after:
        assert after.execute("SELECT 1").fetchone() == (1,)


@LEAVE
def test_leave_in_large_result(target: Target, leave: Callable[[PGconn], None]) -> None:
    conn = begin(target, "SELECT generate_series(1, 2000000000)")
    target.wait_for_query("SELECT generate_series")
    try:
        leave(conn)
        wait_until(lambda: not target.runs("SELECT gen"), "the query ends", 5)
    finally:
        stop_all(target)


@LEAVE
def test_next_client_need_not_wait(
    target: Target, leave: Callable[[PGconn], None]
) -> None:
    """The pool has room: a server that still works for one who left is no excuse."""
    # PostgreSQL 15 itself does not notice, before it has something to send.
    gone = begin(target, "DO $$BEGIN PERFORM pg_sleep(6); END$$")
    target.wait_for_query("DO")
    leave(gone)
    began = time.monotonic()
    with connect(target) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    took_s = time.monotonic() - began
    wait_until(lambda: not target.runs("DO"), "the sleep ends", 10)
    assert took_s < 3


def test_vanished_client_is_cancelled(target: Target) -> None:
    """The setting cancel_abandoned."""
    if target.mode == DIRECT:
        pytest.skip("PostgreSQL does not look")
    gone = begin(target, "SELECT pg_sleep(20)")
    target.wait_for_query("SELECT pg_sleep")
    vanish(gone)
    wait_until(lambda: not target.runs("SELECT pg_sleep"), "cancelled", 5)


@LEAVE
def test_leave_in_copy_in(target: Target, leave: Callable[[PGconn], None]) -> None:
    """What was sent so far is not kept."""
    table = target.table("left_copy", "id int")
    conn = begin(target, f"COPY {table} FROM STDIN")
    assert conn.get_result() is not None
    conn.put_copy_data(b"1\n" * 1000)
    conn.flush()
    leave(conn)
    wait_until(lambda: not target.runs("COPY"), "the COPY ends", 5)
    assert target.value(f"SELECT count(*) FROM {table}") == 0
    with connect(target) as after:
        assert after.execute("SELECT 1").fetchone() == (1,)


@LEAVE
def test_leave_in_a_failed_transaction(
    target: Target, leave: Callable[[PGconn], None]
) -> None:
    conn = begin(target, "BEGIN", "SELECT pg_advisory_xact_lock(7)", "SELEKT")
    while conn.get_result() is not None:
        continue
    leave(conn)
    with connect(target) as after:
        after.execute("SET statement_timeout = '5s'")
        after.execute("SELECT pg_advisory_xact_lock(7)")
        after.execute("RESET statement_timeout")


def stop_all(target: Target) -> None:
    """However the test ended: what it started must not stop the others."""
    target.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE state = 'active' AND usename = '{target.user}'"
    )
