# SPDX-License-Identifier: MIT
"""PAUSE, RESUME, KILL and WAIT_CLOSE: all workers as one, whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import (
    DATABASE,
    MakePooler,
    Pooler,
    backends,
    wait_until,
)
from tests.wire_client import ConnectionEnded, query

Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def pooler(make_pooler: MakePooler) -> Pooler:
    return make_pooler(
        {DATABASE: "", "other": "dbname=postgres"},
        admin_users="chief",
        default_pool_size=40,
        workers=2,
    )


@pytest.fixture
def operator(pooler: Pooler) -> Iterator[Connection]:
    with pooler.connect("pgbouncer", "chief", autocommit=True) as connection:
        yield connection


class Command:
    """A command that takes its time, and what it has come to."""

    def __init__(self, connection: Connection, text: str) -> None:
        self.connection = connection
        self.outcome = ""
        self._thread = threading.Thread(target=self._run, args=(text,), daemon=True)
        self._thread.start()

    def _run(self, text: str) -> None:
        try:
            self.outcome = self.connection.execute(text).statusmessage or "?"
        except psycopg.Error as error:
            self.outcome = f"{error.sqlstate}: {error}"

    def wait(self) -> str:
        self._thread.join(15)
        assert not self._thread.is_alive(), "no answer"
        return self.outcome


def state(operator: Connection) -> dict[str, str]:
    return dict(operator.execute("show state").fetchall())


def waits(operator: Connection, count: int = 1) -> Callable[[], bool]:
    return lambda: (
        sum(row[3] for row in operator.execute("show pools").fetchall()) == count
    )


def test_pause_waits_for_transactions_and_clients_for_resume(
    pooler: Pooler, operator: Connection, postgres: Postgres
) -> None:
    with (
        pooler.client() as busy,
        pooler.client() as idle,
        pooler.connect("pgbouncer", "chief", autocommit=True) as second,
    ):
        busy.ask(query("BEGIN"))
        pause = Command(operator, "pause")
        pooler.wait_log("PAUSE command issued")
        wait_until(lambda: state(second)["paused"] == "yes", "paused")
        assert state(second) == {"active": "no", "paused": "yes", "suspended": "no"}
        assert busy.value("SELECT 1") == "1"  # its transaction goes on
        assert not pause.outcome
        busy.ask(query("COMMIT"))
        assert pause.wait() == "PAUSE"
        assert backends(postgres) == []
        idle.send(query("SELECT 2"))
        wait_until(waits(second), "a client waits")
        operator.execute("reload")
        for text in ("pause", "pause bench", "kill bench"):
            with pytest.raises(psycopg.Error, match="already suspended/paused"):
                second.execute(text)
        assert backends(postgres) == []
        assert second.execute("resume").statusmessage == "RESUME"
        assert idle.read_until("Z")
        assert busy.value("SELECT 3") == "3"
        with pytest.raises(psycopg.Error, match="pooler is not paused/suspended"):
            second.execute("resume")
    assert "closing because: pause mode" in pooler.log()


def test_one_database(pooler: Pooler, operator: Connection, postgres: Postgres) -> None:
    with pooler.client() as here, pooler.client("other") as there:
        here.value("SELECT 1")
        assert operator.execute("pause bench").statusmessage == "PAUSE"
        assert backends(postgres) == []
        rows = {row[0]: row[15] for row in operator.execute("show databases")}
        assert rows == {"bench": 1, "other": 0, "pgbouncer": 0}
        assert state(operator)["active"] == "yes"
        here.send(query("SELECT 1"))
        assert there.value("SELECT 2") == "2"
        wait_until(waits(operator), "a client waits")
        with pytest.raises(psycopg.Error, match="database other is not paused"):
            operator.execute("resume other")
        operator.execute("resume bench")
        here.read_until("Z")


def test_logins_wait_as_well(pooler: Pooler, operator: Connection) -> None:
    """Nobody opens a server, not even to learn what to tell a client."""
    operator.execute("pause")
    with pooler.wire() as client:
        login = threading.Thread(target=client.login, args=("app", DATABASE))
        login.start()
        wait_until(
            lambda: any(
                row[4] == "cl_login" for row in operator.execute("show sockets")
            ),
            "a client logs in",
        )
        assert operator.execute("show servers").fetchall() == []
        operator.execute("resume")
        login.join(15)
        assert client.value("SELECT 1") == "1"


def test_a_worker_that_dies_meanwhile(
    pooler: Pooler, operator: Connection, postgres: Postgres
) -> None:
    """What it held is gone, and its successor is paused from its birth."""
    before = pooler.worker_pids()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(pooler.client()) for _ in range(8)]
        for client in clients:
            client.ask(query("BEGIN"))
        with pooler.connect("pgbouncer", "chief", autocommit=True) as second:
            pause = Command(second, "pause")
            wait_until(lambda: state(operator)["paused"] == "yes", "paused")
            for pid in before:
                os.kill(pid, signal.SIGKILL)
                break
            for client in clients:
                with contextlib.suppress(OSError, ConnectionEnded):
                    client.ask(query("COMMIT"))
            pause.wait()  # its own way may have been through the dead one
    wait_until(lambda: len(set(pooler.worker_pids()) - set(before)) == 1, "successor")
    wait_until(lambda: backends(postgres) == [], "no server is left")
    with pooler.connect("pgbouncer", "chief", autocommit=True) as third:
        assert state(third)["paused"] == "yes"
        with contextlib.ExitStack() as stack:
            late = [stack.enter_context(pooler.wire()) for _ in range(8)]
            logins = [
                threading.Thread(target=one.login, args=("app", DATABASE))
                for one in late
            ]
            for login in logins:
                login.start()

            def here() -> int:
                rows = third.execute("show sockets (user, database)").fetchall()
                return rows.count(("app", DATABASE)) + rows.count(
                    ("(nouser)", "(nodb)")
                )

            wait_until(lambda: here() == 8, "all are here")
            assert third.execute("show servers").fetchall() == []
            assert backends(postgres) == []
            third.execute("resume")
            for login, one in zip(logins, late, strict=True):
                login.join(15)
                assert one.value("SELECT 1") == "1"


def test_whoever_gives_up_resumes(pooler: Pooler, operator: Connection) -> None:
    with (
        pooler.client() as busy,
        pooler.connect("pgbouncer", "chief", autocommit=True) as second,
    ):
        busy.ask(query("BEGIN"))
        for text in ("pause", "pause bench"):
            pause = Command(second, text)
            wait_until(
                lambda: (
                    state(operator)["paused"] == "yes"
                    or operator.execute("show databases").fetchall()[0][15]
                ),
                "paused",
            )
            second.cancel_safe()
            assert pause.wait().startswith("57014: ")
            assert state(operator)["paused"] == "no"
            assert operator.execute("show databases").fetchall()[0][15] == 0
        pause = Command(second, "pause")
        wait_until(lambda: state(operator)["paused"] == "yes", "paused")
        operator.execute("resume")
        assert "PAUSE was ended by RESUME" in pause.wait()
        busy.ask(query("COMMIT"))


def test_kill(pooler: Pooler, operator: Connection, postgres: Postgres) -> None:
    with (
        pooler.client() as busy,
        pooler.client() as idle,
        pooler.client("other") as there,
    ):
        busy.ask(query("BEGIN"))
        busy.send(query("SELECT pg_sleep(1)"))
        idle.value("SELECT 1")
        there.ask(query("BEGIN"))
        assert operator.execute("kill bench").statusmessage == "KILL"
        for client in (busy, idle):
            fields = client.read_fatal()
            assert (fields["C"], fields["M"]) == ("57P01", "database removed")
        assert operator.execute("show servers").fetchall()[0][2] == "other"
        assert there.value("SELECT 1") == "1"
        assert operator.execute("show databases").fetchall()[0][15] == 1
        operator.execute("resume bench")
        with pooler.client() as again:
            assert again.value("SELECT 1") == "1"


def test_a_database_that_is_taken_out_of_the_file_loses_everybody(
    make_pooler: MakePooler, postgres: Postgres
) -> None:
    """Its clients are told, its servers go, and nobody else hears of it."""
    pooler = make_pooler({"bench": "", "gone": "dbname=bench"})
    with pooler.client("gone") as busy, pooler.client("gone") as idle:
        with pooler.client() as other:
            busy.ask(query("BEGIN"))
            idle.value("SELECT 1")
            other.ask(query("BEGIN"))
            pooler.databases = {"bench": ""}
            pooler.reload()
            for client in (busy, idle):
                fields = client.read_fatal()
                assert (fields["C"], fields["M"]) == ("57P01", "database removed")
            assert other.value("SELECT 1") == "1"
            wait_until(lambda: len(backends(postgres)) == 1, "its servers have gone")
            with pytest.raises(psycopg.OperationalError, match="no such database"):
                pooler.connect("gone")


def test_wait_close(pooler: Pooler, operator: Connection) -> None:
    with (
        pooler.client() as busy,
        pooler.connect("pgbouncer", "chief", autocommit=True) as second,
    ):
        assert operator.execute("wait_close").statusmessage == "WAIT_CLOSE"
        before = busy.value("SELECT pg_backend_pid()")
        busy.ask(query("BEGIN"))
        operator.execute("reconnect bench")
        wait = Command(second, "wait_close bench")
        pooler_row = operator.execute("show servers (close_needed)").fetchall()
        assert pooler_row == [(1,)]
        assert operator.execute("wait_close other").statusmessage == "WAIT_CLOSE"
        assert not wait.outcome
        busy.ask(query("COMMIT"))
        assert wait.wait() == "WAIT_CLOSE"
        assert "RECONNECT 'bench' command issued" in pooler.log()
        assert busy.value("SELECT pg_backend_pid()") != before


def test_signals(pooler: Pooler, operator: Connection, postgres: Postgres) -> None:
    with pooler.client() as client:
        client.value("SELECT 1")
        pooler.send(signal.SIGUSR2)
        pooler.wait_log("got SIGUSR2, but not paused/suspended")
        pooler.send(signal.SIGUSR1)
        pooler.wait_log("got SIGUSR1, pausing all activity")
        wait_until(lambda: backends(postgres) == [], "no server is left")
        client.send(query("SELECT 1"))
        wait_until(waits(operator), "a client waits")
        pooler.send(signal.SIGUSR1)
        pooler.wait_log("got SIGUSR1, but already paused/suspended")
        pooler.send(signal.SIGUSR2)
        pooler.wait_log("got SIGUSR2, continuing from PAUSE")
        client.read_until("Z")
