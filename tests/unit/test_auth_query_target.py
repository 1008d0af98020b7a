# SPDX-License-Identifier: MIT
"""The connections of auth_query: how many, how long, and what becomes of lost ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from pooler.config.loading import load_text
from pooler.errors import LoginError
from pooler.login import packets
from pooler.login.md5 import md5_secret
from pooler.login.server import ServerLoginError
from pooler.worker import auth_query
from pooler.worker.auth_query import CONNECTIONS, Target
from pooler.worker.lookup import LostError

INI = """
[databases]
shop = host=db.example user=boss password=other connect_query='SELECT 1'
  client_encoding=latin1 timezone=Mars
[pgbouncer]
server_login_retry = 15
auth_query_timeout = 1.5
"""
HASH = md5_secret("secret", "asker")
NO_ROWS = (
    packets.message(b"1")
    + packets.message(b"T", bytes([0, 2]) + (b"x\0" + bytes(18)) * 2)
    + packets.message(b"C", b"SELECT 0\0")
    + packets.ready_for_query()
)


class FakeLink:
    """A server that answers when it is told to."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed = False

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    async def receive(self) -> bytes:
        return await self.answers.get()

    def close(self) -> None:
        self.closed = True


class World:
    """A Target, and all the links that it has opened."""

    def __init__(self) -> None:
        self.links: list[FakeLink] = []
        self.opened: list[tuple[Any, ...]] = []
        self.refusal: LoginError | None = None
        config = load_text(INI.replace("'\n  client", "' client"), "p.ini")
        pools: Any = SimpleNamespace(
            config=SimpleNamespace(
                settings=config.settings,
                userlist={"asker": SimpleNamespace(text=HASH)},
            ),
            own_links=self,
        )
        self.target = Target(pools, config.databases["shop"], "asker")

    async def open(self, database: Any, user: str, scram_keys: Any) -> Any:
        """As ``ServerOpener`` does."""
        self.opened.append((database, user, scram_keys))
        if self.refusal is not None:
            raise self.refusal
        self.links.append(FakeLink())
        return SimpleNamespace(
            link=self.links[-1],
            early=b"",
            greeting=SimpleNamespace(scram_keys=len(self.links), backend_pid=1),
            way=SimpleNamespace(address="there"),
        )

    def idle(self, names: tuple[str, str], evict: Any) -> None:
        """As ``OwnLinks`` does."""
        self.evict = evict

    def ask(self) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(self.target.ask("SELECT", "joe"))


async def turn() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def run(play: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def body() -> None:
        await play(World())

    asyncio.run(body())


def test_who_asks_and_how() -> None:
    """Nothing of the entry that is meant for clients, and the secret of auth_file."""

    async def play(world: World) -> None:
        task = world.ask()
        await turn()
        [(database, user, _)] = world.opened
        assert (user, database.password, database.host) == ("asker", HASH, "db.example")
        assert database.connect_query is None
        assert dict(database.startup_parameters) == {
            "client_encoding": "SQL_ASCII",
            "application_name": "auth_query",
        }
        [sent] = world.links[0].sent
        assert b"pg_catalog, public" in sent
        assert b"1500" in sent
        world.links[0].answers.put_nowait(NO_ROWS)
        assert (await task).rows == []

    run(play)


def test_a_few_connections_serve_all() -> None:
    async def play(world: World) -> None:
        tasks = [world.ask() for _ in range(10)]
        await turn()
        assert len(world.links) == CONNECTIONS
        for number in range(10):
            world.links[number % CONNECTIONS].answers.put_nowait(NO_ROWS)
            await turn()
        assert all(task.done() for task in tasks)
        assert len(world.links) == CONNECTIONS
        assert not any(link.closed for link in world.links)
        world.target.close()
        assert all(link.closed for link in world.links)

    run(play)


def test_an_idle_one_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_query, "IDLE_S", 0.001)

    async def play(world: World) -> None:
        task = world.ask()
        await turn()
        world.links[0].answers.put_nowait(NO_ROWS)
        await task
        deadline_s = time.monotonic() + 10
        while not world.links[0].closed:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.001)
        task = world.ask()
        await turn()
        assert len(world.links) == 2
        assert world.opened[1][2] == 1  # the keys of the first login spare work
        world.links[1].answers.put_nowait(NO_ROWS)
        await task

    run(play)


def test_a_lost_one_is_replaced_once() -> None:
    async def play(world: World) -> None:
        task = world.ask()
        await turn()
        world.links[0].answers.put_nowait(NO_ROWS)
        await task
        world.links[0].answers.put_nowait(b"")  # it has ended while it was idle
        task = world.ask()
        await turn()
        assert len(world.links) == 2
        assert world.links[0].closed
        world.links[1].answers.put_nowait(b"")
        with pytest.raises(LostError):
            await task
        assert world.links[1].closed
        assert len(world.links) == 2

    run(play)


def test_one_that_is_cancelled_is_closed() -> None:
    """What it would still say is nobody's answer."""

    async def play(world: World) -> None:
        task = world.ask()
        await turn()
        task.cancel()
        await turn()
        assert world.links[0].closed
        task = world.ask()
        await turn()
        assert len(world.links) == 2
        world.target.close()
        assert not world.links[1].closed  # what is under way ends
        world.links[1].answers.put_nowait(NO_ROWS)
        await task
        assert world.links[1].closed

    run(play)


def test_a_refused_login_is_not_tried_again_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    refused = ServerLoginError("server login failed: no", "28P01", "no")

    async def play(world: World) -> None:
        for refusal, after_s, count in (
            (LoginError("connect failed", "08001"), 0.0, 1),
            (refused, 0.0, 2),  # one that could not be reached was no refusal
            (refused, 14.9, 2),
            (refused, 0.2, 3),
            (refused, 15.1, 4),
        ):
            clock[0] += after_s
            world.refusal = refusal
            with pytest.raises(LoginError) as caught:
                await world.target.ask("SELECT", "joe")
            assert caught.value.message == "cannot connect"
            assert refusal.message in caught.value.why
            assert len(world.opened) == count

    run(play)
