# SPDX-License-Identifier: MIT
"""Server connections that move between workers, before a real PostgreSQL."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import asyncpg
import psutil
import psycopg
import pytest

from pooler.demo.postgres import Postgres
from pooler.ipc.board import Board
from pooler.ipc.bus import MASTER, BusMessage
from pooler.session.records import CloseReason
from pooler.worker.handover import SHUN_S, STALE_BEAT_S
from pooler.worker.pool import Pool
from pooler.worker.sharing import Sharing
from tests.integration.chaos import SLOT_BITS, slots_of
from tests.integration.harness import (
    DATABASE,
    ENVIRONMENT,
    HOST,
    USER,
    InProcess,
    MakePooler,
    Pooler,
    wait_until,
)
from tests.integration.test_sql_commands import shown
from tests.wire_client import (
    SYNC,
    WireClient,
    bind,
    codes,
    describe,
    execute,
    message,
    parse,
    query,
    text,
)

T = TypeVar("T")

MOVED_TABLES = """
    CREATE SCHEMA moved; CREATE SCHEMA moved_2;
    CREATE TABLE moved.t (k int, v text); INSERT INTO moved.t VALUES (1, '1'), (2, '2');
    CREATE FUNCTION moved.f(text) RETURNS text LANGUAGE sql AS $$ SELECT 'text' $$;
    CREATE TABLE moved_2.t (k int, w int); INSERT INTO moved_2.t VALUES (3, 3);
