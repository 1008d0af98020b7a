# SPDX-License-Identifier: MIT
"""Somebody goes away: client, server, worker, master; only who must notices."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator

import psutil
import pytest

from pooler.demo.postgres import Postgres
from tests.integration.fake_server import (
    SELECT,
    FakeServer,
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
    closing_all,
    is_alive,
    wait_until,
)
from tests.wire_client import (
    FLUSH,
    SYNC,
    TERMINATE,
    ConnectionEnded,
    WireClient,
    bind,
    codes,
    execute,
    message,
    parse,
    query,
    startup,
)

SLEEP = "SELECT pg_sleep(60)"
LEAVING = [WireClient.close, WireClient.reset]
ACTIVITY = f"FROM pg_stat_activity WHERE usename = '{USER}'"


def wait_state(postgres: Postgres, what: str, count: int = 1) -> None:
    wait_until(
        lambda: postgres.psql(f"SELECT count(*) {ACTIVITY} AND {what}") == [(count,)],
        what,
    )


@pytest.fixture
def table(postgres: Postgres) -> Iterator[str]:
    """An empty table that the test fills."""
    drop = "DROP TABLE IF EXISTS losses"
    postgres.psql(drop, DATABASE)
    postgres.psql(
        f"CREATE TABLE losses (i int); GRANT ALL ON losses TO {USER}", DATABASE
    )
    yield "losses"
    postgres.psql(f"SELECT pg_terminate_backend(pid) {ACTIVITY}")
    postgres.psql(drop, DATABASE)


# A client

COPY = "COPY losses FROM STDIN"
INSERT = "INSERT INTO losses VALUES (1)"
ROW = message("d", b"1\n")
BATCH = parse(SLEEP) + bind() + execute()
COPY_BATCH = parse(COPY) + bind() + execute()
# What was sent, and how pg_stat_activity shows it.
LEFT = {
    "transaction": (query(f"BEGIN; {INSERT}"), "idle in tr%"),
    "failed": (query(f"BEGIN; {INSERT}") + query("x"), "%abort%"),
    "query": (query(INSERT) + query(SLEEP), "active"),
    "both": (query(f"BEGIN; LOCK losses; {INSERT}") + query(SLEEP), "active"),
    "batch with Sync": (BATCH + SYNC, "active"),
    "batch with Flush": (BATCH + FLUSH, "active"),
    "batch that has run": (
        parse(INSERT) + bind() + execute() + parse("SELECT 2", "last") + FLUSH,
        "active",
    ),
    "batch in transaction": (query(f"BEGIN; {INSERT}") + BATCH + FLUSH, "active"),
    "simple COPY": (query(COPY) + ROW, "active"),
    "extended COPY": (COPY_BATCH + SYNC + ROW, "active"),
    "extended COPY without Sync": (COPY_BATCH + FLUSH + ROW, "active"),
}


@pytest.mark.parametrize("leave", LEAVING, ids=["closed", "reset"])
@pytest.mark.parametrize("left", LEFT)
def test_what_a_lost_client_leaves_is_cleared_away(
    postgres: Postgres,
    make_pooler: MakePooler,
    table: str,
    leave: Callable[[WireClient], None],
    left: str,
) -> None:
    """Query cancelled, transaction and locks gone, and the server is used again."""
    pooler = make_pooler(default_pool_size=1)
    said, state = LEFT[left]
    with pooler.wire(receive_buffer=65536) as client:
        client.login(USER, DATABASE)
        server = client.value("SELECT pg_backend_pid()")
        client.send(said)
        wait_state(postgres, f"state LIKE '{state}' AND query NOT LIKE '%backend_pid%'")
        leave(client)
    with pooler.client() as other:
        assert other.value("SELECT pg_backend_pid()") == server
        kept = "1" if left == "query" else "0"
        assert other.value(f"SELECT count(*) FROM {table}") == kept
        other.ask(query(f"BEGIN; LOCK {table} NOWAIT; COMMIT"))
    locks = "SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid)"
    assert postgres.psql(f"{locks} WHERE usename = '{USER}'") == []


SESSION_STATE = "SET search_path TO elsewhere; SELECT pg_advisory_lock(7)"
UNFINISHED = {
    "transaction": query("BEGIN"),
    "failed transaction": query("BEGIN; SELECT 1/0"),
    "query": query(SLEEP),
    "batch": parse("SELECT 1") + bind() + execute() + FLUSH,
}


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("reset_query", ["DISCARD ALL", ""])
@pytest.mark.parametrize("left", UNFINISHED)
def test_a_server_left_unfinished_is_reset(
    postgres: Postgres, make_pooler: MakePooler, left: str, reset_query: str, mode: str
) -> None:
    """Whatever a vanished client has set is gone before the next one comes."""
    if mode == "session" and not reset_query:
        pytest.skip("in session mode an empty reset query means none")
    pooler = make_pooler(
        default_pool_size=1, pool_mode=mode, server_reset_query=reset_query
    )
    with pooler.client() as client:
        server = client.value("SELECT pg_backend_pid()")
        client.ask(query(SESSION_STATE))
        client.send(UNFINISHED[left])
        asked = "query NOT LIKE '%advisory%' AND query NOT LIKE '%backend_pid%'"
        wait_state(postgres, f"pid = {server} AND {asked}")
    with pooler.client() as other:
        assert other.value("SELECT pg_backend_pid()") == server
        assert other.value("SHOW search_path") == '"$user", public'
        assert other.value("SELECT count(*) FROM pg_locks WHERE objid = 7") == "0"


def test_goodbye_without_reading(
    postgres: Postgres, make_pooler: MakePooler, table: str
) -> None:
    """What came before Terminate is carried out, though nobody is left to hear of it.

    Some wait for the only server while their connections are gone already.
    """
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as first:
        first.ask(query("BEGIN"))
        for number in range(10):
            with pooler.client() as client:
                client.send(query(f"INSERT INTO {table} VALUES ({number})"), TERMINATE)
        first.ask(query("COMMIT"))
    for number in range(10, 20):
        with pooler.client() as client:
            client.send(query(f"INSERT INTO {table} VALUES ({number})"), TERMINATE)
            LEAVING[number % 2](client)
    wait_until(
        lambda: postgres.psql(f"SELECT count(*) FROM {table}", DATABASE) == [(20,)],
        "all rows",
    )


LOCKED = "SELECT pg_advisory_xact_lock(8)"
LOCKED_BATCH = parse(LOCKED) + bind() + execute()
MANY = f"{LOCKED}, repeat('x', 1000) FROM generate_series(1, 3000)"
# What is asked before a goodbye, and the answers to it, which wait for a lock.
HALF_CLOSED = {
    "query": (query(LOCKED), "TDCZ"),
    "many rows": (query(MANY), "T" + 3000 * "D" + "CZ"),
    "error": (query(f"{LOCKED}; SELECT 1/0"), "TDCEZ"),
    "pipeline": (query("SELECT 1") + query(LOCKED), "TDCZTDCZ"),
    "batch": (LOCKED_BATCH + SYNC, "12DCZ"),
    "batch without Sync": (LOCKED_BATCH + FLUSH, "12DC"),
}


@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
@pytest.mark.parametrize("asked", HALF_CLOSED)
def test_goodbye_and_half_closed(
    postgres: Postgres, make_pooler: MakePooler, mode: str, asked: str
) -> None:
    """A client that has shut down its side only, as Node's do, gets its answers."""
    said, answers = HALF_CLOSED[asked]
    pooler = make_pooler(default_pool_size=1, pool_mode=mode)
    with WireClient(postgres.port).login(USER, DATABASE) as holder:
        holder.ask(query("SELECT pg_advisory_lock(8)"))
        with pooler.client() as client:
            client.send(said, TERMINATE)
            client.socket.shutdown(socket.SHUT_WR)
            wait_state(postgres, "wait_event = 'advisory'")
            holder.ask(query("SELECT pg_advisory_unlock(8)"))
            assert codes(client.read_to_end()) == answers
    with pooler.client() as other:
        assert other.value("SELECT 1") == "1"


