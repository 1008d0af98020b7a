# SPDX-License-Identifier: MIT
"""Statement caches in transaction mode: right answers, whatever befalls the servers.

Clients of several drivers, and some that prepare by SQL, share fewer servers than they
are. Meanwhile backends are terminated and the tables of prepared statements change.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from pooler.demo.postgres import Postgres
from tests.drivers.askers import (
    EXTRA,
    PLAIN,
    SHAPES,
    WIRE_TIMEOUT_S,
    Asyncpg,
    Client,
    Lost,
    Make,
    Psycopg,
    Question,
    Raw,
    Refused,
    another_server,
    ask_division,
    ask_whole_shape,
    check,
    close_statement,
    insert_taken,
    row_value,
)
from tests.drivers.target import Row
from tests.integration.harness import (
    DATABASE,
    USER,
    InProcess,
    MakePooler,
    Pooler,
    wait_until,
)
from tests.wire_client import (
    SYNC,
    WireClient,
    bind,
    codes,
    describe,
    execute,
    parse,
    query,
)

SERVERS = 3
DEADLINE_S = 60
# Fewer than the texts that are asked, so that servers must drop statements.
MAX_PREPARED = 20
KINDS = 9
WORKERS = pytest.mark.parametrize("workers", [1, 2])

DIVISION_BY_ZERO = "22012"
UNIQUE_VIOLATION = "23505"
IN_FAILED_TRANSACTION = "25P02"
UNKNOWN_STATEMENT = "26000"
DUPLICATE_STATEMENT = "42P05"
STALE_PLAN = "0A000"

# Each can be repeated by one who does not know whether it was carried out.
CHANGES = (
    f"ALTER TABLE shapes ADD COLUMN IF NOT EXISTS extra int DEFAULT {EXTRA}",
    "ALTER TABLE shapes ALTER COLUMN extra TYPE text",
    "ALTER TABLE shapes DROP COLUMN IF EXISTS extra",
    f"BEGIN; DROP TABLE shapes; {SHAPES}; COMMIT",
    f"ALTER TABLE shapes ADD COLUMN IF NOT EXISTS extra text DEFAULT '{EXTRA}'",
    "ALTER TABLE shapes ALTER COLUMN extra TYPE varchar",
    f"BEGIN; DROP TABLE shapes; {SHAPES}; COMMIT",
)


# ---------------------------------------------------------------- what they do


@dataclass
class Score:
    """What all clients have seen."""

    answers: int = 0
    lost: int = 0
    kills: int = 0
    stale_in_transactions: int = 0
    commits: int = 0
    unsure_commits: int = 0
    complaints: list[str] = field(default_factory=list)
    over: bool = False
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def answered(self) -> None:
        self.answers += 1
        async with self.news:
            self.news.notify_all()

    async def more(self, count: int) -> None:
        """Wait for so many more answers."""
        wanted = self.answers + count
        async with self.news:
            await self.news.wait_for(lambda: self.answers >= wanted)


class Worker:
    """Asks until the test is over, and notes what should not have happened."""

    def __init__(
        self,
        score: Score,
        number: int,
        connect: Callable[[], Coroutine[Any, Any, Any]],
    ) -> None:
        self.score = score
        self.number = number
        self.dice = random.Random(number)
        self._connect = connect
        self.client: Any = None
        self.in_transaction = False

    async def run(self) -> None:
        step = 0
        while not self.score.over:
            step += 1
            try:
                if self.client is None:
                    self.client = await self._connect()
                    self.connected()
                await self.step(step)
                continue
            except Lost:
                self.score.lost += 1
            except Exception as error:
                at = "in a transaction" if self.in_transaction else "alone"
                self.score.complaints.append(
                    f"{type(self.client).__name__} {self.number} {at}: {error!r}"
                )
            await self.leave()
        await self.leave()

    async def leave(self) -> None:
        self.in_transaction = False
        if self.client is not None:
            await self.client.close()
            self.client = None

    def connected(self) -> None:
        """A new connection."""

    async def step(self, step: int) -> None:
        raise NotImplementedError

    async def right(self, question: Question) -> None:
        question.check(await self.client.ask(question))
        await self.score.answered()

    async def refused(self, sqlstate: str, work: Awaitable[Any]) -> None:
        try:
            found = await work
        except Refused as error:
            if error.sqlstate != sqlstate:
                raise
            await self.score.answered()
        else:
            raise AssertionError(f"not refused with {sqlstate}, but {found}")

    @asynccontextmanager
    async def transaction(self) -> Any:
        """A block that may learn, there and nowhere else, that a plan is stale."""
        await self.client.command("BEGIN")
        self.in_transaction = True
        try:
            yield
        except Refused as error:
            if error.sqlstate != STALE_PLAN:
                raise
            self.score.stale_in_transactions += 1
            await self.client.command("ROLLBACK")
        self.in_transaction = False


class DriverWorker(Worker):
    def question(self, step: int) -> Question:
        make: Make = self.dice.choice(self.client.makes)
        return make(self.dice.randrange(KINDS), step)

    async def step(self, step: int) -> None:
        kind = self.dice.randrange(KINDS)
        what = self.dice.randrange(10)
        if what == 0:
            broken = ask_division(kind, step, 0)
            await self.refused(DIVISION_BY_ZERO, self.client.ask(broken))
        elif what == 1:
            insert = insert_taken(kind, step)
            await self.refused(UNIQUE_VIOLATION, self.client.ask(insert))
        elif what == 2:
            await self.right(ask_division(kind, step, 1 + step % 7))
        elif what == 3:
            await self.keep(step)
        elif what == 4:
            await self.fail_in_transaction(step)
        elif what == 5 and isinstance(self.client, Psycopg):
            await self.together(step)
        else:
            await self.right(self.question(step))

    async def together(self, step: int) -> None:
        asked = [
            self.dice.choice(PLAIN)(self.dice.randrange(KINDS), step + n)
            for n in range(5)
        ]
        answers = await self.client.ask_together(asked)
        for question, found in zip(asked, answers, strict=True):
            question.check(found)
            await self.score.answered()
        # Psycopg itself takes a skipped statement for prepared when it has executed it
        # before.
        fails = 2 if self.client.conn.prepare_threshold == 0 else 4
        asked[fails] = ask_division(self.dice.randrange(KINDS), step, 0)
        await self.refused(DIVISION_BY_ZERO, self.client.ask_together(asked))

    async def keep(self, step: int) -> None:
        async with self.transaction():
            keep = f"INSERT INTO kept VALUES ({self.number}, $1::int)"
            await self.right(self.question(step))
            await self.client.ask(Question(keep, (step,), []))
            await self.right(self.question(step + 1))
            self.score.unsure_commits += 1
            await self.client.command("COMMIT")
            self.score.unsure_commits -= 1
            self.score.commits += 1

    async def fail_in_transaction(self, step: int) -> None:
        async with self.transaction():
            await self.right(self.question(step))
            broken = ask_division(self.dice.randrange(KINDS), step, 0)
            await self.refused(DIVISION_BY_ZERO, self.client.ask(broken))
            again = self.client.ask(self.question(step))
            await self.refused(IN_FAILED_TRANSACTION, again)
            await self.client.command("ROLLBACK")


class SqlWorker(Worker):
    """PREPARE, EXECUTE, DEALLOCATE: names that are other texts in other clients."""

    NAMES = ("p", "q", '"Q"', '"a ""plan"""')

    def connected(self) -> None:
        self.prepared: dict[str, tuple[bool, int]] = {}

    async def sql(self, sql: str, simple: bool = False) -> list[Row]:
        """A binary cursor makes psycopg use the extended protocol."""
        binary = not simple and self.dice.randrange(3) == 0
        found: list[Row] = await self.client.run(sql, binary=binary, prepare=False)
        return found

    async def step(self, step: int) -> None:
        if self.dice.randrange(4) == 0:
            async with self.transaction():
                for _ in range(3):
                    await self.one(step)
                if self.dice.randrange(3) == 0:
                    await self.refused(DIVISION_BY_ZERO, self.sql("SELECT 1 / 0"))
                await self.client.command(self.dice.choice(["COMMIT", "ROLLBACK"]))
        else:
            await self.one(step)

    async def one(self, step: int) -> None:
        name = self.dice.choice(self.NAMES)
        what = self.dice.randrange(8)
        if name not in self.prepared:
            if what == 0 and not self.in_transaction:
                await self.refused(UNKNOWN_STATEMENT, self.sql(f"EXECUTE {name}(1)"))
            elif what == 1 and not self.in_transaction:
                await self.refused(UNKNOWN_STATEMENT, self.sql(f"DEALLOCATE {name}"))
            else:
                await self.prepare(name)
        elif what == 0:
            await self.sql(f"DEALLOCATE {self.dice.choice(['', 'PREPARE '])}{name}")
            del self.prepared[name]
        elif what == 1 and not self.in_transaction:
            again = self.sql(f"PREPARE {name} AS SELECT 'another'")
            await self.refused(DUPLICATE_STATEMENT, again)
        elif what == 2 and step % 10 == 0:
            await self.sql("DEALLOCATE ALL")
            self.prepared = {}
        else:
            await self.execute(name, step)

    async def prepare(self, name: str) -> None:
        whole, kind = self.dice.randrange(3) == 0, self.dice.randrange(1000)
        if whole:
            sql = f"SELECT * FROM shapes WHERE id = $1 AND {kind} = {kind}"
        else:
            sql = f"SELECT $1 * 1000 + {kind}, '{self.number}'"
        await self.sql(f"PREPARE {name} (int) AS {sql}")
        self.prepared[name] = (whole, kind)

    async def execute(self, name: str, step: int) -> None:
        whole, kind = self.prepared[name]
        question = (
            ask_whole_shape(kind, step)
            if whole
            else Question("", (), [(step * 1000 + kind, str(self.number))])
        )
        sql = f"EXECUTE {name}({step % 100 if whole else step})"
        found = await self.sql(sql, simple=whole)
        while whole and not found:
            # Its snapshot is older than its lock: a table that was replaced while
            # EXECUTE waited for it looks empty.
            found = await self.sql(sql, simple=True)
        question.check(found)
        await self.score.answered()


