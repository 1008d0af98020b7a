# SPDX-License-Identifier: MIT
"""Databases with several hosts, and hosts that are names."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.fake_server import FakeServer, error
from tests.integration.harness import (
    DATABASE,
    HOST,
    USER,
    InProcess,
    MakePooler,
    Pooler,
    backends,
    closing_all,
    wait_until,
)
from tests.integration.host_stand_in import HostStandIn
from tests.name_server import NameServer
from tests.wire_client import WireClient, cancel_request, query, startup

# More addresses of this machine; PostgreSQL itself listens on HOST alone.
OTHER, GONE = "127.0.0.2", "127.0.0.3"
SQL = "SELECT 1"


@pytest.fixture
def other(postgres: Postgres) -> Iterator[HostStandIn]:
    """OTHER leads to the same PostgreSQL."""
    with HostStandIn((OTHER, postgres.port), postgres) as host:
        yield host


@pytest.fixture
def name_server(tmp_path: Path) -> Iterator[NameServer]:
    made = NameServer(tmp_path)
    yield made
    made.close()


def entry(postgres: Postgres, *hosts: str, more: str = "") -> dict[str, str]:
    """The database of the tests at these hosts."""
    return {DATABASE: f"host='{','.join(hosts)}' port={postgres.port} {more}"}


def in_transaction(pooler: Pooler, count: int) -> list[WireClient]:
    """Clients that hold a server each."""
    clients = [pooler.client() for _ in range(count)]
    for client in clients:
        client.ask(query("BEGIN"))
    return clients


def test_hosts_take_turns(
    make_pooler: MakePooler, postgres: Postgres, other: HostStandIn
) -> None:
    pooler = make_pooler(entry(postgres, HOST, OTHER))
    with closing_all(in_transaction(pooler, 4)):
        assert other.accepted == 2


def test_one_host_is_kept_until_it_fails(
    make_pooler: MakePooler, postgres: Postgres, other: HostStandIn
) -> None:
    pooler = make_pooler(
        entry(postgres, OTHER, HOST, more="load_balance_hosts=disable")
    )
    with closing_all(in_transaction(pooler, 3)):
        assert other.accepted == 3
    other.stop()
    with closing_all(in_transaction(pooler, 3)):
        pooler.wait_log("connect failed: Connection refused (127.0.0.2")
    other.start()
    with closing_all(in_transaction(pooler, 5)):
        assert other.accepted == 3


def test_a_dead_host_costs_nobody_anything_and_is_found_back(
    make_pooler: MakePooler, postgres: Postgres
) -> None:
    pooler = make_pooler(entry(postgres, GONE, HOST), default_pool_size=7)
    with closing_all(in_transaction(pooler, 6)):
        assert pooler.log().count("host failed: 127.0.0.3") == 1
        back = HostStandIn((GONE, postgres.port), postgres)
        with back:

            def is_used() -> bool:
                with pooler.client() as client:
                    client.ask(query(SQL))  # one that never answered is a fault
                    client.send(query("SELECT pg_terminate_backend(pg_backend_pid())"))
                    client.read_to_end()
                return back.logged_in > 0

            wait_until(is_used, "the host is used again")


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (HostStandIn.start_hole, "connect failed: timed out"),
        (HostStandIn.start, "connect timeout"),
    ],
)
def test_a_host_that_says_nothing_costs_one_login_its_share(
    make_pooler: MakePooler,
    postgres: Postgres,
    start: Callable[[HostStandIn], HostStandIn],
    what: str,
) -> None:
    """A SYN that nobody answers; a connection that nobody takes up."""
    silent = HostStandIn((GONE, postgres.port))
    start(silent)
    try:
        pooler = make_pooler(entry(postgres, GONE, HOST), server_connect_timeout=3)
        with closing_all(in_transaction(pooler, 5)):
            said = pooler.log()
            assert said.count(f"host failed: {GONE}:{postgres.port}: {what}") == 1
    finally:
        silent.stop()


def test_a_server_that_is_starting_is_passed_over(
    make_pooler: MakePooler, postgres: Postgres
) -> None:
    starting = error("FATAL", "57P03", "the database system is starting up")
    with HostStandIn((OTHER, postgres.port), said=starting) as host:
        pooler = make_pooler(entry(postgres, OTHER, HOST), server_tls_sslmode="disable")
        with closing_all(in_transaction(pooler, 4)):
            assert host.accepted >= 1
        assert pooler.log().count("host failed: 127.0.0.2") == 1


def test_a_refusal_that_would_be_the_same_everywhere_is_told_at_once(
    make_pooler: MakePooler, postgres: Postgres, other: HostStandIn
) -> None:
    pooler = make_pooler(entry(postgres, HOST, OTHER, more="dbname=not_there"))
    with pooler.wire() as client:
        client.send(startup(USER, DATABASE))
        assert client.read_fatal()["C"] == "3D000"
    assert other.accepted == 0
    assert "host failed" not in pooler.log()


def test_unix_and_abstract_sockets_stand_in_lists(
    make_pooler: MakePooler, postgres: Postgres
) -> None:
    name = f"pooler-test-{os.getpid()}"
    path = f"\0{name}/.s.PGSQL.{postgres.port}"
    with HostStandIn(path, postgres, family=socket.AF_UNIX) as abstract:
        hosts = (f"@{name}", str(postgres.socket_dir), HOST)
        pooler = make_pooler(entry(postgres, *hosts), default_pool_size=6)
        with closing_all(in_transaction(pooler, 6)) as clients:
            by_unix = [
                one.rows("SELECT inet_client_addr() IS NULL")[0][0] for one in clients
            ]
        assert abstract.accepted == 2
        assert by_unix.count(b"t") == 2


def test_the_error_names_the_host(make_pooler: MakePooler, postgres: Postgres) -> None:
    """In the log: the client waits, for somebody may listen there in a moment."""
    pooler = make_pooler(entry(postgres, GONE), query_wait_timeout=1)
    with pooler.wire() as client:
        client.send(startup(USER, DATABASE))
        fields = client.read_fatal()
    assert fields["M"] == "query_wait_timeout"
    pooler.wait_log(f"connect failed: Connection refused ({GONE}:{postgres.port})")


def test_a_reload_moves_a_database_to_another_host(
    make_pooler: MakePooler, postgres: Postgres, other: HostStandIn
) -> None:
    pooler = make_pooler(entry(postgres, HOST))
    with pooler.client() as client:
        client.ask(query(SQL))
        pooler.databases = entry(postgres, OTHER, GONE)
        pooler.reload()

        def has_moved() -> bool:
            client.ask(query(SQL))
            return other.accepted > 0

        wait_until(has_moved, "the server is another")


# Names.


def test_a_silent_name_server_holds_up_nobody_else(
    make_pooler: MakePooler, postgres: Postgres, name_server: NameServer
) -> None:
    """Eight names without an answer held up a database at 127.0.0.1 for 12 s."""
    silent = [f"silent{number}" for number in range(8)]
    databases = entry(postgres, HOST)
    for name in silent:
        name_server.silence(f"{name}.example")
        databases[name] = f"host={name}.example port={postgres.port} dbname={DATABASE}"
    name_server.set("db.example", HOST)
    databases["named"] = f"host=db.example port={postgres.port} dbname={DATABASE}"
    pooler = make_pooler(databases, resolv_conf=name_server.resolv_conf)
    with closing_all([pooler.wire() for _ in silent]) as waiting:
        for client, name in zip(waiting, silent, strict=True):
            client.send(startup(USER, name))
        for name in silent:
            host = f"{name}.example"
            wait_until(partial(name_server.asked, host), host)
        with pooler.client() as by_address, pooler.client("named") as by_name:
            assert by_address.value(SQL) == by_name.value(SQL) == "1"
        for client in waiting:  # nobody has heard anything yet
            client.socket.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.socket.recv(1)
            client.socket.setblocking(True)
            client.socket.settimeout(10)
        for name in silent:
            name_server.set(f"{name}.example", HOST)
        for client in waiting:
            assert client.read_greeting().value(SQL) == "1"


def test_who_waits_for_a_name_has_no_place(
    make_pooler: MakePooler, postgres: Postgres, name_server: NameServer
) -> None:
    """Three servers for a user, and eight of its databases that nobody can find."""
    databases = entry(postgres, HOST)
    for number in range(8):
        name_server.silence(f"silent{number}.example")
        databases[f"silent{number}"] = f"host=silent{number}.example dbname={DATABASE}"
    pooler = make_pooler(
        databases,
        workers=2,
        resolv_conf=name_server.resolv_conf,
        max_user_connections=3,
        min_pool_size=1,
    )
    with closing_all([pooler.wire() for _ in range(16)]) as waiting:
        for number, client in enumerate(waiting):
            client.send(startup(USER, f"silent{number % 8}"))
        for number in range(8):
            host = f"silent{number}.example"
            wait_until(partial(name_server.asked, host), host)
        with closing_all(in_transaction(pooler, 3)):
            assert len(backends(postgres)) == 3


def test_servers_of_an_address_that_a_name_has_left_are_replaced(
    make_pooler: MakePooler,
    postgres: Postgres,
    name_server: NameServer,
    other: HostStandIn,
) -> None:
    name_server.set("db.example", HOST)
    name_server.serial("example", 1)
    pooler = make_pooler(
        entry(postgres, "db.example"),
        resolv_conf=name_server.resolv_conf,
        dns_zone_check_period="0.05",
    )
    with pooler.client() as client, pooler.client() as busy:
        busy.ask(query("BEGIN"))
        pid = busy.value("SELECT pg_backend_pid()")
        client.ask(query(SQL))
        wait_until(lambda: name_server.asked("example", 6) > 1, "the zone is known")
        name_server.set("db.example", OTHER)
        name_server.serial("example", 2)
        pooler.wait_log("DNS: db.example changed: old=127.0.0.1 new=127.0.0.2")
        pooler.wait_log("closing because: obsolete connection")
        client.ask(query(SQL))
        assert other.accepted == 1
        # a transaction ends where it has begun
        assert busy.value("SELECT pg_backend_pid()") == pid
        busy.ask(query("COMMIT"))
        pooler.wait_log("closing because: obsolete connection", 2)
    assert pooler.log().count("zone example serial changed") == 1


def test_all_addresses_of_a_name_are_tried(
    make_pooler: MakePooler, postgres: Postgres, name_server: NameServer
) -> None:
    name_server.set("db.example", *(f"127.0.4.{n}" for n in range(50)), HOST)
    pooler = make_pooler(
        entry(postgres, "db.example"), resolv_conf=name_server.resolv_conf
    )
    with closing_all(in_transaction(pooler, 3)):
        assert pooler.log().count("host failed: db.example, 127.0.4.7:") <= 1


NOWHERE = {
    "db..x": "server DNS lookup failed: db..x: no host name",
    "x" * 64: "no host name",
    "gone.example": "server DNS lookup failed: gone.example: Domain name not",
    "empty.example": "server DNS lookup failed: empty.example: ",
}


def test_a_name_that_leads_nowhere(
    make_pooler: MakePooler, postgres: Postgres, name_server: NameServer
) -> None:
    """It is an answer to the client, and nobody else's trouble."""
    name_server.set("empty.example")
    databases = entry(postgres, HOST)
    databases |= {f"db{n}": f"host={host}" for n, host in enumerate(NOWHERE)}
    pooler = make_pooler(databases, resolv_conf=name_server.resolv_conf)
    for number, said in enumerate(NOWHERE.values()):
        with pooler.wire() as client:
            client.send(startup(USER, f"db{number}"))
            fields = client.read_fatal()
        assert said in fields["M"]
        assert fields["C"] == "08001"
    with pooler.client() as client:
        assert client.value(SQL) == "1"
    assert pooler.log().count(": no host name: ") >= 2  # when the file was read


