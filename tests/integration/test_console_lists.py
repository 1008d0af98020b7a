# SPDX-License-Identifier: MIT
"""SHOW of connections and statistics, through real workers as one."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from pooler.demo.postgres import Postgres
from tests.integration.harness import DATABASE, HOST, MakePooler, Pooler, wait_until
from tests.wire_client import (
    SYNC,
    WireClient,
    bind,
    cancel_request,
    execute,
    parse,
    query,
)

Row = dict[str, Any]


@contextlib.contextmanager
def operator(pooler: Pooler) -> Iterator[psycopg.Cursor[Row]]:
    with (
        pooler.connect("pgbouncer", "chief", autocommit=True) as connection,
        connection.cursor(row_factory=dict_row) as cursor,
    ):
        yield cursor


def show(cursor: psycopg.Cursor[Row], what: str, **where: object) -> list[Row]:
    """The rows of a SHOW that have these values."""
    rows = cursor.execute(f"show {what}").fetchall()
    return [row for row in rows if where.items() <= row.items()]


@pytest.fixture
def one(make_pooler: MakePooler) -> Pooler:
    """One worker, one server: what a client does is seen."""
    return make_pooler(
        {DATABASE: ""}, admin_users="chief", default_pool_size=1, stats_period=1
    )


def test_states_and_links(one: Pooler, postgres: Postgres) -> None:
    with (
        operator(one) as cursor,
        one.client(application_name="works") as works,
        one.client(application_name="waits") as waits,
        one.client(application_name="idle") as idle,
    ):
        works.ask(query("BEGIN"))
        waits.send(query("SELECT 1"))
        wait_until(lambda: show(cursor, "clients", state="waiting"), "somebody waits")
        clients = {row["application_name"]: row for row in show(cursor, "clients")}
        (server,) = show(cursor, "servers")
        assert clients["works"]["state"] == "active"
        assert clients["works"]["link"] == server["ptr"]
        assert server["link"] == clients["works"]["ptr"]
        assert (server["state"], server["application_name"]) == ("active", "works")
        assert clients["idle"]["state"] == "idle"
        assert (clients["waits"]["link"], clients["idle"]["link"]) == ("", "")
        assert clients["waits"]["wait"] * 1_000_000 + clients["waits"]["wait_us"] > 0
        assert (clients["idle"]["wait"], clients["idle"]["wait_us"]) == (0, 0)
        mine = clients["idle"]
        assert (mine["type"], mine["user"], mine["database"]) == ("C", "app", DATABASE)
        assert (mine["addr"], mine["local_addr"]) == (HOST, HOST)
        assert mine["port"] == idle.socket.getsockname()[1]
        assert mine["local_port"] == one.port
        assert (mine["tls"], mine["replication"], mine["remote_pid"]) == ("", "none", 0)
        assert (server["addr"], server["port"]) == (HOST, postgres.port)
        assert server["remote_pid"] == int(works.value("SELECT pg_backend_pid()"))
        now = time.strftime("%Y-%m-%d %H:")
        assert mine["connect_time"].startswith(now[:10])
        own = clients.get("") or next(
            row for row in clients.values() if row["database"] == "pgbouncer"
        )
        assert (own["user"], own["database"], own["link"]) == ("chief", "pgbouncer", "")
        works.ask(query("COMMIT"))
        waits.read_until("Z")
        (server,) = show(cursor, "servers")
        assert (server["state"], server["link"]) == ("idle", "")


def test_a_client_is_shown_as_who_it_is(make_pooler: MakePooler) -> None:
    """Its server's user is another; also when the engine has led its login alone."""
    pooler = make_pooler({DATABASE: "user=app"}, admin_users="chief")
    with operator(pooler) as cursor:
        for _ in range(3):
            with pooler.wire().login("somebody", DATABASE) as client:
                client.value("SELECT 1")
                (row,) = show(cursor, "clients", database=DATABASE)
                assert row["user"] == "somebody"
        (server,) = show(cursor, "servers")
        assert server["user"] == "app"
    who = rf" C-0x\w+: {DATABASE}/(\w+)@\S+ closing because: "
    names: list[str] = []

    def told() -> bool:
        names[:] = re.findall(who, pooler.log())
        return len(names) == 3

    wait_until(told, "the lines of three clients")
    assert set(names) == {"somebody"}


