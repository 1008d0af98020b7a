# SPDX-License-Identifier: MIT
"""Moments that a real server rarely offers, with a server played by the test."""

from __future__ import annotations

import contextlib
import signal
import struct
from collections.abc import Callable

import pytest

from tests.integration.fake_server import (
    READY,
    SELECT,
    SELECTED,
    FakeBackend,
    FakeServer,
    begin,
    log_in,
)
from tests.integration.harness import (
    DATABASE,
    USER,
    InProcess,
    MakePooler,
    closing_all,
    wait_until,
)
from tests.wire_client import (
    WireClient,
    cancel_request,
    codes,
    startup,
)

# The welcome


def test_client_leaves_in_the_turn_that_brings_the_welcome(
    worker: InProcess, server: FakeServer
) -> None:
    """One client that is gone must not cost the others behind it their login."""
    gone = begin(worker)
    backend = server.accept()
    backend.read_startup()
    with gone, begin(worker) as other:
        other.socket.settimeout(5)
        wait_until(lambda: worker.engine.client_count == 2, "both wait")
        # Both must have been read: what is unread makes a turn of its own.
        worker.counters()

        def greet() -> None:
            backend.send(backend.greeting())
            # After the greeting has been seen, before the task that reads it runs.
            worker.loop.call_soon(gone.close)

        worker.loop.call_soon_threadsafe(greet)
        other.read_greeting()


def test_many_clients_leave_around_the_welcome(
    worker_in_process: Callable[..., InProcess], server: FakeServer
) -> None:
    worker = worker_in_process(server_port=server.port, default_pool_size=1)
    for round_number in range(20):
        with closing_all([]) as clients:
            database = f"database{round_number}"
            for _ in range(20):
                clients.append(WireClient(worker.port))
                clients[-1].send(startup(USER, database))
            backend = server.accept()
            backend.read_startup()
            for client in clients[:10]:
                client.close()
            backend.send(backend.greeting())
            for client in clients[10:-1]:
                client.close()
            clients[-1].socket.settimeout(5)
            clients[-1].read_greeting()


def test_login_while_the_pool_is_full_of_obsolete_servers(
    make_pooler: MakePooler, server: FakeServer
) -> None:
    """After a reload that moves a database, a new client gets in when a server can."""
    entry = "host=127.0.0.1 port={} dbname={}"
    pooler = make_pooler(
        {DATABASE: entry.format(server.port, "first")}, default_pool_size=1
    )
    with pooler.wire() as idle, pooler.wire() as busy, pooler.wire() as new:
        idle.send(startup("other", DATABASE))
        idle_backend = server.accept().greet()
        idle.read_greeting()
        busy.send(startup(USER, DATABASE))
        backend = server.accept().greet()
        busy.read_greeting()
        busy.send(SELECT)
        backend.read()
        pooler.databases = {DATABASE: entry.format(server.port, "second")}
        pooler.reload()
        assert idle_backend.is_closed()  # the worker has reloaded
        new.send(startup(USER, DATABASE))
        wait_until(lambda: pooler.sockets_of_workers() == 3, "all are accepted")
        # The server is busy, so the login has to wait; it may not be forgotten.
        backend.send(SELECTED, READY)
        assert codes(busy.read_until("Z")) == "TDCZ"
        assert backend.is_closed()
        assert server.has_caller(5), "no server is opened for the client that logs in"
        server.backends[-1].greet()
        new.read_greeting()


def test_surplus_servers_leave_after_a_reload(
    make_pooler: MakePooler, server: FakeServer
) -> None:
    pooler = make_pooler(
        {"*": f"host=127.0.0.1 port={server.port}"}, default_pool_size=3
    )
    with closing_all([]) as clients:
        for number in range(3):
            clients.append(pooler.wire())
            clients[-1].send(startup(USER, DATABASE))
            if number == 0:
                server.accept().greet()
            clients[-1].read_greeting()
            clients[-1].send(SELECT)
            if number:
                server.accept().greet()
            server.backends[-1].read()
        pooler.reload(default_pool_size=1, client_login_timeout=1)
        wait_until(
            lambda: times_out(pooler.wire()), "the worker has the new login timeout", 20
        )
        for client, backend in zip(clients, server.backends, strict=True):
            backend.send(SELECTED, READY)
            client.read_until("Z")
        wait_until(
            lambda: (
                pooler.log().count("closing because: obsolete connection") == 2
                or sum(map(ended, server.backends)) == 2
            ),
            "two of three servers leave",
            5,
        )