def test_a_name_that_leads_nowhere_does_not_stop_the_other_hosts(
    make_pooler: MakePooler, postgres: Postgres, name_server: NameServer
) -> None:
    hosts = ("gone.example", "db..x", HOST)
    pooler = make_pooler(entry(postgres, *hosts), resolv_conf=name_server.resolv_conf)
    with closing_all(in_transaction(pooler, 4)):
        assert name_server.asked("gone.example") == 1


# What the kernel is told.


def sockets_to(port: int) -> list[socket.socket]:
    """Copies of this process's sockets that are connected to a port."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.ExitStack() as undo, contextlib.suppress(OSError):
            one = undo.enter_context(socket.socket(fileno=os.dup(int(name))))
            if one.family == socket.AF_INET and one.getpeername()[1] == port:
                undo.pop_all()
                found.append(one)
    return found


def test_tcp_settings_count_for_servers_and_cancel_requests(
    worker_in_process: Callable[..., InProcess], server: FakeServer
) -> None:
    worker = worker_in_process(
        server_port=server.port,
        default_pool_size=1,
        tcp_keepidle=77,
        tcp_user_timeout=5000,
    )
    with WireClient(worker.port) as client:
        client.send(startup(USER, DATABASE))
        backend = server.accept().greet()
        client.read_greeting()
        client.send(query("SELECT pg_sleep(60)"))
        backend.read()
        with WireClient(worker.port) as canceller:
            canceller.send(cancel_request(client.key))
            server.accept().read_startup()
            found = sockets_to(server.port)
            idle = [
                one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) for one in found
            ]
            patience = [
                one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                for one in found
            ]
            for one in found:
                one.close()
            assert idle == [77, 77]
            assert patience == [5000, 5000]
            server.backends[-1].close()