def test_goodbye_and_half_closed_in_the_queue(make_pooler: MakePooler) -> None:
    """It is answered also when it had to wait for a server."""
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as first, pooler.client() as client:
        first.ask(query("BEGIN"))
        client.send(query("SELECT 1"), TERMINATE)
        client.socket.shutdown(socket.SHUT_WR)
        first.ask(query("SELECT 2"))
        first.ask(query("COMMIT"))
        assert codes(client.read_to_end()) == "TDCZ"


@pytest.mark.parametrize("left", ["open", "failed", "COPY", "extended COPY"])
def test_goodbye_in_the_middle(
    postgres: Postgres, make_pooler: MakePooler, table: str, left: str
) -> None:
    """PostgreSQL closes at once, and commits nothing; so do we, and keep the server."""
    said, answered = {
        "open": (parse(INSERT) + bind() + execute() + FLUSH, "C"),
        "failed": (parse("x") + FLUSH, "E"),
        "COPY": (query(COPY), "G"),
        "extended COPY": (COPY_BATCH + SYNC, "G"),
    }[left]
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as client:
        server = client.value("SELECT pg_backend_pid()")
        client.send(said)
        client.read_until(answered)
        client.send(TERMINATE)
        assert codes(client.read_to_end()) in ("", "E")
    with pooler.client() as other:
        assert other.value("SELECT pg_backend_pid()") == server
        assert other.value(f"SELECT count(*) FROM {table}") == "0"