# ---------------------------------------------------------------- what befalls them


async def terminate_backends(score: Score, postgres: Postgres, count: int) -> None:
    """One server after the other, whatever it does."""
    async with await psycopg.AsyncConnection.connect(
        postgres.dsn(DATABASE), autocommit=True, connect_timeout=20
    ) as conn:
        while score.kills < count:
            await score.more(60)
            cursor = await conn.execute(
                f"""
                SELECT pg_terminate_backend(pid, 10000)
                  FROM (SELECT pid FROM pg_stat_activity
                         WHERE usename = '{USER}' AND datname = '{DATABASE}'
                           AND backend_type = 'client backend'
                         ORDER BY random() LIMIT 1) one
                """
            )
            score.kills += len(await cursor.fetchall())


async def change_tables(score: Score, pooler: Pooler, count: int) -> None:
    """Through the pooler, like everybody."""
    client = await Psycopg.connect(pooler.port, 0)
    for number in range(count):
        await score.more(60)
        done = False
        while not done:
            try:
                await client.command(CHANGES[number % len(CHANGES)])
                done = True
            except Lost:
                score.lost += 1
                await client.close()
                client = await Psycopg.connect(pooler.port, 0)
    await client.close()


async def chaos(
    score: Score, workers: list[Worker], *disturbances: Coroutine[Any, Any, None]
) -> None:
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        for one in workers:
            tasks.create_task(one.run())
        await asyncio.gather(*disturbances)
        score.over = True


