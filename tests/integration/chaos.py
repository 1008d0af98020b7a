# SPDX-License-Identifier: MIT
"""Random load by clients that check every answer, and who looks at limits meanwhile.

A client knows its worker by its cancel key. What ends it counts as an error unless its
worker was killed while it was there: everybody else must notice nothing.
"""

from __future__ import annotations

import os
import random
import re
import select
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from pooler.demo.postgres import Postgres
from tests.integration.harness import Background, Pooler, wait_until
from tests.wire_client import (
    FLUSH,
    SYNC,
    TERMINATE,
    ConnectionEnded,
    Message,
    WireClient,
    bind,
    cancel_request,
    codes,
    execute,
    message,
    parse,
    query,
    startup,
)

SLOT_BITS = 0x7F  # of the first byte of a cancel key
PAGE = 100_000  # characters of a big row
ROWS = 500
WORKER_NAME = re.compile(r"pooler worker (\d+)")


# ---------------------------------------------------------------- who looks


class LimitSampler(Background):
    """Counts the backends of PostgreSQL by database and user, as fast as it can.

    Only those are counted that were there when the look began and still are when it
    comes to them, so all that a look counts were there at one moment.
    """

    QUERY = (
        "SELECT datname, usename, count(*) FROM pg_stat_activity WHERE backend_type ="
        " 'client backend' AND pid <> pg_backend_pid() AND backend_start <"
        " statement_timestamp() GROUP BY 1, 2"
    )

    def __init__(self, postgres: Postgres) -> None:
        super().__init__()
        self._postgres = postgres
        self.looks = 0
        self.most: Counter[tuple[str, str]] = Counter()  # by database and user
        self.most_of_database: Counter[str] = Counter()
        self.most_of_user: Counter[str] = Counter()

    def _run(self) -> None:
        with psycopg.connect(self._postgres.dsn(), autocommit=True) as connection:
            while not self._stop.is_set():
                self._look(connection.execute(self.QUERY).fetchall())
                self.looks += 1

    def _look(self, rows: list[tuple[str, str, int]]) -> None:
        databases: Counter[str] = Counter()
        users: Counter[str] = Counter()
        for database, user, count in rows:
            databases[database] += count
            users[user] += count
            self.most[database, user] = max(self.most[database, user], count)
        self.most_of_database |= databases  # the larger of both
        self.most_of_user |= users

    def tell(self) -> None:
        print(
            f"{self.looks} looks, most {dict(self.most)},"
            f" {dict(self.most_of_database)}, {dict(self.most_of_user)}"
        )


# ---------------------------------------------------------------- who kills


def slots_of(pooler: Pooler) -> dict[int, int]:
    """The process of each slot that has one."""
    found = {}
    for pid in pooler.worker_pids():
        with suppress(OSError):
            name = WORKER_NAME.match(Path(f"/proc/{pid}/comm").read_text())
            if name:
                found[int(name[1])] = pid
    return found


@dataclass
class Deaths:
    """When which slot lost its worker."""

    times: list[tuple[float, int]] = field(default_factory=list)

    def may_come(self, slot: int, within_s: float) -> None:
        """Noted before, so that nobody can notice it earlier."""
        self.times.append((time.monotonic() + within_s, slot))

    def kill(self, slot: int, pid: int) -> None:
        self.may_come(slot, 0)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def explain(self, slot: int | None, begun_s: float) -> bool:
        """Whether a client of this slot may have been lost; None: it never knew."""
        return any(
            when_s >= begun_s and slot in (None, where) for when_s, where in self.times
        )


class Killer(Background):
    """Kills workers at random moments, sometimes two at once, as long as it is open.

    Some it stops for a while; the master may kill these (``worker_stuck_timeout``).
    """

    LIVES_S = 1.1  # one that dies younger is not replaced at once
    STOPS_S = 3.0
    STUCK_S = 2  # for the configuration

    def __init__(self, pooler: Pooler, deaths: Deaths, seed: int) -> None:
        super().__init__()
        self._pooler = pooler
        self._deaths = deaths
        self._chance = random.Random(seed)
        self._born: dict[int, float] = {}

    def _run(self) -> None:
        while not self._stop.wait(self._chance.uniform(0.05, 0.8)):
            now_s = time.monotonic()
            slots = slots_of(self._pooler)
            for pid in slots.values():
                self._born.setdefault(pid, now_s)
            grown = [
                (slot, pid)
                for slot, pid in slots.items()
                if now_s - self._born[pid] >= self.LIVES_S
            ]
            for slot, pid in self._chance.sample(
                grown, min(len(grown), self._chance.choice((1, 1, 1, 2)))
            ):
                if self._chance.random() < 0.2:
                    self._deaths.may_come(slot, self.STOPS_S)
                    with suppress(ProcessLookupError):  # it may go by itself
                        os.kill(pid, signal.SIGSTOP)
                        self._stop.wait(self._chance.uniform(0, self.STOPS_S))
                        os.kill(pid, signal.SIGCONT)
                else:
                    self._deaths.kill(slot, pid)


