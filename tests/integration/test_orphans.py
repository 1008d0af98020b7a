# SPDX-License-Identifier: MIT
"""What a dead worker or a closed server leaves in PostgreSQL: nothing, and soon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psutil
import psycopg
import pytest

from pooler.demo.postgres import SUPERUSER, Postgres
from pooler.errors import LoginError
from pooler.session.records import CloseReason
from pooler.worker import departures
from tests.integration.fake_server import (
    SELECT,
    FakeServer,
    error,
    log_in,
)
from tests.integration.harness import (
    DATABASE,
    DEADLINE_S,
    SERVER_PASSWORD,
    USER,
    InProcess,
    MakePooler,
    Pooler,
    backends,
    closing_all,
    wait_until,
)
from tests.wire_client import cancel_request, message, query

SLEEP = query("SELECT pg_sleep(45)")
FLOOD = query("SELECT repeat('x', 1000) FROM generate_series(1, 1000000)")
LONG = query(f"SELECT '{2_000_000 * 'x'}'")  # is not kept whole
GONE_S = 1.0
ACTIVITY = f"FROM pg_stat_activity WHERE usename = '{USER}'"


@pytest.fixture(autouse=True)
def ended(postgres: Postgres) -> Iterator[None]:
    """PostgreSQL goes on with what was at work when the pooler was ended."""
    yield
    postgres.psql(f"SELECT pg_terminate_backend(pid) {ACTIVITY}")
    wait_until(lambda: not backends(postgres), "what was at work has ended")


def wait_activity(postgres: Postgres, what: str, count: int) -> None:
    sql = f"SELECT count(*) {ACTIVITY} AND {what}"
    wait_until(lambda: postgres.psql(sql) == [(count,)], what)


def wait_gone(postgres: Postgres, pids: list[int], seconds: float = GONE_S) -> None:
    left = f"SELECT count(*) FROM pg_stat_activity WHERE pid = ANY ('{{{pids}}}')"
    left = left.replace("[", "").replace("]", "")
    wait_until(lambda: postgres.psql(left) == [(0,)], "they are gone", seconds)


@contextlib.contextmanager
def at_work(
    pooler: Pooler, postgres: Postgres, what: bytes, event: str, count: int
) -> Iterator[list[int]]:
    """Clients whose servers are busy for long; gives the backends."""
    with closing_all([pooler.client() for _ in range(count)]) as clients:
        for client in clients:
            client.send(what)
        wait_activity(postgres, f"wait_event = '{event}'", count)
        yield backends(postgres)


# A worker dies


@pytest.mark.parametrize("workers", [1, 2])
def test_long_queries_of_a_dead_worker_end(
    postgres: Postgres, make_pooler: MakePooler, workers: int
) -> None:
    """By a living worker, or by the successor if there is none."""
    pooler = make_pooler(workers=workers, default_pool_size=8)
    with at_work(pooler, postgres, SLEEP, "PgSleep", 4) as busy:
        for pid in pooler.worker_pids():
            os.kill(pid, signal.SIGKILL)
            if workers > 1:  # the second dies while it is asked to bury
                pooler.wait_log(f"(pid {pid}) killed")
        wait_gone(postgres, busy, 3 * GONE_S)
    pooler.wait_log("a dead worker has left")


def test_a_living_worker_buries_at_once(
    postgres: Postgres, make_pooler: MakePooler
) -> None:
    pooler = make_pooler(workers=2, default_pool_size=8)
    with closing_all([]) as clients:
        homes: set[int] = set()
        while len(homes) < 2:
            clients.append(pooler.client())
            homes.add(clients[-1].key[0] & 0x7F)
        for client in clients:
            client.send(SLEEP)
        wait_activity(postgres, "wait_event = 'PgSleep'", len(clients))
        victim = pooler.worker_pids()[0]
        before = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        pooler.wait_log(f"(pid {victim}) killed")
        mine = [c for c in clients if c.key[0] & 0x7F == 0]
        wait_activity(postgres, "wait_event = 'PgSleep'", len(clients) - len(mine))
        assert time.monotonic() - before < GONE_S
        for client in clients:
            client.close()
        wait_activity(postgres, "wait_event = 'PgSleep'", 0)


def test_a_backend_that_cannot_send_ends(
    postgres: Postgres, make_pooler: MakePooler
) -> None:
    """PostgreSQL hears of no cancel request while it waits for room to write."""
    pooler = make_pooler(workers=1)
    with at_work(pooler, postgres, FLOOD, "ClientWrite", 1) as busy:
        os.kill(pooler.worker_pids()[0], signal.SIGKILL)
        wait_gone(postgres, busy, 3 * GONE_S)


def test_an_idle_server_of_a_dead_worker_ends(
    postgres: Postgres, make_pooler: MakePooler
) -> None:
    pooler = make_pooler(workers=1)
    with closing_all([pooler.client()]) as (client,):
        assert client.value("SELECT 1") == "1"
        idle = backends(postgres)
        os.kill(pooler.worker_pids()[0], signal.SIGKILL)
        wait_gone(postgres, idle)
    assert "has not ended" not in pooler.log()


def test_by_tls(secure_postgres: Postgres, tmp_path: Path) -> None:
    """The cancel request goes the way of its server."""
    pooler = Pooler(
        tmp_path,
        secure_postgres.port,
        {"*": f"user=by_tls password='{SERVER_PASSWORD}'"},
        {"server_tls_sslmode": "require"},
    ).start()
    try:
        with closing_all([pooler.client()]) as (client,):
            client.send(SLEEP)
            sql = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
            wait_until(lambda: secure_postgres.psql(sql), "it sleeps")
            ((pid,),) = secure_postgres.psql(sql)
            os.kill(pooler.worker_pids()[0], signal.SIGKILL)
            wait_gone(secure_postgres, [pid], 3 * GONE_S)
    finally:
        pooler.finish()


class Sampler:
    """How many backends a pool has in PostgreSQL, looked at all the time."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.most = 0
        self.samples = 0

    def _run(self) -> None:
        with psycopg.connect(
            host=str(self._postgres.socket_dir),
            port=self._postgres.port,
            user=SUPERUSER,
            dbname="postgres",
            autocommit=True,
        ) as connection:
            while not self._end.wait(0.002):
                row = connection.execute(f"SELECT count(*) {ACTIVITY}").fetchone()
                assert row is not None
                self.most = max(self.most, row[0])
                self.samples += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(DEADLINE_S)


