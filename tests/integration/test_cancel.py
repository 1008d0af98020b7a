# SPDX-License-Identifier: MIT
"""Cancel requests: they end the query they were meant for, and no other."""

from __future__ import annotations

import contextlib
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

from pooler.demo.postgres import Postgres
from tests.integration.fake_server import (
    READY,
    SELECT,
    SELECTED,
    FakeBackend,
    FakeServer,
    begin,
    error,
    log_in,
)
from tests.integration.harness import (
    DATABASE,
    HOST,
    USER,
    InProcess,
    MakePooler,
    Pooler,
    backends,
    free_port,
    wait_until,
)
from tests.wire_client import (
    SYNC,
    WireClient,
    cancel_request,
    codes,
    extended,
    message,
    query,
)

MakeWorker = Callable[..., InProcess]
SLEEP = "SELECT pg_sleep(60)"
SLEEPING = query(SLEEP)
CANCELLED = "57014"
PAUSE_S = 0.3  # what has not come by then does not come


def wait_sleeping(postgres: Postgres, count: int = 1) -> None:
    sql = (
        "SELECT count(*) FROM pg_stat_activity"
        f" WHERE usename = '{USER}' AND wait_event = 'PgSleep'"
    )
    wait_until(lambda: postgres.psql(sql) == [(count,)], "it sleeps")


def send_cancel(port: int, key: bytes) -> None:
    """Send a request and wait until it has been dealt with."""
    with WireClient(port) as canceller:
        canceller.send(cancel_request(key))
        assert canceller.read_to_end() == []


def assert_cancelled(client: WireClient) -> None:
    read = client.read_until("Z")
    assert [one.fields["C"] for one in read if one.code == "E"] == [CANCELLED]


# By a driver


def cancel_by_driver(
    postgres: Postgres, connection: psycopg.Connection[tuple[Any, ...]]
) -> None:
    """Run a query that would take a minute, and cancel it."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            connection.execute(SLEEP)
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    wait_sleeping(postgres)
    connection.cancel()
    thread.join(10)
    assert [type(failure) for failure in failures] == [errors.QueryCanceled]


@pytest.mark.parametrize("workers", [1, 2])
def test_by_a_driver(postgres: Postgres, make_pooler: MakePooler, workers: int) -> None:
    """Each request is a new connection, so about every second gets the other worker."""
    pooler = make_pooler(default_pool_size=workers, workers=workers)
    with pooler.connect(autocommit=True) as connection:
        connection.execute("SELECT 1")
        before = set(backends(postgres))
        for _ in range(8):
            cancel_by_driver(postgres, connection)
        assert connection.execute("SELECT 1").fetchall() == [(1,)]
        assert set(backends(postgres)) == before


def test_over_the_unix_socket(postgres: Postgres, make_pooler: MakePooler) -> None:
    with tempfile.TemporaryDirectory(prefix="pooler-", dir="/tmp") as directory:
        pooler = make_pooler(unix_socket_dir=directory, workers=2)
        pooler.host = directory
        with pooler.connect(autocommit=True) as connection:
            for _ in range(4):
                cancel_by_driver(postgres, connection)


# The right client, or none


@pytest.mark.parametrize("workers", [1, 2])
def test_wrong_key(postgres: Postgres, make_pooler: MakePooler, workers: int) -> None:
    pooler = make_pooler(workers=workers)
    with pooler.client() as client:
        client.send(SLEEPING)
        wait_sleeping(postgres)
        key = client.key
        for wrong in (
            bytes(8),
            key[:-1] + bytes((key[-1] ^ 1,)),
            bytes((key[0] ^ 1,)) + key[1:],
            key + b"\0",
        ):
            send_cancel(pooler.port, wrong)
            wait_sleeping(postgres)
        send_cancel(pooler.port, key)
        assert_cancelled(client)


def test_of_an_idle_client(postgres: Postgres, make_pooler: MakePooler) -> None:
    """Its last server works for somebody else now."""
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as idle, pooler.client() as busy:
        assert idle.value("SELECT 1") == "1"
        [server] = backends(postgres)
        busy.send(SLEEPING)
        wait_sleeping(postgres)
        send_cancel(pooler.port, idle.key)
        wait_sleeping(postgres)
        send_cancel(pooler.port, busy.key)
        assert_cancelled(busy)
        assert idle.value("SELECT pg_backend_pid()") == str(server)


def test_next_clients_are_never_hit(make_pooler: MakePooler) -> None:
    """Many requests that all come too late, while others use the server."""
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as cancelled, pooler.client() as other:
        for _ in range(150):
            with pooler.wire() as canceller:
                cancelled.send(SELECT)
                canceller.send(cancel_request(cancelled.key))
                assert codes(other.ask(SELECT)) == "TDCZ"
                cancelled.read_until("Z")
                assert canceller.read_to_end() == []


def test_server_is_kept_back_while_its_cancel_is_under_way(
    worker: InProcess, server: FakeServer
) -> None:
    first, backend = log_in(worker, server)
    with first, begin(worker).read_greeting() as second:
        first.send(SELECT)
        assert backend.read().code == "Q"
        with WireClient(worker.port) as canceller:
            canceller.send(cancel_request(first.key))
            request = server.accept()
            assert request.read_startup() == cancel_request(bytes(8))[
                4:8
            ] + bytes.fromhex("000004d2 0000162e")
            backend.send(SELECTED, READY)
            assert codes(first.read_until("Z")) == "TDCZ"
            second.send(SELECT)
            backend.socket.settimeout(PAUSE_S)
            with pytest.raises(TimeoutError):
                backend.read()
            backend.socket.settimeout(10)
            request.close()
            assert backend.answer().code == "Q"
            assert codes(second.read_until("Z")) == "TDCZ"
            assert canceller.read_to_end() == []


def test_request_that_never_ends(
    worker_in_process: MakeWorker, server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It costs cancel_wait_timeout, not the pool."""
    worker = worker_in_process(
        server_port=server.port, default_pool_size=1, cancel_wait_timeout=1
    )
    client, backend = log_in(worker, server)
    with client, WireClient(worker.port) as canceller:
        client.send(SELECT)
        assert backend.read().code == "Q"
        canceller.send(cancel_request(client.key))
        request = server.accept()
        assert canceller.read_to_end() == []
        assert request.is_closed()
        assert "request failed, closing because: cancel_wait_timeout" in caplog.text
        backend.send(SELECTED, READY)
        assert codes(client.read_until("Z")) == "TDCZ"
        client.send(SELECT)
        assert backend.is_closed()  # one that may still be hit is given up
        server.accept().greet().answer()
        assert codes(client.read_until("Z")) == "TDCZ"