def test_cancel_abandoned_off(
    postgres: Postgres, make_pooler: MakePooler, table: str
) -> None:
    """As PgBouncer: the server is closed, whatever PostgreSQL makes of it."""
    pooler = make_pooler(default_pool_size=1, cancel_abandoned=0)
    for said, reason in (
        (query(f"BEGIN; INSERT INTO {table} VALUES (1)"), "server was not ready"),
        (query(SLEEP), "disconnected with query in progress"),
    ):
        with pooler.client() as client:
            server = client.value("SELECT pg_backend_pid()")
            client.send(said)
            wait_state(postgres, f"pid = {server} AND query NOT LIKE '%backend_pid%'")
        pooler.wait_log(f"S-{server}: {DATABASE}/{USER}@{HOST}")
        pooler.wait_log(reason)
        with pooler.client() as other:
            assert other.value("SELECT pg_backend_pid()") != server
            assert other.value(f"SELECT count(*) FROM {table}") == "0"


def test_many_lost_clients_do_not_exhaust_the_pool(
    postgres: Postgres, make_pooler: MakePooler, table: str
) -> None:
    pooler = make_pooler(default_pool_size=2)
    for number in range(60):
        with pooler.client() as client:
            client.send(query(f"BEGIN; LOCK {table}"), query(SLEEP))
            if number % 3:
                wait_state(postgres, "wait_event = 'PgSleep'")
            LEAVING[number % 2](client)
    with pooler.client() as other:
        assert other.value("SELECT 1") == "1"
        wait_state(postgres, "state <> 'idle'", 0)


@pytest.mark.parametrize("said", ["SELECT 7", "SELECT pg_sleep(60)"])
def test_half_closed_client(
    postgres: Postgres, make_pooler: MakePooler, said: str
) -> None:
    """It says nothing more: taken as gone at the latest when it asks for too much."""
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as client:
        server = client.value("SELECT pg_backend_pid()")
        client.send(query(said))
        if "sleep" in said:
            wait_state(postgres, "wait_event = 'PgSleep'")
        client.socket.shutdown(socket.SHUT_WR)
        assert codes(client.read_to_end()) in ("", "TDCZ", "EZ")
    with pooler.client() as other:
        assert other.value("SELECT pg_backend_pid()") == server


# A server


def kill(postgres: Postgres, pid: object) -> None:
    assert postgres.psql(f"SELECT pg_terminate_backend({pid}, 5000)") == [(True,)]


def test_idle_server_is_killed(postgres: Postgres, make_pooler: MakePooler) -> None:
    pooler = make_pooler(default_pool_size=1)
    with pooler.client() as client:
        for _ in range(5):
            server = client.value("SELECT pg_backend_pid()")
            kill(postgres, server)
            pooler.wait_log(f"S-{server}: {DATABASE}/{USER}@{HOST}")
        assert client.value("SELECT 1") == "1"