def test_ids_of_all_workers(make_pooler: MakePooler) -> None:
    """Each connection has one of its own, which no later one gets."""
    pooler = make_pooler({DATABASE: ""}, admin_users="chief", workers=2)
    with operator(pooler) as cursor, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(pooler.client()) for _ in range(300)]
        rows = show(cursor, "clients (id, port)")
        assert len(rows) == 301
        assert len({row["id"] for row in rows}) == 301
        sockets = show(cursor, "sockets")
        assert len({row["id"] for row in sockets}) == len(sockets) > 301
        assert len({row["ptr"] for row in sockets}) == len(sockets)
        by_port = {row["port"]: row["id"] for row in rows}
        for client in clients[:8]:
            number = by_port[client.socket.getsockname()[1]]
            assert cursor.execute(f"kill_client {number}").statusmessage == (
                "KILL_CLIENT"
            )
            fields = client.read_fatal()
            assert (fields["C"], fields["M"]) == ("57P01", "admin forced disconnect")
            with pytest.raises(psycopg.Error, match="client not found"):
                cursor.execute(f"kill_client {number}")
        newest = max(row["id"] for row in sockets)
        stack.enter_context(pooler.client())
        assert max(row["id"] for row in show(cursor, "clients")) > newest
        lists = {row["list"]: row["items"] for row in show(cursor, "lists")}
        assert lists["used_clients"] == 294
        assert lists["used_servers"] == len(show(cursor, "servers"))
        workers = show(cursor, "workers")
        assert sorted(row["pid"] for row in workers) == pooler.worker_pids()
        assert sum(row["clients"] for row in workers) == lists["used_clients"]
        for what in ("mem", "fds", "active_sockets", "peer_pools", "dns_hosts"):
            show(cursor, what)


def latency(pooler: Pooler) -> dict[str, Row]:
    """How long things took, by their kinds."""
    with operator(pooler) as cursor:
        return {row["kind"]: row for row in show(cursor, "latency", database=DATABASE)}


def counts(pooler: Pooler) -> list[int]:
    found = latency(pooler)
    return [found[kind]["count"] for kind in ("wait", "transaction", "query")]


def test_latency(one: Pooler) -> None:
    """Of what a client waits for; a worker that is killed takes nothing away."""
    with one.client() as client, one.client() as second:
        client.ask(query("BEGIN"))
        client.ask(query("SELECT pg_sleep(0.1)"))
        second.send(query("SELECT 1"))
        with operator(one) as cursor:
            wait_until(lambda: show(cursor, "pools", cl_waiting=1), "somebody waits")
        client.ask(query("COMMIT"))
        second.read_until("Z")
    found = latency(one)
    assert counts(one) == [2, 2, 4]
    wait, transaction, asked = (
        found[kind] for kind in ("wait", "transaction", "query")
    )
    assert wait["p50"] == 0 < wait["p99"] == wait["p999"] == wait["max"]
    assert 100_000 <= asked["max"] <= transaction["max"]
    assert asked["p50"] < 100_000 <= asked["p999"] == asked["max"]

    (pid,) = one.worker_pids()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: one.worker_pids() not in ([], [pid]), "a successor")
    with one.client() as client:
        client.value("SELECT 1")
    assert counts(one) == [3, 3, 5]


def test_prepared_statements(make_pooler: MakePooler) -> None:
    """Texts of all workers are one; who has them is counted."""
    pooler = make_pooler(
        {DATABASE: ""}, admin_users="chief", stats_users="watcher", workers=2
    )
    text, long_text = "SELECT 1 + $1::int", "SELECT 2 " + "+ 1 " * 200
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(pooler.client()) for _ in range(8)]
        for client in clients:
            client.ask(parse(text, "a"), parse(long_text + "+ 2", "b"), SYNC)
        for client in clients * 2:
            client.ask(bind(b"1", statement="a"), execute(), SYNC)
        clients[0].ask(parse(long_text + "+ 3", "c"), SYNC)
        for _ in range(3):
            clients[1].ask(parse("SELECT 5"), bind(), execute(), SYNC)
        clients[0].ask(query("PREPARE d AS SELECT 42; EXECUTE d; EXECUTE d"))
        with operator(pooler) as cursor:
            rows = show(cursor, "prepared_statements", database=DATABASE)
        found = {row["query"]: row for row in rows}
        assert found[text]["clients"] == 8
        assert found[text]["uses"] == 16
        assert 1 <= found[text]["servers"] <= 5
        assert found[text]["bytes"] > len(text)
        cut = [row for row in rows if row["query"].endswith("…")]
        assert sorted(row["clients"] for row in cut) == [1, 8]
        assert {row["query"] for row in cut} == {long_text[:512] + "…"}
        unnamed = found["SELECT 5"]
        assert (unnamed["clients"], unnamed["servers"], unnamed["uses"]) == (1, 0, 3)
        (by_sql,) = [row for row in rows if "SELECT 42" in row["query"]]
        assert (by_sql["clients"], by_sql["servers"], by_sql["uses"]) == (1, 1, 2)
        with (
            pooler.connect("pgbouncer", "watcher", autocommit=True) as watcher,
            pytest.raises(psycopg.Error, match="admin access needed"),
        ):
            watcher.execute("show prepared_statements")
    with operator(pooler) as cursor:  # servers keep what nobody has a name for
        wait_until(
            lambda: (
                not any(row["clients"] for row in show(cursor, "prepared_statements"))
            ),
            "clients are gone",
        )
        rows = show(cursor, "prepared_statements", query=text)
        assert [row["uses"] for row in rows] == [16]
        assert rows[0]["servers"] > 0


