# SPDX-License-Identifier: MIT
"""Places for servers of one worker, and who is told that there is room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from pooler.board.page import Page, Verdict
from pooler.errors import LoginError
from pooler.ipc.bus import Bus
from pooler.worker.accounts import Accounts, Limits

ONE = Limits(pool=1, database=0, user=0)
TAKEN, POOL_FULL = Verdict.TAKEN, Verdict.POOL_FULL


class World:
    """Two workers that share a page."""

    def __init__(self) -> None:
        self.page = Page(2, 8)
        buses = Bus.for_slots(2)
        self.buses = [buses, buses]
        self.workers = [Accounts(self.page, slot, buses) for slot in range(2)]
        self.places = [one.open("d", "u") for one in self.workers]
        self.told: list[str] = []

    def take(self, slot: int, who: Callable[[], None]) -> Verdict:
        return self.workers[slot].take(self.places[slot], ONE, who)

    def waiter(self, name: str) -> Callable[[], None]:
        return lambda: self.told.append(name)

    def deliver(self) -> None:
        for slot, accounts in enumerate(self.workers):
            while (message := self.buses[slot].receive(slot)) is not None:
                assert message.kind == "room"
                accounts.heard_room(message)

    def run(self, play: Callable[[], None]) -> None:
        async def body() -> None:
            play()

        asyncio.run(body())


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.buses[0].close()


def test_who_was_refused_hears_of_room_in_any_worker(world: World) -> None:
    def play() -> None:
        assert world.take(0, world.waiter("a")) is TAKEN
        assert world.take(0, world.waiter("a")) is POOL_FULL
        assert world.take(1, world.waiter("b")) is POOL_FULL
        world.workers[0].give(world.places[0])
        assert world.told == ["a"]
        world.deliver()
        assert world.told == ["a", "b"]
        assert world.take(1, world.waiter("b")) is TAKEN

    world.run(play)


def test_who_waits_no_more_is_told_once(world: World) -> None:
    def play() -> None:
        assert world.take(0, world.waiter("a")) is TAKEN
        assert world.take(1, world.waiter("b")) is POOL_FULL
        for _ in range(3):
            world.workers[0].give(world.places[0])
            world.deliver()
            assert world.take(0, world.waiter("a")) is TAKEN
        assert world.told == ["b"]
        assert world.page.wanting(world.places[0].pool) == []

    world.run(play)


def test_who_does_not_wait_is_not_told(world: World) -> None:
    def play() -> None:
        assert world.take(0, world.waiter("a")) is TAKEN
        assert world.workers[1].try_take(world.places[1], ONE) is POOL_FULL
        assert world.page.wanting(world.places[0].pool) == []

    world.run(play)


def test_a_lost_message_costs_a_moment(world: World) -> None:
    async def play() -> None:
        assert world.take(0, world.waiter("a")) is TAKEN
        heard = asyncio.Event()
        assert world.take(1, heard.set) is POOL_FULL
        world.page.give_server(0, *world.places[0])  # nobody is told
        async with asyncio.timeout(5):
            await heard.wait()

    asyncio.run(play())


def test_a_full_page_refuses_the_pool(world: World) -> None:
    accounts = world.workers[0]
    with pytest.raises(LoginError, match="more than 8 pools"):
        for name in range(8):
            accounts.open(str(name), str(name))