@pytest.mark.parametrize("doing", ["BEGIN", SLEEP])
def test_busy_server_is_killed(
    postgres: Postgres, make_pooler: MakePooler, doing: str
) -> None:
    """Its client gets PostgreSQL's own words, once; the others go on."""
    pooler = make_pooler(default_pool_size=2)
    with pooler.client() as client, pooler.client() as other:
        other.ask(query("BEGIN; CREATE TEMPORARY TABLE mine (i int)"))
        client.send(query(doing))
        waits = "(state LIKE 'idle in%' OR wait_event = 'PgSleep')"
        wait_state(postgres, f"query = '{doing}' AND {waits}")
        kill(postgres, f"(SELECT pid {ACTIVITY} AND query = '{doing}')")
        last = [one.fields for one in client.read_to_end() if one.code == "E"]
        assert [(one["S"], one["C"]) for one in last] == [("FATAL", "57P01")]
        assert other.value("SELECT count(*) FROM mine") == "0"


@pytest.mark.parametrize("cut", [5, 7, 20])
def test_last_words_that_come_in_two_parts(
    worker: InProcess, server: FakeServer, cut: int
) -> None:
    """They are the server's, whole, and nothing is added to them."""
    client, backend = log_in(worker, server)
    with client:
        client.send(SELECT)
        backend.read()
        said = error("FATAL", "57P01", "terminating connection")
        before = worker.engine.counters()["recvs"]
        backend.send(said[:cut])
        wait_until(lambda: worker.engine.counters()["recvs"] > before, "the first part")
        backend.send(said[cut:])
        backend.close()
        assert [one.fields["C"] for one in client.read_to_end()] == ["57P01"]


def test_postgres_restarts_under_load(
    postgres: Postgres, make_pooler: MakePooler
) -> None:
    """Everybody asks all the time, and begins again after an error."""
    pooler = make_pooler(server_login_retry=1)
    stop = threading.Event()
    seen: set[str] = set()  # codes of messages, SQLSTATEs of errors
    after: set[str] = set()
    restarted = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            with contextlib.suppress(ConnectionEnded), pooler.wire() as client:
                client.send(startup(USER, DATABASE))
                while not stop.is_set():
                    one = client.read()
                    said = one.fields["C"] if one.code == "E" else one.code
                    (after if restarted.is_set() else seen).add(said)
                    if said == "Z":
                        client.send(SELECT)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        wait_state(postgres, "query = 'SELECT 1'", 5)
        postgres.restart()
        restarted.set()
        wait_until(lambda: "D" in after, "served again", 3)
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    errors = {one for one in seen | after if len(one) == 5}
    assert errors <= {"57P01", "57P03", "08001", "08006"}


def test_postgres_is_down_at_first(make_pooler: MakePooler) -> None:
    """Clients wait for it; it is tried again and again, and then they are served."""
    with contextlib.closing(FakeServer()) as down:
        down.listener.close()
        pooler = make_pooler(
            {"*": f"host={HOST} port={down.port}"},
            server_login_retry=1,
            default_pool_size=2,
        )
        with closing_all([pooler.wire() for _ in range(3)]) as clients:
            for client in clients:
                client.send(startup(USER, DATABASE))
            pooler.wait_log("connect failed: Connection refused", 2)
            down.listener = socket.create_server((HOST, down.port))
            down.listener.settimeout(5)
            backend = down.accept().greet()
            for client in clients:
                client.read_greeting()
            clients[0].send(SELECT)
            backend.answer()
            assert codes(clients[0].read_until("Z")) == "TDCZ"


# A process of ours


def workers_of(pooler: Pooler, clients: list[WireClient]) -> list[int]:
    """The worker of each client."""
    by_port = {
        one.raddr.port: pid
        for pid in pooler.worker_pids()
        for one in psutil.Process(pid).net_connections("tcp")
        if one.raddr
    }
    return [by_port[client.socket.getsockname()[1]] for client in clients]