def server_ports(pid: int, postgres: Postgres) -> list[int]:
    """The ports from which a worker is connected to PostgreSQL."""
    return [
        one.laddr.port
        for one in psutil.Process(pid).net_connections("tcp")
        if one.raddr and one.raddr.port == postgres.port
    ]


def busiest(pooler: Pooler, postgres: Postgres) -> tuple[int, list[int]]:
    """The worker that has the most servers, at least one, and their ports."""
    found: dict[int, list[int]] = {}

    def has_some() -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            pids = pooler.worker_pids()
            found.update({pid: server_ports(pid, postgres) for pid in pids})
        return any(found.values())

    wait_until(has_some, "somebody is served")
    pid = max(found, key=lambda pid: len(found[pid]))
    return pid, found[pid]


def come_back(pooler: Pooler, ended: threading.Event) -> None:
    """A client that wants a long query, and comes again when it was lost."""
    while not ended.is_set():
        with contextlib.suppress(psycopg.Error), pooler.connect() as connection:
            connection.execute("SELECT pg_sleep(45)")


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.full)])
def test_kills_in_a_row(
    postgres: Postgres, make_pooler: MakePooler, kills: int
) -> None:
    """PostgreSQL never has one backend too many, whoever dies at whatever moment."""
    pooler = make_pooler(workers=2, default_pool_size=4)
    ended = threading.Event()
    clients = [
        threading.Thread(target=come_back, args=(pooler, ended), daemon=True)
        for _ in range(12)
    ]
    with Sampler(postgres) as sampler:
        for client in clients:
            client.start()
        wait_activity(postgres, "wait_event = 'PgSleep'", 4)
        for _ in range(kills):
            victim, ports = busiest(pooler, postgres)
            os.kill(victim, signal.SIGKILL)
            pooler.wait_log(f"(pid {victim}) killed")
            listed = ", ".join(map(str, ports))
            wait_activity(postgres, f"client_port IN ({listed})", 0)
        ended.set()
        pooler.stop()
        for client in clients:
            client.join(DEADLINE_S)
    assert sampler.samples > 100
    assert sampler.most == 4


# A server is closed


def test_a_refused_login_counts_until_its_end(
    worker: InProcess, server: FakeServer
) -> None:
    pools = worker.worker._pools
    database = pools.database(DATABASE)
    assert database is not None
    told: list[str] = []

    async def open_one() -> None:
        with pytest.raises(LoginError, match="no"):
            await pools.opener.open(
                database, USER, None, gone=lambda: told.append("gone")
            )

    opening = asyncio.run_coroutine_threadsafe(open_one(), worker.loop)
    backend = server.accept()
    backend.read_startup()
    backend.send(error("FATAL", "28P01", "no"))
    opening.result(DEADLINE_S)
    assert worker.engine.counters()["parting"] == 1
    assert told == []
    backend.close()
    wait_until(lambda: told == ["gone"], "it is gone")


def test_an_idle_server_is_told(worker: InProcess, server: FakeServer) -> None:
    client, backend = log_in(worker, server)
    worker.loop.call_soon_threadsafe(worker.worker._pools.reconnect, "")
    assert backend.read().code == "X"
    assert backend.is_closed()
    client.close()


def test_terminate_only_to_a_server_at_rest(
    worker: InProcess, server: FakeServer
) -> None:
    """Behind a part of a message it would be read as the rest of that."""
    client, backend = log_in(worker, server)
    part = LONG[:-5]
    client.send(part)
    assert backend.read_exactly(len(part)) == part
    (handle,) = worker.worker._pools.launches.servers
    worker.loop.call_soon_threadsafe(
        worker.engine.server_close, handle, CloseReason.CLOSE_SERVER_OBSOLETE
    )
    with pytest.raises(EOFError, match="0 of 1"):
        backend.read_exactly(1)
    backend.close()
    client.close()


def test_one_at_work_is_cancelled_until_it_ends(
    worker: InProcess, server: FakeServer
) -> None:
    client, backend = log_in(worker, server)
    client.send(SELECT)
    backend.read()
    backend.send(message("Z", b"?"))  # no status that there is
    for _ in range(2):
        asker = server.accept()
        assert asker.read_exactly(16) == cancel_request(struct.pack("!II", 1234, 5678))
        asker.close()
    assert worker.engine.counters()["parting"] == 1
    backend.close()
    wait_until(lambda: worker.engine.counters()["parting"] == 0, "it is gone")
    client.close()


def test_one_that_cannot_be_reached_is_given_up(
    worker: InProcess, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(departures, "GIVE_UP_S", 0.2)
    client, backend = log_in(worker, server)
    client.send(SELECT)
    backend.read()
    server.listener.close()
    backend.send(message("Z", b"?"))
    wait_until(lambda: worker.engine.counters()["parting"] == 1, "it is closed")
    wait_until(lambda: worker.engine.counters()["parting"] == 0, "it is given up")
    client.close()