# ---------------------------------------------------------------- who asks


class WrongAnswer(AssertionError):
    """An answer that PostgreSQL would not have given."""


class Refused(WrongAnswer):
    """An error that nothing has asked for; its fields."""


def check(truth: object, what: object) -> None:
    if not truth:
        raise WrongAnswer(what)


@dataclass
class Visit:
    """One client, from its login on."""

    client: WireClient
    chance: random.Random
    port: int
    token: str  # nobody else has it
    kept: set[str]  # what was committed, as the client was told
    number: int = 0

    def new(self) -> str:
        self.number += 1
        return f"{self.token}.{self.number}"

    def ask(self, *parts: bytes) -> list[Message]:
        read = self.client.ask(*parts)
        for one in read:
            if one.code == "E":
                raise Refused(one.fields)
        return read

    def one_value(self, read: list[Message], wanted: str) -> None:
        check([one.row for one in read if one.code == "D"] == [[wanted.encode()]], read)


def small(v: Visit) -> None:
    for _ in range(v.chance.randrange(1, 8)):
        token = v.new()
        v.one_value(v.ask(query(f"SELECT '{token}'")), token)


def pipelined(v: Visit) -> None:
    tokens = [v.new() for _ in range(5)]
    v.client.send(b"".join(query(f"SELECT '{token}'") for token in tokens))
    for token in tokens:
        v.one_value(v.client.read_until("Z"), token)


def prepared(v: Visit) -> None:
    """A statement with a name, which others have with another text."""
    mark = v.new()
    v.ask(parse(f"SELECT '{mark}' || $1::text", "s"), SYNC)
    for _ in range(3):
        token = v.new()
        read = v.ask(bind(token.encode(), statement="s"), execute(), SYNC)
        v.one_value(read, mark + token)
    v.ask(message("C", b"Ss\0"), SYNC)


def setting(v: Visit) -> None:
    token = v.new().replace(".", "_")
    v.ask(query(f"SET application_name = '{token}'"))
    for _ in range(3):
        v.one_value(v.ask(query("SHOW application_name")), token)


def committed(v: Visit) -> None:
    token = v.new()
    insert = query(f"INSERT INTO ledger VALUES ('{token}')")
    check(v.ask(query("BEGIN"))[-1].body == b"T", "not in a transaction")
    v.ask(insert)
    v.one_value(v.ask(query(f"SELECT t FROM ledger WHERE t = '{token}'")), token)
    check(v.ask(query("COMMIT"))[-1].body == b"I", "still in a transaction")
    v.kept.add(token)


def abandoned(v: Visit) -> None:
    """A transaction is left open, or while it is at something."""
    v.ask(query("BEGIN"))
    v.ask(query(f"INSERT INTO ledger VALUES ('lost {v.new()}')"))
    v.client.send(
        v.chance.choice((b"", TERMINATE, query("SELECT pg_sleep(30)"), b"Q\0\0\0"))
    )
    v.client.close() if v.chance.random() < 0.5 else v.client.reset()


def cancelled(v: Visit) -> None:
    """Asked again and again, for who takes the request may be killed."""
    v.client.send(query("SELECT pg_sleep(60)"))
    answered: list[socket.socket] = []
    while not answered:
        with suppress(OSError), WireClient(v.port) as other:
            other.send(cancel_request(v.client.key))
            with suppress(ConnectionEnded):
                other.read_exactly(1)
        answered, _, _ = select.select([v.client.socket], [], [], 0.3)
    read = v.client.read_until("Z")
    check([one.fields["C"] for one in read if one.code == "E"] == ["57014"], read)


def copy_in(v: Visit) -> None:
    token = v.new()
    v.client.send(query("COPY ledger FROM STDIN"))
    while (one := v.client.read()).code == "N":  # it has waited for long
        continue
    if one.code == "E":
        raise Refused(one.fields)
    check(one.code == "G", one)
    v.client.send(message("d", f"{token}\n".encode()))
    if v.chance.random() < 0.3:
        v.client.reset()
        return
    v.ask(message("c"))
    v.kept.add(token)