def test_worker_is_killed_under_load(
    postgres: Postgres, make_pooler: MakePooler
) -> None:
    """Only its own clients get an error, and its successor serves."""
    pooler = make_pooler(workers=2, default_pool_size=6)
    pgbench = postgres.installation.tool("pgbench")
    assert pgbench is not None
    target = ["-h", HOST, "-p", str(pooler.port), "-U", USER, DATABASE]
    command = [str(pgbench), "-n", "-S", "-c", "16", "-T", "30", *target]
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    with (
        closing_all([pooler.client() for _ in range(16)]) as clients,
        subprocess.Popen(command, stdout=null, stderr=pipe, text=True) as process,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(process.terminate)
        wait_until(lambda: pooler.sockets_of_workers() == 32, "pgbench runs")
        homes = workers_of(pooler, clients)
        assert len(set(homes)) == 2
        os.kill(homes[0], signal.SIGKILL)
        wait_until(lambda: set(pooler.worker_pids()) - set(homes), "a successor")
        for client, home in zip(clients, homes, strict=True):
            if home == homes[0]:
                with pytest.raises(ConnectionEnded):
                    client.read()
            else:
                assert client.value("SELECT 1") == "1"

        def successor_serves() -> bool:
            """Until it does, the other worker stands in for it."""
            clients.append(pooler.client())
            return not set(workers_of(pooler, clients[-1:])) <= set(homes)

        wait_until(successor_serves)
        assert all(client.value("SELECT 1") == "1" for client in clients[16:])
        process.terminate()
        _, said = process.communicate(timeout=20)
    assert 0 < said.count("aborted in command") < 16, said


def test_master_is_killed(make_pooler: MakePooler) -> None:
    pooler = make_pooler(workers=2)
    pids = pooler.worker_pids()
    with pooler.client() as client:
        client.ask(query("BEGIN"))
        pooler.send(signal.SIGKILL)
        pooler.wait()
        assert client.read_fatal()["C"] == "57P01"
    wait_until(lambda: not any(map(is_alive, pids)), "the workers end", 5)


def refuses(pooler: Pooler) -> bool:
    """Nobody is let in any more."""
    with contextlib.suppress(ConnectionRefusedError):
        socket.create_connection((HOST, pooler.port), 5).close()
        return False
    return True


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signals_that_wait(
    make_pooler: MakePooler, signum: signal.Signals, workers: int
) -> None:
    """SIGINT for the transactions that are open, SIGTERM for all clients."""
    pooler = make_pooler(workers=workers)
    with pooler.client() as idle, pooler.client() as busy:
        busy.ask(query("BEGIN"))
        pooler.send(signum)
        wait_until(lambda: refuses(pooler), "the signal is obeyed")
        for _ in range(20):
            assert busy.value("SELECT 1") == "1"
            assert signum == signal.SIGINT or idle.value("SELECT 1") == "1"
        assert not pooler.has_ended()
        assert codes(busy.ask(query("COMMIT"))) == "CZ"
        if signum == signal.SIGTERM:
            assert busy.value("SELECT 1") == "1"
            idle.send(TERMINATE)
            busy.send(TERMINATE)
        assert pooler.wait(5) == 0


def test_sigint_tells_who_waits(make_pooler: MakePooler) -> None:
    """The log says what the client is told."""
    pooler = make_pooler(default_pool_size=1, stats_users=USER)
    with pooler.client() as busy, pooler.client() as waits:
        busy.ask(query("BEGIN"))
        waits.send(SELECT)
        with pooler.client("pgbouncer") as console:
            wait_until(
                lambda: any(row[3] == b"1" for row in console.rows("SHOW POOLS")),
                "it waits",
            )
        pooler.send(signal.SIGINT)
        fields = waits.read_fatal()
        assert (fields["C"], fields["M"]) == ("57P01", "server shutting down")
        pooler.wait_log("closing because: server shutting down")
        assert "server login failed" not in pooler.log()
        busy.ask(query("COMMIT"))
    assert pooler.wait(5) == 0


def test_sigint_tells_who_asks_from_then_on(make_pooler: MakePooler) -> None:
    """No server is handed out any more, so to wait would be in vain."""
    pooler = make_pooler()
    with pooler.client() as busy, pooler.client() as late:
        busy.ask(query("BEGIN"))
        pooler.send(signal.SIGINT)
        wait_until(lambda: refuses(pooler), "the signal is obeyed")
        late.socket.settimeout(3)
        late.send(SELECT)
        assert late.read_fatal()["C"] == "57P01"
        busy.ask(query("COMMIT"))
    assert pooler.wait(5) == 0
