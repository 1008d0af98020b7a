# SPDX-License-Identifier: MIT
"""What the master keeps of each server connection, and whom it asks to bury it."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from pooler.board.page import Kind, Page, Verdict
from pooler.ipc.bus import MASTER, Bus, BusMessage
from pooler.master import wards as module
from pooler.master.wards import Wards

KNOWN: dict[str, Any] = {"pid": 7, "key": "00ff", "way": None}


class World:
    """The master's side of a bus of two workers, and the servers."""

    def __init__(self) -> None:
        self.bus = Bus.for_slots(2)
        self.page = Page(2, 64)
        self.serving = [0, 1]
        self.processes = {0: 100, 1: 101}
        self.wards = Wards(
            self.bus,
            self.page,
            lambda: self.serving,
            lambda slot: self.processes.get(slot, 0),
        )
        self.servers: dict[int, socket.socket] = {}
        self.places: dict[int, tuple[int, int, int]] = {}

    def hear(
        self, worker: int, kind: str, fd: int | None = None, **more: object
    ) -> None:
        """What the master makes of a message of a worker."""
        fds = () if fd is None else (fd,)
        self.wards.messages[kind](BusMessage(kind, more, fds, worker))

    def open(self, worker: int, *numbers: int) -> None:
        """Servers of a worker that have logged in."""
        for number in numbers:
            ours, theirs = socket.socketpair()
            self.servers[number] = theirs
            self.hear(
                worker,
                "server_opened",
                ours.fileno(),
                number=number,
                database=f"db{number}",
                user="u",
                places=self.places.get(number),
            )
            ours.close()
            self.hear(worker, "server_known", number=number, **KNOWN)

    def count(self, number: int, limit: int = 9) -> tuple[int, int, int]:
        """A server of worker 0 counts in its accounts, which both have open."""
        kinds = {Kind.POOL: ("d", "u"), Kind.DATABASE: ("d",), Kind.USER: ("u",)}
        for row in (0, 1):
            pool, database, user = (
                self.page.open(row, kind, *of) for kind, of in kinds.items()
            )
        taken = self.page.take_server(
            0, pool, database, user, 1,
            pool_limit=limit, database_limit=0, user_limit=0,
        )  # fmt: skip
        assert taken == Verdict.TAKEN
        self.places[number] = pool, database, user
        self.open(0, number)
        return pool, database, user

    def move(self, number: int, *, process: int = 101) -> None:
        """Worker 0 gives a server to worker 1."""
        ours, theirs = socket.socketpair()
        theirs.close()
        self.hear(
            0,
            "server",
            ours.fileno(),
            number=number,
            places=self.places[number],
            to=1,
            process=process,
        )
        ours.close()

    def moved(self, worker: int) -> dict[str, Any] | None:
        """The server that has come to a worker, as the message tells of it."""
        message = self.bus.receive(worker)
        if message is None:
            return None
        assert message.kind == "server"
        assert len(message.fds) == 1
        message.close_fds()
        return message.payload

    def rows(self, account: int) -> list[int]:
        """How many servers count in an account, by rows; the last one is ours."""
        return [self.page.cell(account, row)["servers"] for row in range(3)]

    def asked(self, worker: int) -> list[int]:
        """What a worker is asked to bury."""
        found: list[int] = []
        while (message := self.bus.receive(worker)) is not None:
            assert message.kind == "bury"
            assert len(message.fds) == len(message.payload["servers"])
            found += [row["number"] for row in message.payload["servers"]]
            message.close_fds()
        return sorted(found)

    def has_ended(self, number: int) -> bool:
        """Whether a server sees an end of file."""
        self.servers[number].setblocking(False)
        try:
            return self.servers[number].recv(1) == b""
        except BlockingIOError:
            return False


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.wards.forget()
    made.bus.close()
    for server in made.servers.values():
        server.close()


def test_only_what_a_dead_worker_has_left_is_buried(world: World) -> None:
    world.open(0, 1, 2, 3)
    world.open(1, 4)
    world.hear(0, "server_gone", number=2)
    assert world.has_ended(2), "its copy is closed"
    world.wards.died(0, expected=False)
    assert [world.has_ended(one) for one in (1, 3, 4)] == [True, True, False]
    world.serving = [1]
    world.wards.on_time(0.0)
    assert world.asked(1) == [1, 3]
    world.wards.on_time(1.0)
    assert world.asked(1) == [], "once is enough"
    for number in (1, 3):
        world.hear(1, "server_gone", number=number)
    world.wards.on_time(100.0)
    assert world.asked(1) == []
    assert world.wards.due_s is None


def test_what_is_left_counts_until_it_is_gone(world: World) -> None:
    """And who was refused meanwhile is told of the room, once there is some."""
    page = world.page
    names: dict[Kind, tuple[str, ...]] = {
        Kind.POOL: ("d", "u"),
        Kind.DATABASE: ("d",),
        Kind.USER: ("u",),
    }
    places = [page.open(0, kind, *of) for kind, of in names.items()]
    assert places == [page.open(1, kind, *of) for kind, of in names.items()]
    pool, database, user = places

    def take(row: int) -> Verdict:
        return page.take_server(
            row, pool, database, user, 1,
            pool_limit=2, database_limit=0, user_limit=0,
        )  # fmt: skip

    assert [take(0), take(0)] == [Verdict.TAKEN, Verdict.TAKEN]
    world.places[1] = pool, database, user
    world.open(0, 1)  # the other one was never connected
    world.wards.died(0, expected=False)
    assert [page.total(one, "servers") for one in places] == [1, 1, 1]
    assert [take(1), take(1)] == [Verdict.TAKEN, Verdict.POOL_FULL]
    world.serving = [1]
    world.wards.on_time(0.0)
    assert world.asked(1) == [1]
    world.hear(1, "server_gone", number=1)
    assert [page.total(one, "servers") for one in places] == [1, 1, 1]
    room = world.bus.receive(1)
    assert room is not None
    assert (room.kind, room.payload) == ("room", {"account": pool})
    assert take(1) == Verdict.TAKEN