def copy_out(v: Visit) -> None:
    v.client.send(query(f"COPY (SELECT generate_series(1, {ROWS})) TO STDOUT"))
    read = [one for one in v.client.read_until("Z") if one.code != "N"]
    check(codes(read) == "H" + "d" * ROWS + "cCZ", codes(read)[:20])


def big(v: Visit) -> None:
    v.client.send(query(f"SELECT repeat('x', {PAGE}) FROM generate_series(1, 30)"))
    if v.chance.random() < 0.3:
        v.client.read()
        v.client.reset()
        return
    rows = [one for one in v.client.read_until("Z") if one.code == "D"]
    check([len(one.body) for one in rows] == [PAGE + 6] * 30, len(rows))


def failing(v: Visit) -> None:
    read = v.client.ask(query("BEGIN; SELECT 1/0"))
    check([one.fields["C"] for one in read if one.code == "E"] == ["22012"], read)
    check(read[-1].body == b"E", read)
    v.ask(query("ROLLBACK"))


def half(v: Visit) -> None:
    """Leaves in the middle of a message, or of a batch."""
    raw = parse("SELECT pg_sleep(30)") + bind() + execute() + FLUSH
    v.client.send(raw[: v.chance.randrange(1, len(raw) + 1)])
    v.client.reset()


ENDS_THE_VISIT = {abandoned, half}
DEEDS: Mapping[Callable[[Visit], None], int] = {
    small: 8, pipelined: 3, prepared: 3, setting: 2, committed: 4, abandoned: 2,
    cancelled: 1, copy_in: 2, copy_out: 1, big: 1, failing: 2, half: 1,
}  # fmt: skip
ONE_BY_ONE = {small, pipelined, prepared, copy_in, copy_out, big, half, cancelled}


def log_in(client: WireClient, user: str, database: str) -> None:
    """As ``WireClient.login``, but what it is refused for can be looked at."""
    client.send(startup(user, database))
    while (one := client.read()).code != "Z":
        if one.code == "E":
            raise Refused(one.fields)
        client.note(one)


def nothing_else(error: Exception) -> bool:
    """Nobody loses anything but with a worker."""
    return False


def network(error: Exception) -> bool:
    """What the loss of a connection may look like: its end, or an error about it."""
    if isinstance(error, Refused):
        fields = error.args[0]
        return bool(fields["S"] == "FATAL" and fields["C"].startswith("08"))
    return isinstance(error, (ConnectionError, ConnectionEnded))


def restart(error: Exception) -> bool:
    """The same while PostgreSQL ends, is away, and recovers (classes 57 and 08)."""
    if isinstance(error, Refused) and error.args[0]["C"].startswith("57P"):
        return True
    return network(error)