def sharing(make_pooler: MakePooler, workers: int) -> Pooler:
    return make_pooler(
        workers=workers,
        default_pool_size=SERVERS,
        max_prepared_statements=MAX_PREPARED,
    )


def disturb(pooler: Pooler, postgres: Postgres, make: Callable[..., Worker]) -> Score:
    """Let twelve clients work through all that befalls them."""

    async def work() -> Score:
        score = Score()
        await chaos(
            score,
            [make(score, number) for number in range(12)],
            terminate_backends(score, postgres, 30),
            change_tables(score, pooler, 35),
        )
        return score

    score = asyncio.run(work())
    assert not score.complaints, "\n".join(score.complaints[:20])
    # A server has one client at most.
    assert score.lost <= score.kills
    return score


@WORKERS
def test_drivers(
    make_pooler: MakePooler, postgres: Postgres, tables: None, workers: int
) -> None:
    pooler = sharing(make_pooler, workers)
    drivers: list[type[Client]] = [Asyncpg, Psycopg, Raw]

    def make(score: Score, number: int) -> Worker:
        driver = drivers[number % len(drivers)]
        index = number // len(drivers)
        return DriverWorker(score, number, lambda: driver.connect(pooler.port, index))

    score = disturb(pooler, postgres, make)
    ((kept,),) = postgres.psql("SELECT count(*) FROM kept", DATABASE)
    assert score.commits <= kept <= score.commits + score.unsure_commits