def times_out(silent: WireClient) -> bool:
    """Whether a connection that says nothing is soon closed for that."""
    with silent:
        silent.socket.settimeout(3)
        try:
            return silent.read_fatal()["M"] == "client_login_timeout"
        except TimeoutError:  # accepted before the worker has reloaded
            return False


def ended(backend: FakeBackend) -> bool:
    """Whether the connection has ended, without waiting."""
    backend.socket.setblocking(False)
    try:
        return backend.socket.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


# Cancel


def test_server_is_not_reused_while_a_cancel_is_under_way(
    worker: InProcess, server: FakeServer
) -> None:
    client, backend = log_in(worker, server)
    with client, begin(worker) as second, WireClient(worker.port) as canceller:
        second.read_greeting()
        client.send(SELECT)
        backend.read()
        canceller.send(cancel_request(client.key))
        link = server.accept()
        assert link.read_startup()[4:] == struct.pack("!II", 1234, 5678)
        # The query ends before the cancel has been delivered.
        backend.send(SELECTED, READY)
        assert codes(client.read_until("Z")) == "TDCZ"
        second.send(SELECT)
        backend.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            backend.read()
        backend.socket.settimeout(5)
        link.close()
        backend.answer()
        assert codes(second.read_until("Z")) == "TDCZ"
        assert canceller.read_to_end() == []


def test_cancel_without_a_time_limit(
    worker_in_process: Callable[..., InProcess], server: FakeServer
) -> None:
    """``cancel_wait_timeout = 0`` is off, not at once."""
    worker = worker_in_process(
        server_port=server.port, default_pool_size=1, cancel_wait_timeout=0
    )
    client, backend = log_in(worker, server)
    with client, WireClient(worker.port) as canceller:
        client.send(SELECT)
        backend.read()
        canceller.send(cancel_request(client.key))
        link = server.accept()
        assert link.read_startup()[4:] == struct.pack("!II", 1234, 5678)
        link.close()
        assert canceller.read_to_end() == []
        backend.send(SELECTED, READY)
        client.read_until("Z")


# The end


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_end_while_a_server_is_being_opened(
    make_pooler: MakePooler, server: FakeServer, signum: int
) -> None:
    pooler = make_pooler({"*": f"host=127.0.0.1 port={server.port}"})
    with pooler.wire() as client:
        client.send(startup(USER, DATABASE))
        backend = server.accept()
        backend.read_startup()
        pooler.worker_pids()
        pooler.send(signum)
        pooler.wait_log("shutting down")
        if signum == signal.SIGTERM:
            backend.send(backend.greeting())
            client.read_greeting()
            client.close()
        else:
            with contextlib.suppress(ConnectionError):
                backend.send(backend.greeting())
        assert pooler.wait(5) == 0


def test_interrupt_while_waiting_clients_open_servers(
    make_pooler: MakePooler, server: FakeServer
) -> None:
    """A server that logs in after SIGINT is not wanted any more."""
    pooler = make_pooler(
        {"*": f"host=127.0.0.1 port={server.port}"}, default_pool_size=2
    )
    with pooler.wire() as busy, pooler.wire() as waiting:
        for client in (busy, waiting):
            client.send(startup(USER, DATABASE))
        backend = server.accept().greet()
        busy.read_greeting()
        waiting.read_greeting()
        busy.send(SELECT)
        backend.read()
        waiting.send(SELECT)
        late = server.accept()
        late.read_startup()
        pooler.worker_pids()
        pooler.send(signal.SIGINT)
        assert waiting.read_fatal()["C"] == "57P01"
        late.send(late.greeting())
        pooler.wait_log("new connection to server", 2)
        backend.send(SELECTED, READY)
        assert codes(busy.read_until("Z")) == "TDCZ"
        assert pooler.wait(5) == 0
