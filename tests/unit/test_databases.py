# SPDX-License-Identifier: MIT
"""Which idle servers go when somebody makes or drops a database."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pooler.errors import LoginError
from pooler.ipc.bus import BusMessage, pack
from pooler.worker import databases
from pooler.worker.databases import Databases

FAILURE = LoginError('database "new" does not exist', "3D000")
OTHER_FAILURE = LoginError("no password", "28P01")


class Backoff:
    def __init__(self, failure: LoginError | None) -> None:
        self.failure = failure

    def forget(self) -> None:
        self.failure = None


@dataclass
class ThePool:
    name: str
    clients: int = 0
    dbname: str | None = None
    failure: LoginError | None = None
    is_console: bool = False
    backoff: Backoff = field(init=False)

    def __post_init__(self) -> None:
        self.database = SimpleNamespace(name=self.name, dbname=self.dbname)
        self.backoff = Backoff(self.failure)


Mail = dict[int, list[BusMessage]]


class TheBus:
    """As one of the workers sees it; what is sent lies in ``mail``."""

    def __init__(self, own_slot: int, slots: int, mail: Mail) -> None:
        self.own_slot, self.slots, self._mail = own_slot, slots, mail

    def send(self, slot: int, kind: str, payload: dict[str, Any]) -> bool:
        message = BusMessage(kind, json.loads(pack(payload)), (), self.own_slot)
        self._mail.setdefault(slot, []).append(message)
        return True


class World:
    """Workers with their pools."""

    def __init__(self, *workers: list[ThePool]) -> None:
        self.cell = [0]
        self._mail: Mail = {}
        self.workers = [
            Worker(TheBus(slot, len(workers), self._mail), self.cell, pools)
            for slot, pools in enumerate(workers)
        ]

    def deliver(self, slot: int) -> None:
        for message in self._mail.pop(slot, []):
            self.workers[slot].databases.heard(message)

    @property
    def replaced(self) -> list[list[str]]:
        return [one.replaced for one in self.workers]


class Worker:
    """Its own links are told of by the names of entries."""

    def __init__(self, bus: TheBus, cell: list[int], pools: list[ThePool]) -> None:
        self.replaced: list[str] = []
        self.let_go: list[str] = []
        self._by_name = {one.name: one.database for one in pools}
        fake = SimpleNamespace(
            all=lambda: pools,
            shared=lambda: pools,
            stats=lambda pool: {"clients": pool.clients},
            replace_servers=lambda pool: self.replaced.append(pool.name),
            database=self._by_name.get,
            own_links=SimpleNamespace(let_go=self._let_go),
        )
        self.databases = Databases(
            cast(Any, SimpleNamespace(database_commands=lambda: cell[0])),
            cast(Any, fake),
            cast(Any, bus),
        )

    def _let_go(self, is_unused: Callable[[str], bool]) -> None:
        self.let_go = [name for name in [*self._by_name, "no more"] if is_unused(name)]


def test_one_worker() -> None:
    pools = [
        ThePool("idle"),
        ThePool("used", 1),
        ThePool("alias", dbname="used"),
        ThePool("new", failure=FAILURE),
        ThePool("wrong", 1, failure=OTHER_FAILURE),
    ]
    world = World(pools)
    (worker,) = world.workers
    worker.databases.look()
    assert worker.replaced == []
    world.cell[0] += 1
    worker.databases.look()
    assert worker.replaced == ["idle", "new"]
    assert worker.let_go == ["idle", "new", "no more"]
    assert pools[3].backoff.failure is None
    assert pools[4].backoff.failure is OTHER_FAILURE
    worker.databases.look()
    assert worker.replaced == ["idle", "new"]


def test_all_have_to_tell() -> None:
    world = World([ThePool("a"), ThePool("b")], [ThePool("a", 1), ThePool("b")], [])
    world.cell[0] += 1
    world.workers[0].databases.look()
    world.deliver(1)  # who hears of it looks as well
    world.deliver(0)
    assert world.replaced == [[], [], []]
    world.deliver(2)
    world.deliver(0)
    world.deliver(1)
    assert world.replaced == [["b"], ["b"], []]


def test_what_was_told_of_another_command_does_not_count() -> None:
    world = World([ThePool("a")], [ThePool("b")])
    world.cell[0] += 1
    world.workers[1].databases.look()
    world.cell[0] += 1
    world.deliver(0)
    assert world.replaced == [[], []]
    world.deliver(1)
    world.deliver(0)
    assert world.replaced == [["a"], ["b"]]


def test_too_many_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then any database may be in use."""
    monkeypatch.setattr(databases, "MOST_BYTES", 3)
    world = World([ThePool("idle")], [ThePool("used", 1)])
    world.cell[0] += 1
    world.workers[0].databases.look()
    world.deliver(1)
    world.deliver(0)
    assert world.replaced == [[], []]