@WORKERS
def test_prepare_by_sql(
    make_pooler: MakePooler, postgres: Postgres, tables: None, workers: int
) -> None:
    pooler = sharing(make_pooler, workers)

    def make(score: Score, number: int) -> Worker:
        return SqlWorker(score, number, lambda: Psycopg.connect(pooler.port, number))

    disturb(pooler, postgres, make)


# ---------------------------------------------------------------- in two round trips


def prepare_unnamed(client: WireClient, sql: str) -> None:
    """What lib/pq does first; it says nothing more before it executes."""
    assert codes(client.ask(parse(sql), describe("", "S"), SYNC)) == "1tTZ"


def execute_unnamed(client: WireClient, *values: str) -> list[Row]:
    """What it does then."""
    read = client.ask(bind(*(one.encode() for one in values)), execute(), SYNC)
    assert codes(check(read)) == "2DCZ"
    return [tuple(row_value(value) for value in read[1].row)]


class TwoTrips:
    """A client that has prepared something and executes it later."""

    def __init__(self, port: int, number: int) -> None:
        self.wire = WireClient(port, timeout_s=WIRE_TIMEOUT_S).login(USER, DATABASE)
        self.number = number
        self.pids: set[int] = set()
        self._kind: int | None = None

    def prepare(self, kind: int) -> None:
        # Every third client shares its texts with others.
        self._kind = kind if self.number % 3 == 0 else self.number * 1000 + kind
        prepare_unnamed(
            self.wire, f"SELECT $1::int + {self._kind}, pg_backend_pid(), $2::text"
        )

    def execute(self, n: int) -> None:
        if self._kind is None:
            with pytest.raises(Refused, match=UNKNOWN_STATEMENT):
                execute_unnamed(self.wire, "1", "x")
            return
        ((found, pid, text),) = execute_unnamed(self.wire, str(n), f"text {n}")
        assert (found, text) == (n + self._kind, f"text {n}")
        self.pids.add(pid)

    def ask_otherwise(self, n: int) -> None:
        """A statement with a name leaves the unnamed one as it is."""
        sql = f"SELECT $1::int * {n % 7}"
        read = self.wire.ask(
            parse(sql, "s"),
            bind(str(n).encode(), statement="s"),
            execute(),
            close_statement("s"),
            SYNC,
        )
        assert codes(read) == "12DC3Z"
        assert read[2].row == [str(n * (n % 7)).encode()]

    def ask_simply(self) -> None:
        """A simple query drops it."""
        self._kind = None
        assert self.wire.value(f"SELECT {self.number}") == str(self.number)


