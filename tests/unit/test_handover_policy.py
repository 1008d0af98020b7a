# SPDX-License-Identifier: MIT
"""Who gets the servers of a pool that several workers share: simulated, with scores.

No process, no socket, a clock of its own: the decisions are the engine's
(``session/sharing``) and those of ``worker/handover``; all else is played.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.ext._probe import sharing

from pooler.board.page import Kind, Page
from pooler.config.kinds import MAX_WORKERS
from pooler.io.engine import Engine
from pooler.ipc.bus import BusMessage
from pooler.worker.handover import MOST_UNANSWERED, Handover

MESSAGE_US = 150  # on the bus, until the other loop turns
NOTICE_US = 30  # until Python sees what the engine has left
OVERTAKING_US = 50_000
KEY = ("db", "user")


@dataclass(slots=True)
class ThePool:
    pool_id: int = 0
    key: tuple[str, str] = KEY


@dataclass(slots=True)
class Client:
    came_us: int
    worker: int
    served_us: int = 0


class World:
    """A clock, workers, and what is seen of them."""

    def __init__(self, workers: int, seed: int = 1, moves: bool = True) -> None:
        self.now_us = 1_000_000
        self.chance = random.Random(seed)
        self.moves_on = moves
        self.page = Page(workers, 64)
        self.account = self.page.open(0, Kind.POOL, *KEY)
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.stopped: dict[int, int] = {}  # when the worker in a slot has stopped
        self.full = False  # no inbox takes anything
        self.answers_are_lost = False
        self.waiting: list[Client] = []  # of all workers
        self.overtaken_us = 0
        self.waits_us: list[int] = []
        self.done = 0
        self.workers = [SimWorker(self, row) for row in range(workers)]

    def at(self, delay_us: float, what: Callable[[], None]) -> None:
        entry = (self.now_us + int(delay_us), next(self.order), what)
        heapq.heappush(self.events, entry)

    def run(self, for_us: int) -> None:
        end_us = self.now_us + for_us
        while self.events and self.events[0][0] <= end_us:
            self.now_us, _, what = heapq.heappop(self.events)
            what()
        self.now_us = end_us

    @property
    def moved(self) -> int:
        return sum(one.handover.counts[KEY]["given"] for one in self.workers)

    def note_served(self, client: Client) -> None:
        client.served_us = self.now_us
        self.done += 1
        self.waits_us.append(self.now_us - client.came_us)
        with suppress(ValueError):
            self.waiting.remove(client)
        for other in self.waiting:
            if other.worker not in self.stopped:
                self.overtaken_us = max(
                    self.overtaken_us, client.came_us - other.came_us
                )


class SimWorker:
    """The engine of one worker, and the rest of what ``Handover`` needs."""

    def __init__(self, world: World, row: int) -> None:
        self.world = world
        self.row = row
        self.missed: list[Callable[[], None]] = []  # what has come while it stood still
        self.idle: list[int] = []  # the one used last is the last
        self.aside: set[int] = set()
        self.waiting: deque[Client] = deque()
        self.service: Callable[[], float] = lambda: 1000.0
        self.on_done: Callable[[Client], None] = lambda client: None
        self.noted = False
        self.shunned = 0
        self.window_us = 0
        self.put_aside = 0
        self.handover = Handover(
            self,
            self,
            self,
            later=lambda delay_s, what: world.at(delay_s * 1e6, what),
            process_of=lambda slot: os.getpid(),
            beat_age_s=lambda slot: (
                (world.now_us - world.stopped.get(slot, world.now_us)) / 1e6
            ),
        )
        self.handover.counts[KEY] = Counter()

    # What the engine does.

    def show(self) -> None:
        page, row, account = self.world.page, self.row, self.world.account
        page.set(row, account, "idle", len(self.idle))
        page.set(row, account, "waiting", len(self.waiting))
        since_us = self.waiting[0].came_us if self.waiting else 0
        page.set(row, account, "waiting_since_us", since_us)

    def look(self) -> tuple[int, int, bool]:
        world = self.world
        if not world.moves_on:
            return -1, -1, False
        found: tuple[int, int, bool] = sharing(
            world.page, world.account, self.row, world.now_us, shunned=self.shunned
        )
        return found

    def note(self) -> None:
        if not self.noted and self.look()[2]:
            self.noted = True
            self.world.at(NOTICE_US, lambda: self.handover.uneven(ThePool()))

    def stands_still(self, event: Callable[[], None]) -> bool:
        if self.row in self.world.stopped:
            self.missed.append(event)
            return True
        return False

    def come(self, client: Client) -> None:
        if self.stands_still(lambda: self.come(client)):
            return
        if self.idle and not self.waiting:
            self.begin(self.idle.pop(), client)
        else:
            self.waiting.append(client)
            self.world.waiting.append(client)
        self.show()
        self.note()

    def begin(self, server: int, client: Client) -> None:
        self.world.note_served(client)
        self.world.at(self.service(), lambda: self.end(server, client))

    def end(self, server: int, client: Client) -> None:
        if self.stands_still(lambda: self.end(server, client)):
            return
        self.free(server)
        self.on_done(client)

    def free(self, server: int) -> None:
        serve = self.look()[0]
        if serve >= 0 and self.may_put_aside(serve):
            self.aside.add(server)
            self.world.at(
                NOTICE_US, lambda: self.handover.offered(ThePool(), server, serve)
            )
        else:
            self.keep(server)

    def may_put_aside(self, row: int) -> bool:
        """As the engine: no more in a moment than wait there."""
        world = self.world
        if world.now_us - self.window_us > 2000:
            self.window_us, self.put_aside = world.now_us, 0
        waiting = world.page.cell(world.account, row)["waiting"]
        self.put_aside += 1
        return self.put_aside <= waiting

    def keep(self, server: int) -> None:
        if self.waiting:
            self.begin(server, self.waiting.popleft())
        else:
            self.idle.append(server)
        self.show()
        self.note()

    # What Handover asks of the engine.

    def pool_look(self, pool_id: int) -> tuple[int, int, bool]:
        return self.look()

    def pool_even(self, pool_id: int) -> None:
        self.noted = False

    def pool_idle_servers(self, pool_id: int) -> list[int]:
        return list(self.idle)

    def pool_stats(self, pool_id: int) -> dict[str, int]:
        return {"waiting": len(self.waiting)}

    def pool_let_go(self, pool_id: int) -> None:
        pass

    def server_stay(self, handle: int) -> None:
        self.aside.discard(handle)
        self.keep(handle)

    def shun(self, rows: int) -> None:
        lifted = self.shunned & ~rows
        self.shunned = rows
        if lifted:
            self.note()

    # The bus.

    def send(
        self, slot: int, kind: str, payload: dict[str, Any], fds: Sequence[int] = ()
    ) -> bool:
        if self.world.full:
            return False
        if kind == "got" and self.world.answers_are_lost:
            return True  # who was to send it has died
        copies = tuple(os.dup(fd) for fd in fds)
        message = BusMessage(kind, payload, copies, self.row)
        self.world.at(MESSAGE_US, lambda: self.world.workers[slot].receive(message))
        return True

    def receive(self, message: BusMessage) -> None:
        if self.stands_still(lambda: self.receive(message)):
            return
        self.handover.messages[message.kind](message)
        message.close_fds()

    # The carrier.

    def pool_of(self, key: tuple[str, str]) -> ThePool:
        return ThePool()

    def send_off(self, handle: int, row: int) -> tuple[int, dict[str, Any]] | None:
        if handle in self.aside:
            self.aside.discard(handle)
        elif handle in self.idle:
            self.idle.remove(handle)
        else:
            return None
        self.show()
        return os.open(os.devnull, os.O_RDONLY), {"pool": KEY, "server": handle}

    def bury(self, fd: int, told: dict[str, Any]) -> None:
        os.close(fd)

    def take_in(self, fd: int, told: dict[str, Any]) -> bool:
        os.close(fd)
        self.keep(told["server"])
        return True


@dataclass(slots=True)
class Load:
    """Clients that ask again behind each answer (closed), or come anyway (open)."""

    clients: Sequence[int]  # of each worker
    servers: Sequence[int]
    service_us: float = 2000.0
    think_us: float = 0.0
    long_every: int = 0  # one in so many takes 20 times as long
    seconds: float = 4.0
    at_rest: Counter[int] = field(default_factory=Counter)

    def play(self, world: World) -> None:
        numbers = itertools.count()
        for worker, count in zip(world.workers, self.servers, strict=True):
            worker.idle = [next(numbers) for _ in range(count)]
            worker.service = lambda: self.service_time(world)
            worker.show()

        for worker, count in zip(world.workers, self.clients, strict=True):
            worker.on_done = lambda client: world.at(
                self.think(world), lambda: self.come(world, client.worker)
            )
            for _ in range(count):
                delay_us = world.chance.uniform(0, 5000)
                row = worker.row
                world.at(delay_us, lambda row=row: self.come(world, row))  # type: ignore[misc]
        world.run(int(self.seconds * 1e6))

    def come(self, world: World, row: int) -> None:
        world.workers[row].come(Client(world.now_us, row))

    def think(self, world: World) -> float:
        if not self.think_us:
            return 50.0
        return world.chance.expovariate(1 / self.think_us)

    def service_time(self, world: World) -> float:
        long = self.long_every and world.chance.randrange(self.long_every) == 0
        mean_us = self.service_us * (20 if long else 1)
        return max(50.0, world.chance.expovariate(1 / mean_us))


LOADS = {
    "one server, both wait": Load([5, 5], [1, 0]),
    "one server, many wait": Load([40, 40], [0, 1], service_us=500),
    "one server, uneven": Load([2, 30], [1, 0]),
    "all servers at the other one": Load([0, 20], [10, 0]),
    "few here, many there": Load([3, 40], [10, 10]),
    "four workers": Load([10, 10, 10, 10], [8, 0, 0, 0]),
    "four workers, uneven": Load([1, 2, 4, 40], [2, 2, 2, 2]),
    "some are long": Load([20, 20], [4, 4], long_every=20),
    "not full": Load([12, 12], [5, 5], think_us=8000),
    "hardly full": Load([20, 20], [5, 5], think_us=6000),
    "three, thinking": Load([5, 15, 30], [4, 4, 4], think_us=6000),
}


def mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0


@pytest.mark.parametrize("name", LOADS)
def test_scores(name: str) -> None:
    load = LOADS[name]
    world = World(len(load.servers))
    load.play(world)
    servers = sum(load.servers)
    seconds = load.seconds
    one = World(1)  # all in one process: what PgBouncer would do
    Load(
        [sum(load.clients)],
        [servers],
        load.service_us,
        load.think_us,
        load.long_every,
        seconds,
    ).play(one)
    worst = sorted(world.waits_us)[int(len(world.waits_us) * 0.99)]
    worst_of_one = sorted(one.waits_us)[int(len(one.waits_us) * 0.99)]
    print(
        f"{name}: passed by {world.overtaken_us / 1000:.1f} ms later; wait"
        f" {mean(world.waits_us) / 1000:.2f} ms (one: {mean(one.waits_us) / 1000:.2f}),"
        f" p99 {worst / 1000:.1f} (one: {worst_of_one / 1000:.1f}); done"
        f" {world.done} (one: {one.done}); {world.moved / seconds:.1f} moves/s"
    )
    assert world.overtaken_us < OVERTAKING_US
    assert world.done > one.done * 0.9
    assert mean(world.waits_us) < mean(one.waits_us) * 1.15 + 1500
    assert worst < worst_of_one * 1.3 + OVERTAKING_US
    assert world.moved < seconds * 60 * servers
    total = sum(len(one.idle) + len(one.aside) for one in world.workers)
    assert total <= servers


def test_the_last_of_as_many_workers_as_may_be() -> None:
    page, row = Page(MAX_WORKERS, 8), MAX_WORKERS - 1
    account = page.open(row, Kind.POOL, *KEY)
    page.set(row, account, "waiting", 1)
    page.set(row, account, "waiting_since_us", 1)
    page.set(0, account, "idle", 1)
    page.set(0, account, "idle_since_us", 1)
    assert sharing(page, account, 0, 1_000_000) == (row, -1, True)
    assert sharing(page, account, row, 1_000_000) == (-1, 0, True)
    shunned = 1 << row
    assert sharing(page, account, 0, 1_000_000, shunned=shunned) == (-1, -1, False)
    Engine((), statement_prefix=b"p").shun(shunned)


def test_a_worker_that_hangs_swallows_few() -> None:
    """It looks as if its clients waited for ever; those of the others are served."""
    world = World(2)
    load = Load([20, 20], [4, 4], seconds=1.0)
    load.play(world)
    hung, other = world.workers[1], world.workers[0]
    assert hung.waiting
    given = other.handover.counts[KEY]["given"]
    world.stopped[1] = world.now_us
    world.run(1_000_000)
    before = world.done
    world.run(4_000_000)
    assert other.shunned == 2
    assert other.handover.counts[KEY]["given"] - given <= MOST_UNANSWERED
    assert world.done - before > 4 * (4 - MOST_UNANSWERED) / 0.002 * 0.8

    del world.stopped[1]  # it goes on, and so does all that it has
    for again in hung.missed:
        again()
    world.run(2_000_000)
    assert other.shunned == 0
    before = world.done
    world.run(1_000_000)
    assert world.done - before > 8 / 0.002 * 0.8
    assert other.handover.counts[KEY]["given"] - given > MOST_UNANSWERED


def test_answers_that_are_lost_are_not_waited_for() -> None:
    """Workers that die as they have got a server: their successors get some, too."""
    world = World(2)
    world.answers_are_lost = True
    Load([20, 20], [8, 0], seconds=0.5).play(world)
    world.answers_are_lost = False
    counts = [one.handover.counts[KEY] for one in world.workers if one.shunned]
    before = [one["given"] for one in counts]
    assert before
    world.run(3_000_000)
    assert all(one["given"] > n for one, n in zip(counts, before, strict=True))


def test_who_cannot_be_told_is_given_nothing() -> None:
    """A full inbox: servers come back, and work here."""
    world = World(2)
    world.full = True
    load = Load([1, 20], [4, 0], seconds=1.0)
    load.play(world)
    one = world.workers[0]
    assert one.handover.counts[KEY]["given"] == 0
    assert one.shunned == 0 or len(one.idle) >= 3
    world.full = False
    world.run(2_000_000)
    before = world.done
    world.run(1_000_000)
    assert world.done - before > 4 / 0.002 * 0.8