def test_server_without_a_key(
    worker_in_process: MakeWorker, server: FakeServer
) -> None:
    """Some proxies give none: a cancel does nothing, a lost query is closed."""
    worker = worker_in_process(
        server_port=server.port, default_pool_size=1, cancel_wait_timeout=1
    )
    client = begin(worker)
    backend = server.accept()
    backend.read_startup()
    backend.send(re.sub(rb"K\0\0\0\x0c.{8}", b"", backend.greeting(), flags=re.DOTALL))
    with client.read_greeting():
        client.send(SELECT)
        assert backend.read().code == "Q"
        send_cancel(worker.port, client.key)
        assert not server.has_caller(PAUSE_S)
        backend.send(SELECTED, READY)
        assert codes(client.read_until("Z")) == "TDCZ"
        client.send(SELECT)
        assert backend.read().code == "Q"
    assert backend.is_closed()
    assert not server.has_caller(PAUSE_S)


# A client that still waits for a server


@contextlib.contextmanager
def queue(worker: InProcess, *asked: bytes) -> Iterator[tuple[WireClient, WireClient]]:
    """One client that has the only server, one that waits for it."""
    with worker.client() as holder, worker.client() as waiting:
        holder.ask(query("BEGIN"))
        waiting.send(*asked)
        wait_until(lambda: worker.engine.pool_stats(0)["waiting"] == 1, "it waits")
        yield holder, waiting


@pytest.mark.parametrize(
    "asked",
    [
        query("SELECT 1"),
        extended("SELECT 1") + SYNC,
        extended("SELECT 1") + extended("SELECT $1", b"x") + SYNC,
        query("SELECT 1".ljust(300_000)),
    ],
    ids=["simple", "extended", "pipeline", "long"],
)
def test_of_a_client_that_waits(worker_in_process: MakeWorker, asked: bytes) -> None:
    worker = worker_in_process(default_pool_size=1)
    with queue(worker, asked) as (holder, waiting):
        send_cancel(worker.port, waiting.key)
        read = waiting.read_until("Z")
        assert codes(read) == "EZ"
        assert (read[0].fields["S"], read[0].fields["C"]) == ("ERROR", CANCELLED)
        assert read[1].body == b"I"
        assert worker.engine.pool_stats(0)["waiting"] == 0
        holder.ask(query("COMMIT"))
        assert waiting.value("SELECT 2") == "2"
        assert codes(waiting.ask(asked))[-2:] == "CZ"