@dataclass
class Load:
    """Clients that come, ask and go; what they have seen."""

    pooler: Pooler
    pools: list[tuple[str, str, str]]  # database, user, mode
    deaths: Deaths
    seed: int
    port: int = 0  # where they come in, unless it is the pooler's own
    is_expected: Callable[[Exception], bool] = nothing_else
    # of what it writes, unlike that of any other run
    name: str = field(default_factory=lambda: os.urandom(4).hex())
    visits: int = 0
    deeds: int = 0
    lost: int = 0  # with their workers
    longest_login_s: float = 0.0
    kept: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def _work(self, number: int, stop: threading.Event) -> None:
        chance = random.Random(f"{self.seed} {number}")
        visit = 0
        while not stop.is_set() and not self.problems:
            visit += 1
            self._visit(chance, f"{self.name}.{number}.{visit}")

    def _visit(self, chance: random.Random, token: str) -> None:
        database, user, mode = chance.choice(self.pools)
        begun_s = time.monotonic()
        slot = deed = None
        deeds = 0
        kept: set[str] = set()
        lost = False
        try:
            with WireClient(self.port or self.pooler.port, timeout_s=15) as client:
                log_in(client, user, database)
                logged_in_s = time.monotonic() - begun_s
                slot = client.key[0] & SLOT_BITS
                v = Visit(client, chance, self.port or self.pooler.port, token, kept)
                for _ in range(chance.randrange(1, 6)):
                    deed = chance.choices([*DEEDS], [*DEEDS.values()])[0]
                    if mode == "statement" and deed not in ONE_BY_ONE:
                        continue
                    deed(v)
                    deeds += 1
                    if deed in ENDS_THE_VISIT or client.socket.fileno() < 0:
                        break
        except (OSError, ConnectionEnded, AssertionError) as error:
            lost = self.is_expected(error) or (
                not isinstance(error, (WrongAnswer, TimeoutError))
                and self.deaths.explain(slot, begun_s)
            )
            if not lost:
                self.problems.append(
                    f"{database}/{user} worker {slot}, {deed and deed.__name__},"
                    f" {begun_s:.3f} to {time.monotonic():.3f}, {token}: {error!r}"
                )
            logged_in_s = 0.0
        with self._lock:
            self.visits += 1
            self.deeds += deeds
            self.lost += lost
            self.kept |= kept
            self.longest_login_s = max(self.longest_login_s, logged_in_s)

    def go_on(self, seconds: float) -> None:
        """Return when the time is over, or at the first problem."""
        end_s = time.monotonic() + seconds
        wait_until(lambda: self.problems or time.monotonic() >= end_s, "", seconds + 15)

    def tell(self) -> None:
        """Say what happened, and fail if anything was wrong."""
        print(
            f"{self.visits} visits, {self.deeds} deeds, {len(self.deaths.times)} kills,"
            f" {self.lost} lost, longest login {self.longest_login_s:.2f} s"
        )
        told = "\n".join([*self.problems, f"killed: {self.deaths.times}"])
        assert not self.problems, told

    @contextmanager
    def running(self, clients: int) -> Iterator[None]:
        """As many clients at a time as said, until the block is left."""
        stop = threading.Event()
        threads = [
            threading.Thread(target=self._work, args=(number, stop), daemon=True)
            for number in range(clients)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
        assert not any(thread.is_alive() for thread in threads), "a client hangs"


class Visits(Background):
    """One after the other comes, asks and goes; how long the longest took."""

    def __init__(self, pooler: Pooler, deaths: Deaths) -> None:
        super().__init__()
        self._pooler = pooler
        self._deaths = deaths
        self.count = 0
        self.lost = 0
        self.longest_s = 0.0
        self.problems: list[str] = []

    def _run(self) -> None:
        while not self._stop.is_set():
            begun_s = time.monotonic()
            slot = None
            try:
                with WireClient(self._pooler.port) as client:
                    client.login("chaos_a", "by_transaction")
                    slot = client.key[0] & SLOT_BITS
                    assert client.value("SELECT 1") == "1"
            except (OSError, ConnectionEnded, AssertionError) as error:
                self.lost += 1
                if not self._deaths.explain(slot, begun_s):
                    self.problems.append(f"worker {slot}: {error!r}")
            self.count += 1
            self.longest_s = max(self.longest_s, time.monotonic() - begun_s)


def wait_grown(pooler: Pooler) -> dict[int, int]:
    """The process of each slot, when all are there and would be replaced at once."""

    def ages() -> list[float]:
        rows = shown(pooler, "SHOW WORKERS")
        return [float(str(row["age"] or 0)) for row in rows]

    wait_until(lambda: min(ages()) > Killer.LIVES_S, "all workers serve")
    return slots_of(pooler)


# ---------------------------------------------------------------- the end


def shown(pooler: Pooler, command: str) -> list[dict[str, object]]:
    """The rows of the console's answer."""
    with pooler.connect("pgbouncer", autocommit=True) as console:
        cursor = console.execute(command.encode())
        assert cursor.description is not None
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]


def wait_at_rest(pooler: Pooler, postgres: Postgres, deadline_s: float) -> float:
    """Wait until all accounts say what PostgreSQL says; how long that took."""
    begun_s = time.monotonic()
    seen: list[object] = []

    def is_at_rest() -> bool:
        seen[:] = busy, idle, backends = look_at_accounts(pooler, postgres)
        return not busy and len(backends) == idle

    try:
        wait_until(is_at_rest, "totals are exact", deadline_s)
    except AssertionError:
        raise AssertionError(f"not exact in {deadline_s} s: {seen}") from None
    return time.monotonic() - begun_s


def look_at_accounts(
    pooler: Pooler, postgres: Postgres
) -> tuple[list[object], int, list[tuple[object, ...]]]:
    """What is under way and how many servers are idle by us; PostgreSQL's backends."""
    pools = [
        row for row in shown(pooler, "SHOW POOLS") if row["database"] != "pgbouncer"
    ]
    busy: list[object] = [
        (row["database"], row["user"], name, count)
        for row in pools
        for name, count in row.items()
        if name.startswith(("cl_", "sv_")) and name != "sv_idle" and count
    ]
    idle = sum(int(str(row["sv_idle"])) for row in pools)
    backends = postgres.psql(
        "SELECT pid, client_port, state, wait_event, now() - state_change, query"
        " FROM pg_stat_activity WHERE usename LIKE 'chaos%'"
    )
    return busy, idle, backends