"""
MOVED_TEXTS = [
    "SELECT * FROM moved.t ORDER BY 1",
    "SELECT v FROM moved.t WHERE k = $1",
    "SELECT * FROM t WHERE k <> $1 ORDER BY 1",
    "SELECT moved.f('1')",
    "SELECT $1::int + 1",
    "SELECT '2020-03-01'::date::text || current_setting('TimeZone') || $1",
    "SELECT '2020-03-01'::date, timestamptz '2020-03-01 12:00+00', $1::int",
    "SELECT nothing FROM moved.t",
]
MOVED_CHANGES = [
    "ALTER TABLE moved.t ADD COLUMN IF NOT EXISTS x int DEFAULT 7",
    "ALTER TABLE moved.t DROP COLUMN IF EXISTS x",
    "ALTER TABLE moved.t ALTER COLUMN v TYPE int USING v::int",
    "ALTER TABLE moved.t ALTER COLUMN v TYPE text",
    "CREATE OR REPLACE FUNCTION moved.f(int) RETURNS int LANGUAGE sql AS"
    " $$ SELECT 1 $$; DROP FUNCTION IF EXISTS moved.f(text)",
    "DROP FUNCTION IF EXISTS moved.f(int);"
    " CREATE OR REPLACE FUNCTION moved.f(text) RETURNS text LANGUAGE sql AS"
    " $$ SELECT 'text' $$",
]
MOVED_SETTINGS = [
    "SET TimeZone = 'Asia/Tokyo'",
    "SET TimeZone = 'CET'",
    "SET DateStyle = 'German'",
    "SET DateStyle = 'ISO, DMY'",
]


def something(chance: random.Random) -> list[bytes]:
    """What a client might ask: names, texts and values by chance."""
    name = chance.choice(["s1", "s2", "s3"])
    sql = chance.choice(MOVED_TEXTS)
    values = [b"2"] if "$1" in sql else []
    given = "(2)" if values else ""
    path = chance.choice(["moved", "moved_2"])
    there = f"SET LOCAL search_path = {path}; {sql.replace('$1', '2')}"
    run = bind(*values, statement=name) + describe() + execute() + SYNC
    fresh = message("C", b"S" + text(name)) + parse(sql, name)
    return chance.choice(
        [
            [query(chance.choice(MOVED_SETTINGS))],
            [message("C", b"S" + text(name)) + SYNC],
            [query(f"PREPARE q AS {sql}; EXECUTE q{given}; DEALLOCATE q")],
            [query(f"BEGIN; {there}; COMMIT"), query("ROLLBACK")],
            [parse(sql, name) + SYNC],
            [run],
            [fresh + describe(name, "S") + SYNC, run],
            [fresh + run],
        ]
    )


def ask(worker: InProcess, question: Callable[[], T]) -> T:
    """Run something in the thread of a worker, between two turns of its loop."""

    async def answer() -> T:
        return question()

    return asyncio.run_coroutine_threadsafe(answer(), worker.loop).result(10)


def move(giver: InProcess, taker: InProcess) -> bool:
    """Move the server of the first pool that was used last; False: it has to stay.

    Return when it is idle there.
    """

    def give() -> tuple[int, bytes] | None:
        idle = giver.engine.pool_idle_servers(0)
        return giver.engine.server_give(idle[-1]) if idle else None

    given = ask(giver, give)
    if given is None:
        return False
    ask(taker, lambda: taker.engine.server_receive(given[0], 0, given[1]))
    wait_until(
        lambda: ask(taker, lambda: taker.engine.pool_stats(0)["tested"]) == 0,
        "its names are forgotten",
    )
    return True


def connect(worker: InProcess, **options: str) -> psycopg.Connection:
    connection = psycopg.connect(
        host=HOST,
        port=worker.port,
        user=USER,
        dbname=DATABASE,
        autocommit=True,
        options=" ".join(f"-c {name}={value}" for name, value in options.items()),
    )
    connection.prepare_threshold = 0
    return connection


def value(connection: psycopg.Connection, sql: str) -> object:
    row = connection.execute(sql).fetchone()
    assert row is not None
    return row[0]


def backend(connection: psycopg.Connection) -> object:
    return value(connection, "SELECT pg_backend_pid()")


@pytest.fixture(autouse=True)
def _names_as_outside_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """All workers of a pooler call the same text alike."""
    monkeypatch.delitem(ENVIRONMENT, "POOLER_STATEMENT_NAMES", raising=False)


@pytest.fixture
def pair(
    worker_in_process: Callable[..., InProcess],
) -> tuple[InProcess, InProcess]:
    """Two workers, whose names of statements on servers are the same."""
    return (
        worker_in_process(default_pool_size=2),
        worker_in_process(default_pool_size=2),
    )


@pytest.fixture
def kin(
    worker_in_process: Callable[..., InProcess],
) -> tuple[InProcess, InProcess]:
    """Two workers of one pooler, which call the same text alike."""
    board = Board.for_slots(2)
    return (
        worker_in_process(board=board, default_pool_size=4),
        worker_in_process(board=board, default_pool_size=4),
    )


def server_parses(worker: InProcess) -> int:
    return ask(worker, lambda: worker.engine.pool_stats(0)["server_parses"])


def is_idle(worker: InProcess) -> bool:
    return ask(worker, lambda: worker.engine.pool_stats(0)["idle"]) > 0


def run_all(connection: psycopg.Connection, texts: list[str]) -> None:
    for n, sql in enumerate(texts):
        assert connection.execute(sql, [n]).fetchone() == (n, n)


def test_statements_move_with_their_server(kin: tuple[InProcess, InProcess]) -> None:
    """No text is parsed again by a server that has it from another worker's client."""
    one, two = kin
    texts = [f"SELECT {n}, %s::int" for n in range(20)]
    names = "SELECT name, prepare_time FROM pg_prepared_statements"
    with connect(one) as a, connect(two) as b:
        first = backend(b)
        run_all(b, texts)
        wait_until(lambda: move(two, one), "the server is idle")
        assert backend(a) == first
        run_all(a, texts)
        before: dict[str, object] = dict(a.execute(names, prepare=False).fetchall())
        assert len(before) > len(texts)
        wait_until(lambda: move(one, two), "the server is idle")
        parsed = server_parses(two)
        run_all(b, texts)
        assert backend(b) == first
        assert server_parses(two) == parsed
        wait_until(lambda: move(two, one), "the server is idle")
        parsed = server_parses(one)
        run_all(a, texts)
        assert backend(a) == first
        assert server_parses(one) == parsed
        assert dict(a.execute(names, prepare=False).fetchall()) == before