def test_of_the_first_of_two_requests_that_wait(
    worker_in_process: MakeWorker,
) -> None:
    worker = worker_in_process(default_pool_size=1)
    asked = (extended("SELECT 1"), SYNC, query("SELECT 2"))
    with queue(worker, *asked) as (holder, waiting):
        send_cancel(worker.port, waiting.key)
        assert_cancelled(waiting)
        holder.ask(query("COMMIT"))
        read = waiting.read_until("Z")
        assert codes(read) == "TDCZ"
        assert read[1].row == [b"2"]


# Other hosts


def with_peers(make_pooler: MakePooler, own: int, **peers: int) -> Pooler:
    """A pooler with this number; ``peers``: ``_NUMBER`` = port of the others."""
    lines = "\n".join(
        f"{name[1:]} = host={HOST} port={port}" for name, port in peers.items()
    )
    return make_pooler(peer_id=f"{own}\n[peers]\n{lines}")


def test_forwarded_to_the_peer(postgres: Postgres, make_pooler: MakePooler) -> None:
    first = with_peers(make_pooler, 1)
    second = with_peers(make_pooler, 2, _1=first.port)
    first.reload(peer_id=f"1\n[peers]\n2 = host={HOST} port={second.port}")
    for own, other in ((first, second), (second, first)):
        with own.client() as client:
            client.send(SLEEPING)
            wait_sleeping(postgres)
            send_cancel(other.port, client.key)
            assert_cancelled(client)


def test_poolers_that_share_a_port(postgres: Postgres, make_pooler: MakePooler) -> None:
    """Whichever of them the kernel gives a cancel request, its client hears of it."""
    with tempfile.TemporaryDirectory(prefix="pooler-", dir="/tmp") as directory:
        port = free_port()
        for own, other in ((1, 2), (2, 1)):
            Path(directory, str(own)).mkdir()
            peers = f"{other} = host={directory}/{other} port={port}"
            make_pooler(
                listen_port=port,
                so_reuseport=1,
                unix_socket_dir=f"{directory}/{own}",
                peer_id=f"{own}\n[peers]\n{peers}",
            )
        keys = set()
        for _ in range(50):
            with WireClient(port).login(USER, DATABASE) as client:
                keys.add(client.key[1])
                client.send(SLEEPING)
                wait_sleeping(postgres)
                send_cancel(port, client.key)
                assert_cancelled(client)
            if len(keys) == 2:
                break
        assert keys == {1, 2}


def test_hops_are_counted(make_pooler: MakePooler, server: FakeServer) -> None:
    pooler = with_peers(make_pooler, 1, _7=server.port)
    key = bytes((0, 7, 0, 1, 2, 3, 4))
    for hops in (3, 2, 1):
        with pooler.wire() as client:
            client.send(cancel_request(key + bytes((0xA8 | hops,))))
            peer = server.accept()
            wanted = cancel_request(key + bytes((0xA8 | hops - 1,)))
            assert peer.read_startup() == wanted[4:]
            peer.close()
            assert client.read_to_end() == []
    send_cancel(pooler.port, key + b"\xa8")
    assert not server.has_caller(PAUSE_S)
    assert "forwarded too often" in pooler.log()


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_at_a_peer_than_its_pool_size(
    make_pooler: MakePooler, server: FakeServer, workers: int
) -> None:
    """Over all workers; the others wait, for cancel_wait_timeout at most."""
    lines = f"1\n[peers]\n7 = host={HOST} port={server.port} pool_size=2"
    pooler = make_pooler(peer_id=lines, workers=workers)
    key = bytes((0, 7, 0, 1, 2, 3, 4, 3))
    askers = [pooler.wire() for _ in range(6)]
    for asker in askers:
        asker.send(cancel_request(key))
    first = [server.accept() for _ in range(2)]
    assert not server.has_caller(PAUSE_S)
    for peer in first:
        peer.close()
    more = [server.accept() for _ in range(2)]
    assert not server.has_caller(PAUSE_S)
    for peer in more:
        peer.close()
    for peer in [server.accept() for _ in range(2)]:
        peer.close()
    for asker in askers:
        assert asker.read_to_end() == []
        asker.close()


