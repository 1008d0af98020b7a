# SPDX-License-Identifier: MIT
"""When a server is free for the next client, and what is done to it in between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.fake_server import (
    READY,
    SELECT,
    SELECTED,
    FakeBackend,
    FakeServer,
    log_in,
)
from tests.integration.harness import (
    DATABASE,
    USER,
    InProcess,
    MakePooler,
    Pooler,
    backends,
    closing_all,
)
from tests.wire_client import SYNC, codes, extended, message, query, startup, text

pytestmark = pytest.mark.timeout(30)

MODES = ("session", "transaction", "statement")
MOODY = "moody"
PID = "SELECT pg_backend_pid()"
NO_TRANSACTIONS = "transaction blocks not allowed in statement pooling mode"


@pytest.fixture(scope="module", autouse=True)
def _objects(postgres: Postgres) -> Iterator[None]:
    postgres.psql(f"CREATE ROLE {MOODY} LOGIN")
    postgres.psql(
        "CREATE TABLE marks (who text);"
        f" GRANT ALL ON marks TO {USER}; ALTER TABLE marks OWNER TO {USER}",
        DATABASE,
    )
    yield
    postgres.psql("DROP TABLE marks", DATABASE)
    postgres.psql(f"DROP ROLE {MOODY}")


@pytest.fixture
def marks(postgres: Postgres) -> Callable[[], int]:
    """An empty table ``marks``; gives the number of rows."""
    postgres.psql("TRUNCATE marks", DATABASE)
    return lambda: len(postgres.psql("SELECT 1 FROM marks", DATABASE))


def with_users(databases: Mapping[str, str], **users: str) -> dict[str, str]:
    """Put a section [users] behind the last entry of [databases]."""
    *others, (last, entry) = databases.items()
    lines = [entry, "[users]", *(f"{name} = {said}" for name, said in users.items())]
    return {**dict(others), last: "\n".join(lines)}


def mode_of(pooler: Pooler, database: str, user: str = USER) -> str:
    """Find out the mode of a pool of two servers by what it does."""
    with closing_all([pooler.wire().login(user, database) for _ in "12"]) as clients:
        if clients[0].value(PID) != clients[1].value(PID):
            return "session"
        clients[0].send(query("BEGIN"))
        answer = [clients[0].read(), clients[0].read()]
        return "transaction" if codes(answer) == "CZ" else "statement"


# Which mode


@pytest.mark.parametrize("mode", MODES)
def test_user_beats_database_beats_global(make_pooler: MakePooler, mode: str) -> None:
    others = [one for one in MODES if one != mode]
    databases = {"plain": f"dbname={DATABASE}"}
    databases |= {one: f"dbname={DATABASE} pool_mode={one}" for one in MODES}
    databases["forced"] = f"dbname={DATABASE} pool_mode={mode} user={MOODY}"
    pooler = make_pooler(
        with_users(databases, **{MOODY: f"pool_mode={others[0]}"}),
        pool_mode=mode,
        default_pool_size=2,
    )
    assert mode_of(pooler, "plain") == mode
    for own in MODES:
        assert mode_of(pooler, own) == own
        assert mode_of(pooler, own, MOODY) == others[0]
    assert mode_of(pooler, "forced", "whoever") == others[0]


# Session


def test_session_keeps_its_server(make_pooler: MakePooler, postgres: Postgres) -> None:
    pooler = make_pooler(pool_mode="session", default_pool_size=2)
    with pooler.client() as one, pooler.client(TimeZone="Asia/Tokyo") as two:
        pids = [client.value(PID) for client in (one, two)]
        assert pids[0] != pids[1]
        for client in (one, two):
            client.ask(query("CREATE TEMP TABLE mine AS SELECT pg_backend_pid() AS n"))
            client.ask(query("PREPARE mine AS SELECT n FROM mine"))
            client.ask(query("SET work_mem = '1MB'; LISTEN news"))
        for _ in range(10):
            for client, pid in zip((one, two), pids, strict=True):
                assert client.value("EXECUTE mine") == pid
                assert client.value("SHOW work_mem") == "1MB"
                assert codes(client.ask(extended("TABLE mine"), SYNC)) == "12TDCZ"
        assert two.value("SHOW TimeZone") == "Asia/Tokyo"
        # Between queries as well.
        postgres.psql("NOTIFY news, 'hello'", DATABASE)
        for client in (one, two):
            told = client.read()
            assert told.code == "A"
            assert told.body[4:] == text("news") + text("hello")


def test_session_clients_wait_for_each_other(make_pooler: MakePooler) -> None:
    pooler = make_pooler(pool_mode="session", default_pool_size=1)
    with closing_all([pooler.client() for _ in range(4)]) as clients:
        pid = clients[0].value(PID)
        for client in clients[1:]:
            client.send(query(PID))
            # so that the next one is behind this one
            assert clients[0].value("SELECT 1") == "1"
        for before, client in pairwise(clients):
            before.close()
            answer = client.read_until("Z")
            assert codes(answer) == "TDCZ"
            assert answer[1].row == [pid.encode()]


LEAVE_SOMETHING = (
    "CREATE TEMP TABLE left_over ()",
    "PREPARE left_over AS SELECT 1",
    "SET work_mem = '1MB'",
    "SET TimeZone = 'Asia/Tokyo'",
    "LISTEN left_over",
    "SELECT pg_advisory_lock(4711)",
)
WHAT_IS_LEFT = (
    "SELECT (SELECT count(*) FROM pg_class WHERE relname = 'left_over'"
    "          AND pg_table_is_visible(oid)),"
    " (SELECT count(*) FROM pg_prepared_statements),"
    " (SELECT count(*) FROM pg_listening_channels()),"
    " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),"
    " current_setting('work_mem') = '1MB', current_setting('TimeZone') = 'Asia/Tokyo'"
)
NOTHING = [b"0", b"0", b"0", b"0", b"f", b"f"]
ALL_BUT_TIME_ZONE = [b"1", b"1", b"1", b"1", b"t", b"f"]


@pytest.mark.parametrize("leaves", ["politely", "in a transaction", "at once"])
def test_session_is_cleaned_for_the_next_client(
    make_pooler: MakePooler, marks: Callable[[], int], leaves: str
) -> None:
    pooler = make_pooler(pool_mode="session", default_pool_size=1)
    with pooler.client() as one:
        pid = one.value(PID)
        for sql in LEAVE_SOMETHING:
            assert "E" not in codes(one.ask(query(sql)))
        if leaves == "politely":
            one.send(message("X"))
        elif leaves == "in a transaction":
            one.ask(query("BEGIN; INSERT INTO marks VALUES ('not committed')"))
    with pooler.client() as two:
        assert two.rows(WHAT_IS_LEFT) == [NOTHING]
        assert two.value("SHOW TimeZone") == two.parameters["TimeZone"]
        assert two.value(PID) == pid
    assert marks() == 0


def test_empty_reset_query_cleans_nothing(make_pooler: MakePooler) -> None:
    pooler = make_pooler(
        pool_mode="session", default_pool_size=1, server_reset_query=""
    )
    with pooler.client() as one:
        pid = one.value(PID)
        for sql in LEAVE_SOMETHING:
            one.ask(query(sql))
    with pooler.client() as two:
        assert two.value(PID) == pid
        assert two.rows(WHAT_IS_LEFT) == [ALL_BUT_TIME_ZONE]


def test_failing_reset_query_closes_the_server(make_pooler: MakePooler) -> None:
    pooler = make_pooler(
        pool_mode="session", default_pool_size=1, server_reset_query="SELECT 1/0"
    )
    pids = set()
    for number in range(1, 4):
        with pooler.client() as client:
            pids.add(client.value(PID))
        pooler.wait_log("closing because: reset query failed", number)
    assert len(pids) == 3


# Transaction


def test_transaction_mode_does_not_reset(make_pooler: MakePooler) -> None:
    """As PgBouncer, if it is told to."""
    pooler = make_pooler(
        pool_mode="transaction", default_pool_size=1, clean_changed_servers=0
    )
    with pooler.client() as one, pooler.client() as two:
        for sql in LEAVE_SOMETHING:
            one.ask(query(sql))
        assert two.rows(WHAT_IS_LEFT) == [ALL_BUT_TIME_ZONE]
        assert one.value("SHOW TimeZone") == "Asia/Tokyo"


def test_reset_query_always(make_pooler: MakePooler) -> None:
    pooler = make_pooler(
        pool_mode="transaction", default_pool_size=1, server_reset_query_always=1
    )
    with pooler.client(TimeZone="Asia/Tokyo") as one, pooler.client() as two:
        pid = one.value(PID)
        one.ask(query("BEGIN"))
        for sql in LEAVE_SOMETHING:
            one.ask(query(sql))
        assert one.rows(WHAT_IS_LEFT) == [[b"1", b"1", b"0", b"1", b"t", b"t"]]
        one.ask(query("COMMIT"))
        for _ in range(3):
            assert two.rows(WHAT_IS_LEFT) == [NOTHING]
            # What is followed is put right again.
            assert one.rows(WHAT_IS_LEFT) == [[*NOTHING[:-1], b"t"]]
            assert one.value(PID) == two.value(PID) == pid


# Statement


@pytest.mark.parametrize(
    "begin",
    [
        query("BEGIN"),
        extended("START TRANSACTION") + SYNC,
        query("BEGIN; INSERT INTO marks VALUES ('lost')"),
        query("BEGIN") + query("INSERT INTO marks VALUES ('lost')"),
    ],
    ids=["simple", "extended", "in one query", "pipeline"],
)
def test_statement_mode_refuses_transactions(
    make_pooler: MakePooler, marks: Callable[[], int], begin: bytes
) -> None:
    pooler = make_pooler(pool_mode="statement", default_pool_size=1)
    with pooler.client() as other, pooler.client() as client:
        assert client.value("SELECT 1") == "1"
        client.send(begin)
        said = client.read_fatal()
        assert (said["C"], said["M"]) == ("0A000", NO_TRANSACTIONS)
        assert other.value("SELECT 1") == "1"
        assert other.ask(query("BEGIN; SELECT 1; COMMIT"))[-1].body == b"I"
    pooler.wait_log(f"closing because: {NO_TRANSACTIONS}")
    assert marks() == 0


def test_statement_mode_shares_servers(make_pooler: MakePooler) -> None:
    pooler = make_pooler(pool_mode="statement", default_pool_size=1)
    with pooler.client(TimeZone="UTC") as one, pooler.client() as two:
        two.ask(query("SET TimeZone = 'Asia/Tokyo'"))
        for _ in range(5):
            assert one.value("SHOW TimeZone") == "UTC"
            assert two.value("SHOW TimeZone") == "Asia/Tokyo"


# connect_query


def test_connect_query_runs_once_per_server(
    make_pooler: MakePooler, postgres: Postgres, marks: Callable[[], int]
) -> None:
    run = "SET my.tag = ''it''; SET TimeZone = ''Japan''; INSERT INTO marks VALUES (1)"
    pooler = make_pooler({DATABASE: f"connect_query='{run}'"}, default_pool_size=2)
    with closing_all([pooler.client() for _ in range(4)]) as clients:
        for _ in range(5):
            for client in clients:
                client.send(query("SELECT current_setting('my.tag'), pg_sleep(0.01)"))
            for client in clients:
                assert client.read_until("Z")[1].row[0] == b"it"
        assert clients[0].parameters["TimeZone"] == "Japan"
        assert clients[0].value("SHOW TimeZone") == "Japan"
        assert marks() == len(backends(postgres)) == 2


def test_failing_connect_query_is_ignored(make_pooler: MakePooler) -> None:
    pooler = make_pooler({DATABASE: "connect_query='SELECT 1/0'"})
    with pooler.client() as client:
        assert client.value("SELECT 1") == "1"
    pooler.wait_log("exec_on_connect query failed: division by zero")


def test_connect_query_must_not_leave_a_transaction(make_pooler: MakePooler) -> None:
    pooler = make_pooler({DATABASE: "connect_query=BEGIN"})
    with pooler.wire() as client:
        client.send(startup(USER, DATABASE))
        assert "transaction open" in client.read_fatal()["M"]


# server_check_query


@pytest.mark.parametrize(
    ("settings", "check"),
    [
        ({"server_check_delay": 0}, ""),
        ({"server_check_delay": 0, "server_check_query": "SELECT 7"}, "SELECT 7"),
        ({"server_check_delay": 0, "server_check_query": ""}, None),
        ({}, None),
    ],
)
def test_check_query_comes_before_the_client(
    worker_in_process: Callable[..., InProcess],
    server: FakeServer,
    settings: dict[str, object],
    check: str | None,
) -> None:
    worker = worker_in_process(server_port=server.port, default_pool_size=1, **settings)
    client, backend = log_in(worker, server)
    with client:
        for turn in range(4):
            client.send(SELECT)
            checks = checks_before_select(backend, check)
            # whether a fresh server is checked is not the matter here
            assert turn == 0 or checks == (check is not None)
            assert codes(client.read_until("Z")) == "TDCZ"


def checks_before_select(backend: FakeBackend, check: str | None) -> int:
    """Answer checks, two at most, and then a SELECT; how many checks there were."""
    for count in range(3):
        asked = backend.read()
        if asked.body == SELECT[5:]:
            backend.send(SELECTED, READY)
            return count
        assert check is not None
        assert asked.body == text(check)
        backend.send(message("I"), READY)
    raise AssertionError("one check after the other and never the query")


@pytest.mark.parametrize("check", [0, 30])
def test_dead_idle_server_is_nobodys_trouble(
    worker_in_process: Callable[..., InProcess], postgres: Postgres, check: int
) -> None:
    """The worker learns of the death and of the query in the same turn."""
    worker = worker_in_process(default_pool_size=2, server_check_delay=check)
    with worker.client() as client, worker.client() as busy:
        for _ in range(5):
            busy.ask(query("BEGIN"))
            client.value("SELECT 1")
            busy.ask(query("COMMIT"))
            go_on = threading.Event()
            worker.loop.call_soon_threadsafe(go_on.wait, 10)
            for pid in backends(postgres):
                postgres.psql(f"SELECT pg_terminate_backend({pid}, 5000)")
            client.send(query("SELECT 1"))
            go_on.set()
            assert codes(client.read_until("Z")) == "TDCZ"


def test_silent_idle_server_is_found_by_the_check(
    worker_in_process: Callable[..., InProcess], server: FakeServer
) -> None:
    """It ends while it is checked: another one takes its place."""
    worker = worker_in_process(
        server_port=server.port, default_pool_size=1, server_check_delay=0
    )
    client, backend = log_in(worker, server)
    with client:
        client.send(SELECT)
        checks_before_select(backend, "")
        client.read_until("Z")
        client.send(SELECT)
        assert backend.read().body == text("")
        backend.close()
        checks_before_select(server.accept().greet(), "")
        assert codes(client.read_until("Z")) == "TDCZ"


def test_failing_check_does_not_open_servers_without_end(
    make_pooler: MakePooler,
) -> None:
    pooler = make_pooler(
        default_pool_size=1,
        server_check_delay=0,
        server_check_query="SELECT 1/0",
        query_wait_timeout=1,
    )
    with pooler.client() as client:
        client.send(query("SELECT 1"))
        assert client.read().code in "TE"  # served, or told query_wait_timeout
    assert pooler.log().count("new connection to server") <= 10


# disable_pqexec


@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
def test_a_client_may_not_send_a_query(make_pooler: MakePooler, mode: str) -> None:
    """It is told so, and its transaction ends; the console is another thing."""
    pooler = make_pooler(
        pool_mode=mode, disable_pqexec=1, default_pool_size=1, admin_users=USER
    )
    for _ in range(2):
        with pooler.client() as client:
            assert codes(client.ask(extended("SELECT 1"), SYNC)) == "12TDCZ"
            if mode != "statement":
                client.ask(extended("BEGIN"), SYNC)
            client.send(query("SELECT 1; SELECT 2"))
            fields = client.read_fatal()
            assert (fields["C"], fields["M"]) == ("08P01", "PQexec disallowed")
    pooler.wait_log("closing because: PQexec disallowed", 2)
    with pooler.client("pgbouncer") as console:
        assert console.rows("SHOW VERSION")
    with pooler.client() as client:
        read = client.ask(extended("SELECT 1"), SYNC)
        assert read[-1].body == b"I"
