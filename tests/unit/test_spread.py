# SPDX-License-Identifier: MIT
"""Engines that pass fresh client sockets to each other."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator

import pytest

from pooler.io.engine import Engine
from pooler.ipc.board import Board
from pooler.ipc.doors import Doors
from pooler.worker.listening import COLUMNS

SLOTS = 3
LONG_AGO_US = 1


def now_us() -> int:
    return time.monotonic_ns() // 1000


class Workers:
    """Engines of several slots in one process; slot 0 has a listening socket."""

    def __init__(self) -> None:
        self.board = Board.for_slots(SLOTS)
        self.doors = Doors.for_slots(SLOTS)
        self.engines = [Engine([]) for _ in range(SLOTS)]
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.clients: list[socket.socket] = []
        for slot, engine in enumerate(self.engines):
            self.configure(slot, on=True)
            engine.add_door(socket.dup(self.doors.inner(slot)), slot)
            self.board.set(slot, "serves", 1)
            self.board.set(slot, "heartbeat_us", now_us())
        self.engines[0].add_listener(socket.dup(self.listener.fileno()), False)

    def configure(self, slot: int, *, on: bool) -> None:
        self.engines[slot].spread_configure(
            on=on,
            slot=slot,
            doors=self.doors.outer(),
            **{key: self.board.column(name) for key, name in COLUMNS.items()},
        )

    def arrive(self, count: int) -> None:
        """So many connections are made, then slot 0 accepts."""
        for _ in range(count):
            self.clients.append(socket.create_connection(self.listener.getsockname()))
            self.engines[0].run(0)

    def turn(self) -> list[int]:
        """Let all look at their doors; how many clients each has."""
        for engine in self.engines:
            engine.run(0)
        return [engine.client_count for engine in self.engines]

    def coming(self) -> list[int]:
        return [self.board.get(slot, "coming") for slot in range(SLOTS)]

    def close(self) -> None:
        for engine in self.engines:
            engine.close()
        for client in self.clients:
            client.close()
        self.listener.close()
        self.doors.close()


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers()
    yield made
    made.close()


def test_a_burst_is_spread_while_it_is_on_its_way(workers: Workers) -> None:
    workers.arrive(90)  # nobody has looked at a door yet
    sent = workers.coming()
    assert sum(sent) == 90 - workers.engines[0].client_count > 0
    assert abs(sent[1] - sent[2]) <= 1
    counts = workers.turn()
    while sum(counts) < 90:
        counts = workers.turn()
    assert max(counts) <= 1.25 * 30 + 2
    workers.turn()
    assert workers.coming() == [0, 0, 0]
    for slot, engine in enumerate(workers.engines):
        assert workers.board.get(slot, "connections") == engine.client_count


def test_what_was_passed_on_is_a_client_like_any_other(workers: Workers) -> None:
    workers.board.set(0, "connections", 50)
    workers.arrive(0)
    client = socket.create_connection(workers.listener.getsockname())
    workers.clients.append(client)
    workers.board.set(0, "connections", 50)
    workers.engines[0].run(0)
    client.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")
    assert [engine.client_count for engine in workers.engines] == [0, 0, 0]
    workers.turn()
    workers.turn()
    (owner,) = [one for one in workers.engines if one.client_count]
    ((_, handle, *_),) = owner.take_notices()
    assert owner.client_peer(handle) == client.getsockname()[:2]
    assert owner.login_bytes(handle) == b"\0\0\0\x08\x04\xd2\x16\x2f"


@pytest.mark.parametrize(
    ("column", "value"), [("serves", 0), ("heartbeat_us", LONG_AGO_US)]
)
def test_who_does_not_serve_gets_none(
    workers: Workers, column: str, value: int
) -> None:
    workers.board.set(1, column, value)
    workers.arrive(40)
    assert workers.coming()[1] == 0
    assert workers.coming()[2] > 0


def test_nobody_else_serves(workers: Workers) -> None:
    workers.board.set(1, "serves", 0)
    workers.board.set(2, "serves", 0)
    workers.arrive(20)
    assert workers.turn() == [20, 0, 0]


def test_off(workers: Workers) -> None:
    workers.configure(0, on=False)
    workers.arrive(20)
    assert workers.turn() == [20, 0, 0]


def test_a_door_that_is_full_keeps_the_client_here(workers: Workers) -> None:
    for fd in workers.doors.outer()[1:]:
        with socket.socket(fileno=os.dup(fd)) as door, contextlib.suppress(OSError):
            while True:
                door.send(b"C")
    workers.arrive(20)
    assert workers.engines[0].client_count == 20
    assert workers.coming() == [0, 0, 0]


def test_a_client_that_left_on_the_way_is_forgotten(workers: Workers) -> None:
    workers.board.set(0, "connections", 50)
    client = socket.create_connection(workers.listener.getsockname())
    workers.engines[0].run(0)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    for _ in range(3):
        workers.turn()
    assert workers.turn() == [0, 0, 0]
    assert workers.coming() == [0, 0, 0]