def test_who_waits_for_a_peer_gives_up(
    make_pooler: MakePooler, server: FakeServer
) -> None:
    """And its place goes to whoever comes then."""
    lines = f"1\n[peers]\n7 = host={HOST} port={server.port} pool_size=1"
    pooler = make_pooler(cancel_wait_timeout=0.3, peer_id=lines)
    for _ in range(3):
        with pooler.wire() as one, pooler.wire() as other:
            one.send(cancel_request(bytes((0, 7, 0, 1, 2, 3, 4, 3))))
            peer = server.accept()
            other.send(cancel_request(bytes((0, 7, 0, 4, 3, 2, 1, 3))))
            assert other.read_to_end() == []
            peer.close()
    why = "closing because: cancel_wait_timeout"
    pooler.wait_log(f"cancel request to peer 7 failed, {why}", 3)


def test_peer_that_is_down(make_pooler: MakePooler, server: FakeServer) -> None:
    server.listener.close()
    pooler = with_peers(make_pooler, 1, _7=server.port)
    send_cancel(pooler.port, bytes((0, 7, 0, 1, 2, 3, 4, 3)))
    pooler.wait_log("cancel request to peer 7 failed")


def test_peer_that_says_nothing(make_pooler: MakePooler, server: FakeServer) -> None:
    peers = f"1\n[peers]\n7 = host={HOST} port={server.port}"
    pooler = make_pooler(cancel_wait_timeout=1, peer_id=peers)
    with pooler.wire() as client:
        client.send(cancel_request(bytes((0, 7, 0, 1, 2, 3, 4, 0xAB))))
        with contextlib.closing(server.accept()):
            pooler.wait_log("peer 7 failed, closing because: cancel_wait_timeout")
            assert client.read_to_end() == []


# A client that is lost; more in test_losses.py


def test_copy_that_opens_after_its_client_is_gone(
    worker: InProcess, server: FakeServer
) -> None:
    """The cancel came too early for it, so the COPY has to be failed."""
    client, backend = log_in(worker, server)
    client.send(query("COPY t FROM STDIN"))
    assert backend.read().code == "Q"
    client.close()
    request = server.accept()
    request.read_startup()
    request.close()
    backend.send(message("G", bytes(3)))
    assert backend.read().code == "f"
    backend.send(error("ERROR", CANCELLED, "COPY from stdin failed"), READY)
    next_client_is_served(worker, backend)


def test_lost_query_is_cancelled_again(worker: InProcess, server: FakeServer) -> None:
    """The first request may come before PostgreSQL has begun, and is ignored then."""
    client, backend = log_in(worker, server)
    client.send(SELECT)
    assert backend.read().code == "Q"
    client.close()
    for _ in range(2):
        assert server.has_caller(5), "no request"
        assert server.backends[-1].read_startup()
        server.backends[-1].close()
    backend.send(error("ERROR", CANCELLED, "canceled"), READY)
    next_client_is_served(worker, backend)


def test_lost_query_is_cancelled_before_the_server_is_used_again(
    worker: InProcess, server: FakeServer
) -> None:
    client, backend = log_in(worker, server)
    client.send(query("BEGIN"), SELECT)
    assert backend.read().body == b"BEGIN\0"
    client.reset()
    request = server.accept()
    backend.send(message("C", b"BEGIN\0"), message("Z", b"T"))
    assert backend.read().body == SELECT[5:]
    backend.send(error("ERROR", CANCELLED, "canceled"), message("Z", b"E"))
    backend.socket.settimeout(PAUSE_S)
    with pytest.raises(TimeoutError):  # a ROLLBACK must not be cancelled either
        backend.read()
    backend.socket.settimeout(10)
    request.close()
    assert backend.read().body == b"ROLLBACK\0"
    backend.send(message("C", b"ROLLBACK\0"), READY)
    next_client_is_served(worker, backend)


def next_client_is_served(worker: InProcess, backend: FakeBackend) -> None:
    """A lost client's server is reset, and then it is anybody's."""
    reset = backend.read()
    assert (reset.code, reset.body) == ("Q", b"DISCARD ALL\0")
    backend.send(message("C", b"DISCARD ALL\0"), READY)
    with begin(worker).read_greeting() as client:
        client.send(SELECT)
        assert backend.answer().code == "Q"
        assert codes(client.read_until("Z")) == "TDCZ"
