# SPDX-License-Identifier: MIT
"""The pooler ends: everybody is told, and nobody waits in vain."""

from __future__ import annotations

import select
import signal
import socket
import tempfile
import time
from collections.abc import Iterator

import psycopg
import pytest

from tests.integration.chaos import SLOT_BITS
from tests.integration.harness import (
    DATABASE,
    HOST,
    USER,
    MakePooler,
    Pooler,
    closing_all,
    wait_until,
)
from tests.wire_client import TERMINATE, WireClient, codes, query

GOING = "pooler is shutting down"


@pytest.fixture
def unix_dir() -> Iterator[str]:
    # pytest's own directories can be too long for a Unix socket.
    with tempfile.TemporaryDirectory() as directory:
        yield directory


def refuses_tcp(pooler: Pooler) -> bool:
    try:
        socket.create_connection((HOST, pooler.port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


def by_unix(
    pooler: Pooler, database: str = DATABASE, user: str = USER
) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        host=str(pooler.settings["unix_socket_dir"]),
        port=pooler.port,
        dbname=database,
        user=user,
        connect_timeout=10,
        autocommit=True,
    )


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_who_comes_by_the_unix_socket_is_told(
    make_pooler: MakePooler, unix_dir: str, signum: int, workers: int
) -> None:
    pooler = make_pooler(workers=workers, unix_socket_dir=unix_dir)
    with pooler.client() as busy:
        busy.ask(query("BEGIN"))
        for _ in range(2 * workers):
            by_unix(pooler).close()  # a login that is known is not let in either
        pooler.send(signum)
        wait_until(lambda: refuses_tcp(pooler), "the signal is obeyed")
        for _ in range(5):
            with pytest.raises(psycopg.OperationalError, match=GOING):
                by_unix(pooler)
        assert codes(busy.ask(query("COMMIT"))) == "CZ"
        busy.send(TERMINATE)
    assert pooler.wait(5) == 0


def test_the_console_is_there_to_the_end(
    make_pooler: MakePooler, unix_dir: str
) -> None:
    pooler = make_pooler(workers=2, unix_socket_dir=unix_dir)
    with pooler.client() as client:
        pooler.send(signal.SIGTERM)
        wait_until(lambda: refuses_tcp(pooler), "the signal is obeyed")
        with by_unix(pooler, "pgbouncer", "pgbouncer") as console:
            assert console.execute("SHOW VERSION").fetchall()
        console.close()
        assert client.value("SELECT 1") == "1"
    assert pooler.wait(5) == 0


def test_who_logs_in_is_not_waited_for(make_pooler: MakePooler, unix_dir: str) -> None:
    """One that says nothing could keep us for a minute."""
    pooler = make_pooler(unix_socket_dir=unix_dir)
    with (
        pooler.client() as client,
        socket.socket(socket.AF_UNIX) as silent,
    ):
        pooler.send(signal.SIGTERM)
        wait_until(lambda: refuses_tcp(pooler), "the signal is obeyed")
        silent.connect(f"{unix_dir}/.s.PGSQL.{pooler.port}")
        client.send(TERMINATE)
        assert pooler.wait(5) == 0


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGQUIT])
def test_idle_clients_hear_of_the_end(
    make_pooler: MakePooler, signum: int, mode: str
) -> None:
    pooler = make_pooler(workers=2, pool_mode=mode)
    with closing_all([pooler.client() for _ in range(6)]) as clients:
        for client in clients[:2]:
            assert client.value("SELECT 1") == "1"
        pooler.send(signum)
        if mode == "session" and signum == signal.SIGINT:
            for client in clients[:2]:
                client.send(TERMINATE)  # their servers are what it waits for
            clients = clients[2:]
        for client in clients:
            assert client.read_fatal()["C"] == "57P01"
    assert pooler.wait(5) == 0


def test_sigint_waits_for_the_servers_of_all_workers(make_pooler: MakePooler) -> None:
    """A client whose own worker has none is there until then, unless it asks."""
    pooler = make_pooler(workers=2, default_pool_size=1)
    with (
        pooler.client() as busy,
        closing_all([pooler.client() for _ in range(12)]) as idle,
        pooler.client() as waiting,
    ):
        busy.ask(query("BEGIN"))
        assert len({client.key[0] & SLOT_BITS for client in idle}) == 2
        waiting.send(query("SELECT 'waits'"))
        wait_until(lambda: not_yet(waiting), "it waits")
        pooler.send(signal.SIGINT)
        assert waiting.read_fatal()["C"] == "57P01"
        for client in idle[:6]:
            client.send(query("SELECT 1"))
            assert client.read_fatal()["C"] == "57P01"
        assert all(map(not_yet, idle[6:]))
        assert busy.value("SELECT 2") == "2"
        assert codes(busy.ask(query("COMMIT"))) == "CZ"
        for client in idle[6:]:
            assert client.read_fatal()["C"] == "57P01"
    assert pooler.wait(5) == 0


def not_yet(client: WireClient) -> bool:
    """Whether a client has heard nothing so far."""
    return select.select([client.socket], [], [], 0.02)[0] == []


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_shutdown_timeout(make_pooler: MakePooler, mode: str) -> None:
    """Idle ones go at the rate that is set, the others after their transactions."""
    pooler = make_pooler(
        pool_mode=mode, shutdown_timeout=0.5, shutdown_rate=10, default_pool_size=20
    )
    with (
        closing_all([pooler.client() for _ in range(12)]) as clients,
        pooler.client() as busy,
    ):
        for client in clients[:3]:
            assert client.value("SELECT 1") == "1"
        busy.ask(query("BEGIN"))
        begun = time.monotonic()
        pooler.send(signal.SIGTERM)
        for client in clients:
            assert client.read_fatal()["C"] == "57P01"
        # twelve of them, ten a second, after half a second
        assert time.monotonic() - begun >= 1.4
        assert busy.value("SELECT 1") == "1"
        assert codes(busy.ask(query("COMMIT"))) == "CZ"
        assert busy.read_fatal()["C"] == "57P01"
    assert pooler.wait(5) == 0


def test_no_shutdown_timeout(make_pooler: MakePooler) -> None:
    pooler = make_pooler(shutdown_timeout=0)
    with pooler.client() as client:
        pooler.send(signal.SIGTERM)
        wait_until(lambda: refuses_tcp(pooler), "the signal is obeyed")
        for _ in range(20):
            assert client.value("SELECT 1") == "1"
        client.send(TERMINATE)
    assert pooler.wait(5) == 0
