# SPDX-License-Identifier: MIT
"""Refused logins: late answers, limits of an address, lines in a flood."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from pooler import log
from pooler.config.settings import Settings
from pooler.errors import INVALID_PASSWORD, LoginError
from pooler.io.engine import Engine
from pooler.worker import refusals
from pooler.worker.refusals import (
    LINES_AT_ONCE,
    FailureTable,
    FloodLog,
    Refusals,
    TooManyFailuresError,
    address_of,
)

WRONG = LoginError("password authentication failed", INVALID_PASSWORD, why="wrong")
HOST = "192.0.2.1"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []

    def write(_level: int, line: str, *, tag: str = "") -> None:
        seen.append(f"{tag} {line}".strip())

    monkeypatch.setattr(log, "write", write)
    return seen


class EngineOfTest:
    """The clients that are there, and how each was sent away."""

    def __init__(self) -> None:
        self.hosts: dict[int, str] = {}
        self.told: list[int] = []

    def client_age_us(self, handle: int) -> int:
        return 7_900_000

    def client_peer(self, handle: int) -> tuple[str, int]:
        return self.hosts[handle], 5000 + handle

    def client_close(self, handle: int, _reason: int, farewell: bytes) -> None:
        assert farewell == b"farewell"
        self.told.append(handle)


class World:
    def __init__(self, workers: int = 1, **settings: object) -> None:
        self.engine = EngineOfTest()
        self.settings = dataclasses.replace(Settings(), **cast("Any", settings))
        self.refusals = Refusals(
            cast("Engine", self.engine), lambda: self.settings, workers
        )

    def refuse(
        self,
        handle: int,
        host: str = HOST,
        *,
        failed: bool = True,
        error: LoginError = WRONG,
    ) -> None:
        self.engine.hosts[handle] = host
        self.refusals.refuse(handle, error, "db/user", b"farewell", failed=failed)


def play(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


ENDS = ((2, f"{HOST}:5002"), (3, "unix:5003"), (1, f"{HOST}:5001"))


def test_a_wrong_proof_is_answered_late(lines: list[str]) -> None:
    async def work() -> None:
        world = World(failed_login_delay=0.05)
        loop = asyncio.get_running_loop()
        before_s = loop.time()
        world.refuse(1)
        world.refuse(2, failed=False)
        world.refuse(3, "unix")
        assert world.engine.told == [2, 3]
        assert world.refusals.holds(1)
        while world.refusals.holds(1):
            await asyncio.sleep(0)
        assert loop.time() - before_s >= 0.05
        assert world.engine.told == [2, 3, 1]

    play(work)
    expected = f"C-0x1: db/user@{HOST}:5001 pooler error: {WRONG.message}: wrong"
    assert lines[0] == expected
    reasons = [
        line.split(" closing because: ")[0] for line in lines if "age=7s" in line
    ]
    assert reasons == [f"C-0x{n}: db/user@{where}" for n, where in ENDS]


def test_without_a_delay(lines: list[str]) -> None:
    async def work() -> None:
        world = World(failed_login_delay=0.0)
        world.refuse(1)
        assert world.engine.told == [1]

    play(work)


@pytest.mark.parametrize(
    ("settings", "room"),
    [
        ({"max_client_conn": 8}, 2),
        ({"max_client_conn": 8, "workers": 2}, 1),
        ({"max_client_conn": 1}, 1),
        ({"max_client_conn": 100_000}, refusals.HELD_MAX),
    ],
)
def test_places_are_not_used_up(
    lines: list[str], settings: dict[str, int], room: int
) -> None:
    """Who was refused first hears of it early; who leaves gives his place back."""

    async def work() -> None:
        workers = settings.pop("workers", 1)
        world = World(workers, failed_login_delay=60.0, **settings)
        for handle in range(room + 2):
            world.refuse(handle)
        assert world.engine.told == [0, 1]
        for _ in range(2):
            world.refusals.closed(2, "db/user", (HOST, 5002), 0, "")
        world.refuse(room + 2)
        assert world.engine.told == [0, 1]
        world.refusals.end()
        assert world.engine.told == [0, 1, *range(3, room + 3)]

    play(work)


def test_an_address_with_too_many_failures(
    lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its failures come back with time; being refused unheard is none."""
    now_s = 100.0
    monkeypatch.setattr(
        refusals, "FailureTable", lambda: FailureTable(clock=lambda: now_s)
    )
    world = World(max_failed_logins=6, failed_login_delay=0.0)
    world.engine.hosts = {1: HOST, 2: "192.0.2.2", 3: "unix"}

    async def work() -> None:
        nonlocal now_s
        for _ in range(6):
            world.refusals.check_address(1)
            world.refuse(1)
        for _ in range(3):
            with pytest.raises(TooManyFailuresError) as caught:
                world.refusals.check_address(1)
            world.refuse(1, error=caught.value)
        world.refusals.check_address(2)
        for _ in range(20):
            world.refuse(3, "unix")
            world.refusals.check_address(3)
        now_s += 10.0
        world.refusals.check_address(1)
        world.refuse(1)
        with pytest.raises(TooManyFailuresError):
            world.refusals.check_address(1)
        world.settings = dataclasses.replace(world.settings, max_failed_logins=0)
        world.refusals.check_address(1)

    play(work)


def test_the_table_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MAX_ADDRESSES", 3)
    table = FailureTable()
    for last in (1, 2, 3, 1, 4, 5):
        table.failed(f"192.0.2.{last}", 1)
    assert len(table) == 3
    assert [table.may_try(f"192.0.2.{last}", 1) for last in (1, 2, 3, 4, 5)] == [
        False,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("?", "?"),
    ],
)
def test_what_is_one_address(host: str, address: str) -> None:
    assert address_of(host) == address


def test_a_flood_of_lines(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Some are written, the others counted, and the count is told."""
    monkeypatch.setattr(refusals, "COUNT_PERIOD_S", 0.05)

    async def work() -> None:
        flood = FloodLog("refusals")
        told.append(sum(flood.may_write() for _ in range(5_000)))
        while not lines:
            await asyncio.sleep(0)
        told.append(flood.may_write())
        flood.flush()

    told: list[int] = []
    play(work)
    counts = [int(line.split()[2]) for line in lines if line.startswith("… and")]
    assert all(line.endswith("more refusals") for line in lines if line[0] == "…")
    assert sum(told) + sum(counts) == 5_001
    assert LINES_AT_ONCE <= sum(told) < 5_000