def test_statistics(one: Pooler) -> None:
    with operator(one) as cursor, one.client() as client, one.client() as second:
        before = show(cursor, "stats_totals", database=DATABASE)[0]
        client.ask(query("BEGIN"))
        client.ask(query("SELECT pg_sleep(0.1)"))
        second.send(query("SELECT 1"))
        wait_until(lambda: show(cursor, "pools", cl_waiting=1), "somebody waits")
        client.ask(query("COMMIT"))
        second.read_until("Z")
        after = show(cursor, "stats_totals", database=DATABASE)[0]
        grown = {
            name: int(after[name] - before[name])
            for name in after
            if name != "database"
        }
        assert grown["query_count"] == 4
        assert grown["xact_count"] == 2
        assert grown["server_assignment_count"] == 2
        assert 90_000 < grown["query_time"] < 5_000_000
        assert 100_000 < grown["xact_time"] < 10_000_000
        assert 0 < grown["wait_time"] <= grown["query_time"]
        assert int(after["client_login_count"]) == 2
        assert grown["bytes_received"] > 50
        totals = {row["name"]: row["value"] for row in show(cursor, "totals")}
        assert (
            totals["total_server_assignment_count"] == after["server_assignment_count"]
        )
        row = show(cursor, "stats", database=DATABASE)[0]
        assert row["total_xact_count"] == after["xact_count"]
        assert 0 < row["avg_query_time"] <= row["total_query_time"]
    one.wait_log("stats: ")
    line = next(line for line in one.log().splitlines() if "stats: " in line)
    assert " xacts/s, " in line
    assert " LOG stats: " in line


def test_a_query_is_timed_from_its_request_to_its_answer(one: Pooler) -> None:
    """Not the pause between them, and each of a pipeline."""
    with operator(one) as cursor, one.client() as client:
        client.ask(query("BEGIN"))
        time.sleep(0.2)  # a client that thinks; no answer is awaited
        client.ask(query("COMMIT"))
        client.send(query("SELECT 1"), query("SELECT pg_sleep(0.05)"))
        client.read_until("Z")
        client.read_until("Z")
        row = show(cursor, "stats_totals", database=DATABASE)[0]
        assert 40_000 < row["query_time"] < 190_000
        assert row["xact_time"] > 200_000
        (mine,) = show(cursor, "clients", database=DATABASE)
        assert (mine["wait"], mine["wait_us"]) == (0, 0)


def test_cancel_requests_are_counted(one: Pooler, postgres: Postgres) -> None:
    """And over: nothing of them is left in the columns."""
    with operator(one) as cursor, one.client() as client:
        client.send(query("SELECT pg_sleep(30)"))
        at_work = (
            "SELECT 1 FROM pg_stat_activity"
            " WHERE state = 'active' AND query = 'SELECT pg_sleep(30)'"
        )
        wait_until(lambda: postgres.psql(at_work), "at work")
        with WireClient(one.port) as asker:
            asker.send(cancel_request(client.key))
            asker.read_to_end()
        client.read_until("Z")
        row = show(cursor, "pools", database=DATABASE)[0]
        for name in ("cl_active_cancel_req", "cl_waiting_cancel_req"):
            assert row[name] == 0
        for name in ("sv_active_cancel", "sv_being_canceled"):
            assert row[name] == 0
