# SPDX-License-Identifier: MIT
"""SUSPEND: nothing is read and nobody let in, in any worker, until RESUME."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tests.certificates import make_certificates
from tests.integration.harness import MakePooler, Pooler, is_console, wait_until
from tests.integration.test_pause import Command, state
from tests.wire_client import ConnectionEnded, WireClient, query, startup

Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture(params=[1, 2])
def pooler(make_pooler: MakePooler, request: pytest.FixtureRequest) -> Pooler:
    return make_pooler(admin_users="chief", workers=request.param)


@pytest.fixture
def operator(pooler: Pooler) -> Iterator[Connection]:
    with admin(pooler) as connection:
        yield connection


def admin(pooler: Pooler) -> Connection:
    return pooler.connect("pgbouncer", "chief", autocommit=True)


def is_silent(client: WireClient) -> bool:
    """Nothing has come; whoever was read would have been answered by now."""
    return not select.select([client.socket], [], [], 0.1)[0]


def test_nothing_is_read_and_nobody_let_in(
    pooler: Pooler, operator: Connection
) -> None:
    with (
        admin(pooler) as second,
        pooler.client() as idle,
        pooler.client() as busy,
        pooler.client() as half,
        pooler.wire() as stranger,
    ):
        busy.ask(query("BEGIN"))
        half.send(query("SELECT 'half'")[:9])
        assert operator.execute("suspend").statusmessage == "SUSPEND"
        assert "SUSPEND command issued" in pooler.log()
        assert state(second) == {"active": "no", "paused": "no", "suspended": "yes"}
        stranger.send(startup("app", "bench"))
        idle.send(query("SELECT 1"))
        busy.send(query("SELECT 2"))
        half.send(query("SELECT 'half'")[9:])
        assert all(map(is_silent, (stranger, idle, busy, half)))
        for text in ("suspend", "pause", "pause bench", "kill bench"):
            with pytest.raises(psycopg.Error, match="already suspended/paused"):
                second.execute(text)
        operator.execute("reload")
        assert state(operator)["suspended"] == "yes"
        assert is_silent(idle)
        assert second.execute("resume").statusmessage == "RESUME"
        assert [one.code for one in idle.read_until("Z")] == ["T", "D", "C", "Z"]
        busy.read_until("Z")
        assert [m.row for m in half.read_until("Z") if m.code == "D"] == [[b"half"]]
        stranger.read_until("Z")
        assert stranger.value("SELECT 3") == "3"
        with pytest.raises(psycopg.Error, match="pooler is not paused/suspended"):
            operator.execute("resume")
        with pytest.raises(psycopg.Error, match="invalid command 'suspend bench'"):
            operator.execute("suspend bench")
        operator.execute("pause other")
        with pytest.raises(psycopg.Error, match="cannot suspend with paused databases"):
            operator.execute("suspend")


def test_no_time_is_up_meanwhile(make_pooler: MakePooler) -> None:
    pooler = make_pooler(admin_users="chief", workers=1, idle_transaction_timeout="0.4")
    with admin(pooler) as operator, pooler.client() as client:
        client.ask(query("BEGIN"))
        operator.execute("suspend")
        suspended_s = time.monotonic()
        client.send(query("COMMIT"))
        wait_until(lambda: time.monotonic() > suspended_s + 0.6, "its time is over")
        operator.execute("resume")
        assert [one.code for one in client.read_until("Z")] == ["C", "Z"]


def test_the_last_of_the_console_takes_it_along(
    pooler: Pooler, operator: Connection
) -> None:
    with pooler.client() as client, admin(pooler) as second:
        second.execute("suspend")
        second.close()
        client.send(query("SELECT 1"))
        assert is_silent(client)
        operator.close()
        client.read_until("Z")
        pooler.wait_log("admin disappeared when suspended, doing RESUME")
        with admin(pooler) as third:
            third.execute("suspend")
            (console,) = (
                child
                for child in psutil.Process(pooler.pid).children()
                if is_console(child.pid)
            )
            client.send(query("SELECT 1"))
            os.kill(console.pid, signal.SIGKILL)
            client.read_until("Z")
    assert pooler.log().count("admin disappeared when suspended, doing RESUME") == 2


def test_who_takes_nothing_is_closed(make_pooler: MakePooler) -> None:
    pooler = make_pooler(admin_users="chief", workers=2, suspend_timeout=1)
    with (
        admin(pooler) as operator,
        pooler.wire(receive_buffer=4096) as deaf,
        pooler.client() as other,
    ):
        deaf.login("app", "bench")
        deaf.send(query("SELECT repeat('x', 50000000)"))
        wait_until(
            lambda: any(
                row[0] for row in operator.execute("show sockets (send_avail)")
            ),
            "it takes no more",
        )
        suspend = Command(operator, "suspend")
        pooler.wait_log("SUSPEND command issued")
        assert not suspend.outcome
        assert suspend.wait() == "SUSPEND"
        pooler.wait_log("closing because: suspend_timeout")
        operator.execute("resume")
        assert other.value("SELECT 1") == "1"
        with pytest.raises(ConnectionEnded):
            deaf.read_until("Z")


def test_a_server_that_takes_nothing_is_closed(make_pooler: MakePooler) -> None:
    """And with it the client whose query it does not take."""
    pooler = make_pooler(admin_users="chief", workers=1, suspend_timeout="0.5")
    with admin(pooler) as operator, pooler.client() as client:
        backend = int(client.value("SELECT pg_backend_pid()"))
        os.kill(backend, signal.SIGSTOP)
        try:
            client.socket.settimeout(1)
            with pytest.raises(TimeoutError):
                client.send(query(f"SELECT '{'x' * 50_000_000}'"))
            assert operator.execute("suspend").statusmessage == "SUSPEND"
            pooler.wait_log("closing because: suspend_timeout")
            pooler.wait_log("closing because: client disconnect")
            operator.execute("resume")
        finally:
            os.kill(backend, signal.SIGCONT)
        with pooler.client() as other:
            assert other.value("SELECT 1") == "1"


def test_a_successor_rests_too(make_pooler: MakePooler) -> None:
    pooler = make_pooler(admin_users="chief", workers=2)
    workers = pooler.worker_pids()
    with admin(pooler) as operator:
        rows = operator.execute("show workers").fetchall()
        operator.execute("suspend")
        here = next(pid for pid in workers if has_no_console(pid))
        os.kill(here, signal.SIGKILL)
        wait_until(
            lambda: len(pooler.worker_pids()) == 2 and here not in pooler.worker_pids(),
            "a successor",
        )
        wait_until(lambda: len(operator.execute("show workers").fetchall()) == 2, "")
        assert rows
        strangers = [pooler.wire() for _ in range(8)]
        for one in strangers:
            one.send(startup("app", "bench"))
        assert all(map(is_silent, strangers))
        operator.execute("resume")
        for one in strangers:
            one.read_until("Z")
            one.close()


def has_no_console(pid: int) -> bool:
    """No client is connected to this worker: the session of the console is not here."""
    return not [
        one
        for one in psutil.Process(pid).net_connections("tcp")
        if one.status == psutil.CONN_ESTABLISHED
    ]


def test_signals(pooler: Pooler) -> None:
    with pooler.client() as client, admin(pooler) as operator:
        operator.execute("suspend")
        pooler.send(signal.SIGUSR1)
        pooler.wait_log("got SIGUSR1, but already paused/suspended")
        client.send(query("SELECT 1"))
        assert is_silent(client)
        pooler.send(signal.SIGUSR2)
        client.read_until("Z")
        pooler.wait_log("got SIGUSR2, continuing from SUSPEND")
        operator.execute("suspend")
        assert pooler.stop(signal.SIGTERM) == 1
    assert "suspend was in progress, going down immediately" in pooler.log()


def test_a_slow_end_ends_it(pooler: Pooler, operator: Connection) -> None:
    with pooler.client() as client:
        client.value("SELECT 1")
        operator.execute("suspend")
        client.send(query("SELECT 1"))
        assert operator.execute("shutdown wait_for_clients").statusmessage == "SHUTDOWN"
        client.read_until("Z")
        with pytest.raises(psycopg.Error, match="pooler is shutting down"):
            operator.execute("suspend")
    operator.close()
    assert pooler.wait() == 0


def test_what_tls_has_received_waits_too(
    make_pooler: MakePooler, tmp_path: Path
) -> None:
    """Records that OpenSSL may hold, of which epoll knows nothing; and of a login."""
    made = make_certificates(tmp_path)
    pooler = make_pooler(
        admin_users="chief",
        workers=1,
        client_tls_sslmode="require",
        client_tls_cert_file=made.cert_file,
        client_tls_key_file=made.key_file,
    )
    long = "x" * 100_000
    with admin(pooler) as operator, pooler.connect(autocommit=True) as client:
        operator.execute("suspend")
        asked = [
            InThread(lambda: client.execute("SELECT %s", [long]).fetchone()),
            InThread(lambda: pooler.connect(connect_timeout=30).close()),
        ]
        assert not any(one.join(0.2) for one in asked)
        operator.execute("resume")
        assert all(one.join(15) for one in asked)
        assert asked[0].outcome == (long,)


class InThread:
    """Something that takes its time."""

    def __init__(self, run: Callable[[], object]) -> None:
        self.outcome: object = None
        self._thread = threading.Thread(target=self._run, args=(run,), daemon=True)
        self._thread.start()

    def _run(self, run: Callable[[], object]) -> None:
        self.outcome = run()

    def join(self, limit_s: float) -> bool:
        """Whether it is over within that time."""
        self._thread.join(limit_s)
        return not self._thread.is_alive()
