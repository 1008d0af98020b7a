# SPDX-License-Identifier: MIT
"""How servers are opened where there are none, and what clients hear meanwhile."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from pooler.demo.postgres import Postgres
from tests.integration.fake_server import SELECT, FakeServer, error
from tests.integration.harness import (
    DATABASE,
    HOST,
    USER,
    InProcess,
    MakePooler,
    closing_all,
    free_port,
    wait_until,
)
from tests.wire_client import WireClient, startup

CLIENTS = 30


def test_who_waits_while_postgres_is_down_is_served(make_pooler: MakePooler) -> None:
    """Each client has logged in before; none hears of it."""
    with Postgres() as server:
        pooler = make_pooler(
            {"*": f"host={HOST} port={server.port} dbname=postgres user=postgres"},
            default_pool_size=3,
            server_login_retry=1,
        )
        clients = [pooler.connect(autocommit=True) for _ in range(CLIENTS)]
        server._end()

        def ask(client: psycopg.Connection[tuple[int]]) -> int:
            return client.execute("SELECT 1").fetchall()[0][0]

        with ThreadPoolExecutor(CLIENTS) as threads:
            answers = [threads.submit(ask, client) for client in clients]
            pooler.wait_log("connect failed: Connection refused", 2)
            server._launch()
            assert [answer.result(20) for answer in answers] == [1] * CLIENTS
        for client in clients:
            client.close()


def test_who_leaves_is_waited_for_no_more(tmp_path: Path) -> None:
    """Of logins that have gone nothing is kept, however long nobody listens."""
    worker = InProcess(tmp_path, free_port())
    pools = worker.worker._pools
    try:
        clients = [WireClient(worker.port) for _ in range(5)]
        for client in clients:
            client.send(startup(USER, DATABASE))

        def waiting() -> list[int]:
            return [len(pool.on_welcome) for pool in pools.all()]

        wait_until(lambda: waiting() == [5], "all wait for the welcome")
        for client in clients:
            client.close()
        wait_until(lambda: waiting() == [0], "nobody waits any more")
        worker.wait_for_clients_to_leave()
    finally:
        worker.stop()


@pytest.mark.parametrize("sqlstate", ["53300", "57P03"])
def test_what_passes_is_waited_for(make_pooler: MakePooler, sqlstate: str) -> None:
    with contextlib.closing(FakeServer()) as server:
        pooler = make_pooler(
            {"*": f"host={HOST} port={server.port}"}, server_login_retry=1
        )
        with pooler.wire() as client:
            client.send(startup(USER, DATABASE))
            for _ in range(2):
                backend = server.accept()
                backend.read_startup()
                backend.send(error("FATAL", sqlstate, "not now"))
                backend.close()
            server.accept().greet()
            client.read_greeting()


def test_who_comes_behind_a_refusal_hears_it_at_once(make_pooler: MakePooler) -> None:
    """And those who can be served go on."""
    with contextlib.closing(FakeServer()) as server:
        pooler = make_pooler(
            {"*": f"host={HOST} port={server.port}"}, server_login_retry=60
        )
        with closing_all([pooler.wire() for _ in range(3)]) as clients:
            for client in clients:
                client.send(startup(USER, DATABASE))
            backend = server.accept().greet()
            for client in clients:
                client.read_greeting()
            clients[0].send(SELECT)
            backend.read()
            clients[1].send(SELECT)
            other = server.accept()
            other.read_startup()
            other.send(error("FATAL", "3D000", "not here"))
            other.close()
            pooler.wait_log("server login failed: FATAL not here")
            clients[2].send(SELECT)
            backend.send(backend.greeting()[-6:])
            clients[0].read_until("Z")
            for client in clients[1:]:
                backend.answer()
                client.read_until("Z")
            backend.close()
            pooler.wait_log("server connection closed")
            clients[0].send(SELECT)
            fields = clients[0].read_fatal()
            assert fields["C"] == "3D000"
            assert "server login has been failing, cached error: " in fields["M"]
            assert fields["M"].endswith("not here (server_login_retry)")


@pytest.mark.full
def test_servers_that_die_at_once_are_not_opened_for_ever(
    make_pooler: MakePooler,
) -> None:
    """They log in, and say behind their first ReadyForQuery that they go."""
    with contextlib.closing(FakeServer()) as server:
        pooler = make_pooler(
            {"*": f"host={HOST} port={server.port}"}, server_login_retry=2
        )
        stop = threading.Event()

        def die() -> None:
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    backend = server.accept()
                    backend.read_startup()
                    backend.send(
                        backend.greeting(), error("FATAL", "57P01", "not any more")
                    )
                    backend.close()

        with pooler.wire() as client:
            client.send(startup(USER, DATABASE))
            dying = threading.Thread(target=die)
            dying.start()
            client.read_greeting().send(SELECT)
            begun_s = time.monotonic()
            wait_until(lambda: time.monotonic() > begun_s + 3, "some time goes by", 5)
            stop.set()
            assert 2 <= len(server.backends) < 30
        server.listener.close()
        dying.join(15)