@pytest.mark.timeout(300)
@pytest.mark.parametrize("moves", [60, pytest.param(1000, marks=pytest.mark.full)])
def test_nobody_meets_what_another_worker_has_prepared(
    kin: tuple[InProcess, InProcess], postgres: Postgres, moves: int
) -> None:
    """Whatever is asked, each client is told what it is told straight.

    One server goes to and fro. Clients of both workers prepare different texts by the
    same names, the same by different ones, under other settings, while the table and
    what names mean change.
    """
    chance = random.Random(moves)
    moved = 0
    with ExitStack() as stack:
        alone = WireClient(postgres.port).login(USER, DATABASE)
        stack.enter_context(alone)
        alone.ask(query(MOVED_TABLES))
        stack.callback(postgres.psql, "DROP SCHEMA moved, moved_2 CASCADE", DATABASE)
        pairs = []
        for worker in kin:
            for _ in range(2):
                client = stack.enter_context(worker.client())
                twin = WireClient(postgres.port).login(USER, DATABASE)
                pairs.append((client, stack.enter_context(twin)))
        ways = [kin, kin[::-1]]
        while moved < moves:
            if is_idle(ways[0][0]) and move(*ways[0]):
                moved += 1
                ways.reverse()
            client, twin = chance.choice(pairs[:2] if ways[0] is kin else pairs[2:])
            for _ in range(chance.randrange(1, 4)):
                for raw in something(chance):
                    assert shown(client.ask(raw)) == shown(twin.ask(raw)), raw
            if chance.random() < 0.1:
                changed = client.ask(query(chance.choice(MOVED_CHANGES)))
                assert "E" not in codes(changed), changed
                for one in pairs:  # what they have now has another meaning
                    for end in one:
                        end.ask(query("DEALLOCATE ALL"))


def test_nobody_sees_another_workers_session(
    pair: tuple[InProcess, InProcess], postgres: Postgres
) -> None:
    one, two = pair
    with connect(one, timezone="Asia/Tokyo") as a, connect(two, timezone="CET") as b:
        first, second = backend(a), backend(b)
        assert a.execute("SELECT 'of a', %s::int", [1]).fetchone() == ("of a", 1)
        assert b.execute("SELECT 'of b', %s::int", [2]).fetchone() == ("of b", 2)
        assert move(one, two)
        assert backend(b) == first
        assert value(b, "SHOW timezone") == "CET"
        assert b.execute("SELECT 'of b', %s::int", [3]).fetchone() == ("of b", 3)
        assert b.execute("SELECT 'of a', %s::int", [4]).fetchone() == ("of a", 4)

        assert move(two, one)
        assert backend(a) == first
        assert value(a, "SHOW timezone") == "Asia/Tokyo"
        assert a.execute("SELECT 'of a', %s::int", [5]).fetchone() == ("of a", 5)
        assert backend(b) == second
        assert postgres.psql(
            f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{USER}'"
        ) == [(2,)]


def test_values_of_sequences_are_nobodys_there(
    pair: tuple[InProcess, InProcess],
) -> None:
    one, two = pair
    with connect(one) as a, connect(two) as b:
        first = backend(a)
        backend(b)
        a.execute("CREATE SEQUENCE IF NOT EXISTS moved_numbers")
        value(a, "SELECT nextval('moved_numbers')")
        assert move(one, two)
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            b.execute("SELECT lastval()")
        assert backend(b) == first
        a.execute("DROP SEQUENCE moved_numbers")


def test_what_clients_make_up_travels(pair: tuple[InProcess, InProcess]) -> None:
    """A server on which a parameter was made is not taken for one that lacks it."""
    one, two = pair
    with connect(one) as a, connect(two) as b:
        first = backend(a)
        assert value(b, "SELECT current_setting('my.other', true)") is None
        b.execute("SET LOCAL my.other = ''")
        a.execute("SET LOCAL my.own = ''")
        assert value(a, "SELECT current_setting('my.own', true)") == ""
        assert backend(a) == first
        assert move(one, two)
        for _ in range(3):
            assert value(b, "SELECT current_setting('my.own', true)") is None
        assert backend(b) != first