def test_a_server_counts_where_it_goes_and_is_left_there(world: World) -> None:
    """Whoever dies, and whatever has been heard by then, it counts exactly once."""
    places = world.count(1)
    world.move(1)
    told = world.moved(1)
    assert told is not None
    assert (told["giver"], "undelivered" in told) == (0, False)
    assert [world.rows(one) for one in places] == [[0, 1, 0]] * 3
    world.wards.died(0, expected=False)
    assert [world.rows(one) for one in places] == [[0, 1, 0]] * 3
    world.wards.died(1, expected=False)
    assert [world.rows(one) for one in places] == [[0, 0, 1]] * 3
    assert world.has_ended(1)
    world.serving = [0]
    world.wards.on_time(0.0)
    assert world.asked(0) == [1]


@pytest.mark.parametrize("process", [0, 77])
def test_who_has_died_gets_no_server(world: World, process: int) -> None:
    """The giver has it back; nothing has changed meanwhile."""
    places = world.count(1)
    world.wards.died(1, expected=False)
    world.processes[1] = process
    world.move(1)
    assert world.moved(1) is None
    told = world.moved(0)
    assert told is not None
    assert told["undelivered"] == 1
    assert [world.rows(one) for one in places] == [[1, 0, 0]] * 3
    world.wards.died(0, expected=False)
    assert [world.rows(one) for one in places] == [[0, 0, 1]] * 3


def test_a_server_that_nobody_takes_is_buried(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = world.count(1)
    with monkeypatch.context() as full:
        full.setattr(Bus, "send", lambda *_: False)
        world.move(1)
    assert [world.rows(one) for one in places] == [[0, 0, 1]] * 3
    assert world.has_ended(1)
    assert world.wards.due_s is not None
    world.wards.on_time(world.wards.due_s)
    assert world.asked(0) + world.asked(1) == [1]


def test_a_server_that_does_not_count_comes_back(world: World) -> None:
    """A worker's fault is not the end of the master."""
    places = world.count(1)
    world.page.give_server(0, *places)
    world.move(1)
    told = world.moved(0)
    assert told is not None
    assert told["undelivered"] == 1
    assert [world.rows(one) for one in places] == [[0, 0, 0]] * 3


def test_a_server_that_counts_nowhere_is_buried_as_well(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = world.count(1)
    world.page.give_server(0, *places)
    with monkeypatch.context() as full:
        full.setattr(Bus, "send", lambda *_: False)
        world.move(1)
    assert world.wards.due_s is not None
    world.wards.on_time(world.wards.due_s)
    assert world.asked(0) + world.asked(1) == [1]
    world.hear(0, "server_gone", number=1)
    assert [world.rows(one) for one in places] == [[0, 0, 0]] * 3


def test_they_wait_until_somebody_can_be_asked(world: World) -> None:
    world.open(0, 1)
    world.serving = []
    world.wards.died(0, expected=False)
    world.wards.on_time(0.0)
    assert world.wards.due_s is None
    world.serving = [0]
    world.wards.on_time(0.1)
    assert world.asked(0) == [1]


def test_a_digger_that_dies_or_does_not_finish_has_a_successor(world: World) -> None:
    world.open(0, 1)
    world.wards.died(0, expected=False)
    world.serving = [1]
    world.wards.on_time(0.0)
    assert world.asked(1) == [1]
    world.serving = [0]
    world.wards.died(1, expected=False)
    world.wards.on_time(0.1)
    assert world.asked(0) == [1]
    world.serving = [0, 1]
    world.wards.on_time(0.1 + module.ASK_AGAIN_S)
    assert world.asked(0) + world.asked(1) == [1]


def test_a_full_inbox_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.open(0, 1)
    world.wards.died(0, expected=False)
    world.serving = [1]
    with monkeypatch.context() as full:
        full.setattr(Bus, "send", lambda *_: False)
        world.wards.on_time(5.0)
    assert world.wards.due_s == 5.0 + module.FULL_S
    world.wards.on_time(5.1)
    assert world.asked(1) == [1]


def test_many_with_long_names_go_in_parts(world: World) -> None:
    world.open(0, *range(100))
    for number in range(100):
        way = {"host": "h" * 4000}
        world.hear(0, "server_known", number=number, pid=1, key="", way=way)
    world.wards.died(0, expected=False)
    world.serving = [1]
    world.wards.on_time(0.0)
    assert world.asked(1) == list(range(100))


def test_without_descriptors_there_are_no_wards(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The servers work all the same; the log says once what is missing."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (0, 0))
    world.open(0, 1, 2)
    assert caplog.text.count("no copies of server connections") == 1
    world.wards.died(0, expected=False)
    world.wards.on_time(0.0)
    assert world.asked(0) + world.asked(1) == []


def test_a_fork_has_none_of_them(world: World) -> None:
    world.open(0, 1)
    world.wards.forget()
    assert world.has_ended(1)
    world.wards.died(0, expected=False)
    world.wards.on_time(0.0)
    assert world.asked(0) + world.asked(1) == []
    assert world.bus.receive(MASTER) is None