def test_unnamed_in_two_round_trips(
    make_pooler: MakePooler, postgres: Postgres
) -> None:
    """Parse, Describe, Sync; later Bind, Execute, Sync, on whichever server is free."""
    pooler = sharing(make_pooler, 1)
    dice = random.Random(7)
    with ExitStack() as stack:
        clients = [TwoTrips(pooler.port, number) for number in range(9)]
        blockers = [pooler.client() for _ in range(SERVERS - 1)]
        for one in (*(client.wire for client in clients), *blockers):
            stack.enter_context(one)
        blocking: set[WireClient] = set()
        for step in range(1500):
            client, what = dice.choice(clients), dice.randrange(12)
            if what < 4:
                client.prepare(dice.randrange(5))
            elif what < 9:
                client.execute(step)
            elif what < 10:
                client.ask_otherwise(step)
            elif step % 5 == 0:
                client.ask_simply()
            elif step % 50 == 1:
                postgres.psql(
                    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                    f" WHERE usename = '{USER}' AND state = 'idle'"
                )
            else:
                # So that another server is the next one.
                blocker = dice.choice(blockers)
                blocker.ask(query("COMMIT" if blocker in blocking else "BEGIN"))
                blocking ^= {blocker}
        assert len(set().union(*(client.pids for client in clients))) > SERVERS
        assert all(len(client.pids) > 1 for client in clients)


@pytest.mark.parametrize("size", [10, 300_000], ids=["short", "long"])
@pytest.mark.parametrize("cut", [None, 3, 6, 20], ids=str)
def test_unnamed_that_comes_in_pieces(
    worker_in_process: Callable[..., InProcess], size: int, cut: int | None
) -> None:
    """A Parse that several reads bring is remembered like that of a single read."""
    worker = worker_in_process(default_pool_size=SERVERS)
    sql = f"SELECT $1::int + 1, length('{'x' * size}')"
    with worker.client() as client:
        raw = parse(sql) + describe("", "S") + SYNC
        if cut is not None:
            before = worker.counters()["recvs"]
            client.send(raw[:cut])
            wait_until(lambda: worker.engine.counters()["recvs"] > before)
        client.send(raw[cut or 0 :])
        assert codes(client.read_until("Z")) == "1tTZ"
        with another_server(worker.port):
            assert execute_unnamed(client, "41") == [(42, size)]


def test_unnamed_after_a_parse_that_failed(make_pooler: MakePooler) -> None:
    """It is gone, as if there were no pooler."""
    pooler = sharing(make_pooler, 1)
    with pooler.client() as client:
        prepare_unnamed(client, "SELECT $1::int + 1")
        assert codes(client.ask(parse("SELEKT"), SYNC)) == "EZ"
        with pytest.raises(Refused, match=UNKNOWN_STATEMENT):
            execute_unnamed(client, "1")
        with another_server(pooler.port):
            with pytest.raises(Refused, match=UNKNOWN_STATEMENT):
                execute_unnamed(client, "1")


def test_long_batches_in_a_transaction(make_pooler: MakePooler) -> None:
    """More requests at once than are usual, by a name that an earlier batch has given.

    This is what pgjdbc does with executeBatch().
    """
    pooler = sharing(make_pooler, 1)
    with pooler.client() as client:
        client.ask(query("BEGIN"))
        assert codes(client.ask(parse("SELECT $1::int + 1", "plus"), SYNC)) == "1Z"
        for start in range(0, 800, 100):
            batch = [
                bind(str(start + n).encode(), statement="plus") + execute()
                for n in range(100)
            ]
            read = check(client.ask(*batch, SYNC))
            found = [int(one.row[0] or 0) for one in read if one.code == "D"]
            assert found == list(range(start + 1, start + 101))