def test_hundreds_of_moves(pair: tuple[InProcess, InProcess]) -> None:
    """Each client has its own session at each of them, and nothing is left behind."""
    one, two = pair
    with connect(one, timezone="Asia/Tokyo") as a, connect(two, timezone="CET") as b:
        first = backend(a)
        backend(b)
        files = len(os.listdir("/proc/self/fd"))
        for n in range(125):
            assert move(one, two)
            assert b.execute("SELECT %s::int", [n]).fetchone() == (n,)
            if n % 50 == 0:
                assert value(b, "SHOW timezone") == "CET"
                assert backend(b) == first
            wait_until(lambda: move(two, one), "the server is idle again")
            assert a.execute("SELECT %s::int + 1", [n]).fetchone() == (n + 1,)
            if n % 50 == 0:
                assert value(a, "SHOW timezone") == "Asia/Tokyo"
                assert backend(a) == first
            wait_until(
                lambda: ask(one, lambda: one.engine.pool_stats(0)["idle"]) == 1,
                "the server is idle again",
            )
        assert len(os.listdir("/proc/self/fd")) == files
        assert ask(one, lambda: one.engine.pool_stats(0)["servers"]) == 1
        assert ask(two, lambda: two.engine.pool_stats(0)["servers"]) == 1


# Workers that decide themselves.


def slot_of(connection: psycopg.Connection) -> int:
    """The worker that has taken a client, which its cancel key tells."""
    return connection.info.backend_pid >> 24


@contextmanager
def on_both(
    pooler: Pooler, database: str = DATABASE
) -> Iterator[list[psycopg.Connection]]:
    """A client at each of two workers, with a time zone of its own."""
    found: dict[int, psycopg.Connection] = {}
    spare = []
    deadline_s = time.monotonic() + 10
    while len(found) < 2:
        assert time.monotonic() < deadline_s
        name = ("CET", "Asia/Tokyo")[len(found)]
        one = pooler.connect(
            database,
            autocommit=True,
            prepare_threshold=0,
            options=f"-c timezone={name}",
        )
        if slot_of(one) in found:
            spare.append(one)
        else:
            found[slot_of(one)] = one
    for one in spare:
        one.close()
    try:
        yield list(found.values())
    finally:
        for one in found.values():
            one.close()


def check_own(connection: psycopg.Connection, zone: str, n: int) -> object:
    """Its own values and statements; returns the backend that has told them."""
    row = connection.execute(
        "SELECT pg_backend_pid(), current_setting('TimeZone'), %s::int", [n]
    ).fetchone()
    assert row is not None
    assert row[1:] == (zone, n)
    return row[0]


@pytest.mark.parametrize("rounds", [100, pytest.param(500, marks=pytest.mark.full)])
def test_one_server_for_two_workers(make_pooler: MakePooler, rounds: int) -> None:
    """By turns: it goes to and fro, and each client has its own session there."""
    pooler = make_pooler(workers=2, default_pool_size=1, admin_users=USER)

    def open_files() -> int:
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pooler.worker_pids())

    with on_both(pooler) as (a, b):
        seen = {check_own(a, "CET", 0), check_own(b, "Asia/Tokyo", 0)}
        wait_until(lambda: pooler.sockets_of_workers() == 2, "the others have left")
        files = open_files()
        for n in range(rounds):
            seen.add(check_own(a, "CET", n))
            seen.add(check_own(b, "Asia/Tokyo", n))
        assert len(seen) == 1, "it has moved, and no other one was opened"
        wait_until(lambda: open_files() == files, "nothing is left behind")
        with pooler.connect("pgbouncer", autocommit=True) as console:
            cursor = console.execute("SHOW HANDOVERS")
            assert [column.name for column in cursor.description or ()] == [
                *("database", "user", "given", "received"),
                *("refused", "returned", "closed"),
            ]
            ((*names, given, received, refused, returned, closed),) = cursor
    assert names == [DATABASE, USER]
    assert given == received >= 2 * rounds
    assert refused == returned == closed == 0


def test_a_few_servers_for_many_at_once(make_pooler: MakePooler) -> None:
    """Both workers are busy, by several drivers that prepare."""
    pooler = make_pooler(workers=2, default_pool_size=2)
    until_s = time.monotonic() + 3
    seen: set[object] = set()

    def work(number: int) -> int:
        zone = ("CET", "Asia/Tokyo", "UTC")[number % 3]
        with pooler.connect(
            autocommit=True, prepare_threshold=0, options=f"-c timezone={zone}"
        ) as one:
            n = 0
            while time.monotonic() < until_s:
                seen.add(check_own(one, zone, n))
                n += 1
            return n

    async def work_async() -> int:
        one = await asyncpg.connect(
            pooler.dsn(), server_settings={"timezone": "Europe/Lisbon"}
        )
        n = 0
        while time.monotonic() < until_s:
            row = await one.fetchrow("SELECT current_setting('TimeZone'), $1::int", n)
            assert tuple(row) == ("Europe/Lisbon", n)
            n += 1
        await one.close()
        return n

    with ThreadPoolExecutor(8) as threads:
        done = [threads.submit(work, number) for number in range(6)]
        done += [threads.submit(asyncio.run, work_async()) for _ in range(2)]
        counts = [one.result(30) for one in done]
    assert len(seen) == 2, "servers were opened anew"
    assert min(counts) > max(counts) / 5, counts


def test_what_is_kept_for_a_client_is_cleaned_for_another_worker(
    make_pooler: MakePooler,
) -> None:
    pooler = make_pooler(workers=2, default_pool_size=1)
    with on_both(pooler) as (a, b):
        a.execute("SET work_mem = '9MB'")
        a.execute("CREATE TEMPORARY TABLE mine (n int)")
        began_s = time.monotonic()
        assert value(b, "SHOW work_mem") != "9MB"
        assert value(b, "SELECT to_regclass('mine')") is None
        assert time.monotonic() - began_s < 2


def test_servers_move_behind_a_reload(make_pooler: MakePooler) -> None:
    """What was opened under another configuration is closed, not used."""
    pooler = make_pooler(workers=2, default_pool_size=1)
    with on_both(pooler) as (a, b):
        first = check_own(a, "CET", 1)
        assert check_own(b, "Asia/Tokyo", 1) == first
        pooler.reload(server_reset_query="DISCARD ALL; SELECT 1")
        for n in range(5):
            check_own(a, "CET", n)
            check_own(b, "Asia/Tokyo", n)
        last = check_own(a, "CET", 1)
        assert check_own(b, "Asia/Tokyo", 1) == last


def test_a_server_that_speaks_tls_does_not_move(
    make_pooler: MakePooler, secure_postgres: Postgres
) -> None:
    """It is closed, and the other worker opens its own."""
    entry = f"host={HOST} port={secure_postgres.port}"
    pooler = make_pooler(
        {"as_trust": f"{entry} dbname={DATABASE} user=by_tls"},
        workers=2,
        default_pool_size=1,
        server_tls_sslmode="require",
    )
    with on_both(pooler, "as_trust") as (a, b):
        seen = {
            check_own(one, zone, n)
            for n in range(2)
            for one, zone in ((a, "CET"), (b, "Asia/Tokyo"))
        }
        assert len(seen) == 4


class TakesAll:
    """An inbox that somebody reads."""

    def send(self, slot: int, kind: str, payload: object, fds: object = ()) -> bool:
        return True


@pytest.mark.parametrize("arrives", [True, False])
def test_a_pool_that_was_to_give_one_up_goes_on_when_it_has_moved(
    worker_in_process: Callable[..., InProcess],
    monkeypatch: pytest.MonkeyPatch,
    arrives: bool,
) -> None:
    """Somebody needs the place of a server that is about to go to another worker."""
    one = worker_in_process(workers=2, default_pool_size=1)
    pools, handover = one.worker._pools, one.worker._handover
    sharing = Sharing(one.engine, pools, one._bus)
    send = handover.offered
    other, moved = 1, []

    def offered(pool: Pool, handle: int, row: int) -> None:
        assert pool.places is not None
        sharing.give_up(pool)
        send(pool, handle, row)
        one.page.set(other, pool.places.pool, "waiting_since_us", 0)
        if arrives:  # as if the master had it count there, where it has ended
            one.page.give_server(0, *pool.places)
        moved.append(row)

    monkeypatch.setattr(handover, "offered", offered)
    if arrives:
        monkeypatch.setattr(handover, "_mail", TakesAll())
    with connect(one) as client:
        client.execute("BEGIN")
        [pool] = pools.shared()
        assert pool.places is not None
        one.board.set(other, "pid", os.getpid())
        one.board.set(other, "heartbeat_us", time.monotonic_ns() // 1000)
        one.page.set(other, pool.places.pool, "waiting", 1)
        one.page.set(other, pool.places.pool, "waiting_since_us", 1)
        client.execute("COMMIT")
        wait_until(lambda: moved == [other], "its server has gone")
        assert value(client, "SELECT 1") == 1


@pytest.mark.parametrize("has_moved", [False, True])
def test_a_server_that_has_moved_was_of_use(
    worker_in_process: Callable[..., InProcess], has_moved: bool
) -> None:
    """Its end before anybody uses it here is no failure to open servers."""
    one = worker_in_process(workers=2, default_pool_size=1)
    launches = one.worker._pools.launches
    with connect(one) as client:
        assert value(client, "SELECT 1") == 1
        [pool] = one.worker._pools.shared()
        [(handle, server)] = launches.servers.items()
        launches.servers[handle] = dataclasses.replace(server, has_moved=has_moved)
        reason = CloseReason.CLOSE_SERVER_EOF
        launches.server_closed(handle, reason, 1000, used=False)
        assert (pool.backoff.failure is None) == has_moved
        launches.servers[handle] = server


class Notes:
    """A carrier that takes down what becomes of a server."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def pool_of(self, key: object) -> None:
        return None

    def take_in(self, fd: int, told: object) -> bool:
        os.close(fd)
        self.heard.append("taken in")
        return True

    def bury(self, fd: int, told: object) -> None:
        os.close(fd)
        self.heard.append("buried")


@pytest.mark.parametrize("is_back", [False, True])
@pytest.mark.parametrize("is_mine", [False, True])
def test_what_was_for_another_process_is_buried(
    worker_in_process: Callable[..., InProcess],
    monkeypatch: pytest.MonkeyPatch,
    is_back: bool,
    is_mine: bool,
) -> None:
    """What comes back to a giver that has died meanwhile, too."""
    handover = worker_in_process(workers=2).worker._handover
    notes = Notes()
    monkeypatch.setattr(handover, "_carrier", notes)
    monkeypatch.setattr(handover, "_mail", TakesAll())
    monkeypatch.setattr(handover, "_later", lambda *_: None)
    mine, other = os.getpid(), os.getpid() + 1
    told: dict[str, object] = {
        "pool": ["d", "u"],
        "giver": 0 if is_back else 1,
        "from": mine if is_back and is_mine else other,
        "process": mine if is_mine and not is_back else other,
    }
    if is_back:
        told["undelivered"] = 1
    with open(os.devnull) as file:
        handover.got(BusMessage("server", told, (file.fileno(),), MASTER))
    assert notes.heard == ["taken in" if is_mine else "buried"]


def test_who_waits_in_a_worker_that_stood_still_is_not_forgotten(
    make_pooler: MakePooler,
) -> None:
    """It gets the server that came free meanwhile, though nothing else happens."""
    pooler = make_pooler(workers=2, default_pool_size=1, worker_stuck_timeout=0)
    with ExitStack() as stack:
        busy = stack.enter_context(pooler.client())
        busy.ask(query("BEGIN"))
        waiting = busy
        while waiting.key[0] & SLOT_BITS == busy.key[0] & SLOT_BITS:
            waiting = stack.enter_context(pooler.client())
        still = psutil.Process(slots_of(pooler)[waiting.key[0] & SLOT_BITS])
        waiting.send(query("SELECT 'at last'"))
        with pooler.connect("pgbouncer", autocommit=True) as console:
            wait_until(lambda: waits(console) == 1, "it waits")
        still.suspend()
        time.sleep(2 * STALE_BEAT_S)  # not a condition: how long it is not heard of
        busy.ask(query("COMMIT"))
        time.sleep(SHUN_S / 2)  # and the server is not given to it
        still.resume()
        answer = waiting.read_until("Z")
        assert [one.row for one in answer if one.code == "D"] == [[b"at last"]]


def waits(console: psycopg.Connection[tuple[object, ...]]) -> int:
    """How many clients wait for a server."""
    rows = console.execute("SHOW POOLS").fetchall()
    return sum(int(str(row[3])) for row in rows)
