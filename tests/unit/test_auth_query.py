# SPDX-License-Identifier: MIT
"""auth_query: how often is asked, and whom an answer is good for."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pooler.config.loading import load_text
from pooler.config.model import Config
from pooler.errors import ConfigError, LoginError
from pooler.worker import auth_query
from pooler.worker.auth_query import NOBODY, AuthQuery, Found, Question
from pooler.worker.lookup import Answer, LostError

INI = """
[databases]
shop =
own = auth_user=other auth_dbname=shop auth_query='SELECT 1, $1'
[pgbouncer]
auth_user = asker
auth_query = SELECT 2, $1
"""


class FakePools:
    """What AuthQuery asks the pools for."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def database(self, name: str) -> Any:
        return self.config.database(name)


class FakeTarget:
    """Answers when it is told to."""

    tag = "shop/asker"

    def __init__(self) -> None:
        self.asked: list[tuple[str, asyncio.Future[Answer]]] = []
        self.closed = False

    async def ask(self, sql: str, user: str) -> Answer:
        future = asyncio.get_running_loop().create_future()
        self.asked.append((user, future))
        answer: Answer = await future
        return answer

    def close(self) -> None:
        self.closed = True


class World:
    """An AuthQuery that asks a FakeTarget."""

    def __init__(self, **settings: Any) -> None:
        config = load_text(INI, "p.ini")
        pools: Any = FakePools(
            dataclasses.replace(
                config, settings=dataclasses.replace(config.settings, **settings)
            )
        )
        self.pools = pools
        self.target = FakeTarget()
        self.auth_query = AuthQuery(pools)
        self.know_target()

    def know_target(self) -> None:
        target: Any = self.target
        self.auth_query._targets["shop", "asker"] = target

    def find(self, user: str) -> asyncio.Task[Found]:
        return asyncio.get_running_loop().create_task(
            self.auth_query.find(user, "shop")
        )

    async def answer(self, number: int, secret: str | None) -> None:
        user, future = self.target.asked[number]
        rows: Any = [] if secret is None else [(user, secret)]
        future.set_result(Answer(2, rows))
        await turn()


async def turn() -> None:
    """Let everything happen that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def run(play: Callable[[World], Coroutine[Any, Any, None]], **settings: Any) -> None:
    async def body() -> None:
        await play(World(**settings))

    asyncio.run(body())


def test_whoever_comes_later_is_told_by_a_later_question() -> None:
    async def play(world: World) -> None:
        first = world.find("joe")
        await turn()
        later = [world.find("joe") for _ in range(5)]
        other = world.find("ann")
        await turn()
        assert [user for user, _ in world.target.asked] == ["joe", "ann"]
        await world.answer(0, "old")
        assert await first == Found("old", "joe")
        assert not any(one.done() for one in later)
        latest = world.find("joe")
        await turn()
        assert [user for user, _ in world.target.asked] == ["joe", "ann", "joe"]
        await world.answer(2, "new")
        assert {await one for one in later} == {Found("new", "joe")}
        assert not latest.done()  # came when that question was on its way
        await world.answer(3, "newest")
        assert await latest == Found("newest", "joe")
        await world.answer(1, None)
        assert await other == NOBODY
        assert world.auth_query._running == {}
        assert world.auth_query._queued == {}
        assert "old" not in repr(await first)
        assert world.auth_query._kept == {}

    run(play)


def test_with_a_ttl_all_share_one_question() -> None:
    async def play(world: World) -> None:
        first = world.find("joe")
        await turn()
        later = [world.find("joe") for _ in range(5)]
        await turn()
        await world.answer(0, "kept")
        assert {await one for one in [first, *later]} == {Found("kept", "joe")}
        assert await world.find("joe") == Found("kept", "joe")
        assert len(world.target.asked) == 1

    run(play, auth_query_cache_ttl=60, auth_query_negative_ttl=60)


def test_a_client_that_leaves_takes_no_answer_away() -> None:
    async def play(world: World) -> None:
        first = world.find("joe")
        await turn()
        second, third = world.find("joe"), world.find("joe")
        await turn()
        first.cancel()
        second.cancel()
        await turn()
        await world.answer(0, "one")
        await world.answer(1, "two")
        assert await third == Found("two", "joe")
        assert first.cancelled()

    run(play)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (LoginError("cannot connect", why="refused"), "cannot connect"),
        (LostError("gone"), "cannot connect"),
    ],
)
def test_a_failure_is_told_to_those_who_asked_and_not_kept(
    error: LoginError, told: str
) -> None:
    async def play(world: World) -> None:
        first = world.find("joe")
        await turn()
        second = world.find("joe")
        await turn()
        world.target.asked[0][1].set_exception(error)
        with pytest.raises(LoginError) as caught:
            await first
        assert caught.value.message == told
        assert caught.value.why.startswith("auth_query of shop/asker: ")
        assert world.auth_query._kept == {}
        await turn()
        await world.answer(1, "there again")
        assert await second == Found("there again", "joe")

    run(play, auth_query_cache_ttl=60)


def test_the_time_limit() -> None:
    async def play(world: World) -> None:
        with pytest.raises(LoginError) as caught:
            await world.find("joe")
        assert caught.value.message == "auth_query timeout"
        assert world.target.asked[0][1].cancelled()

    run(play, auth_query_timeout=0.01)


@pytest.mark.parametrize(
    ("ttl", "negative_ttl", "asked"),
    [(60, 0, ["joe", "no", "no"]), (0, 60, ["joe", "no", "joe"])],
)
def test_both_kinds_of_answers_have_their_time(
    ttl: float, negative_ttl: float, asked: list[str]
) -> None:
    async def play(world: World) -> None:
        for _ in range(2):
            for user, secret in (("joe", "secret"), ("no", None)):
                find = world.find(user)
                await turn()
                if not find.done():
                    await world.answer(-1, secret)
                assert (await find).secret == secret
        assert [user for user, _ in world.target.asked] == asked

    run(play, auth_query_cache_ttl=ttl, auth_query_negative_ttl=negative_ttl)


def test_what_is_kept_is_bounded_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(auth_query, "ANSWERS_KEPT", 3)

    async def play(world: World) -> None:
        async def found(user: str) -> bool:
            """Whether it had to be asked for."""
            count = len(world.target.asked)
            find = world.find(user)
            await turn()
            if len(world.target.asked) > count:
                await world.answer(-1, None)
            await find
            return len(world.target.asked) > count

        assert [await found(user) for user in "abcd"] == [True] * 4
        assert len(world.auth_query._kept) == 3
        assert [await found(user) for user in "bcda"] == [False] * 3 + [True]
        assert [await found(user) for user in "cd"] == [False] * 2
        clock[0] += 10.1
        assert await found("c")

    run(play, auth_query_cache_ttl=10, auth_query_negative_ttl=10)


def test_a_failed_login_and_a_reload_forget() -> None:
    async def play(world: World) -> None:
        async def find(user: str, secret: str | None) -> None:
            task = world.find(user)
            await turn()
            if not task.done():
                await world.answer(-1, secret)
            await task

        for _ in range(2):
            await find("joe", "secret")
            await find("no", None)
        assert len(world.target.asked) == 2
        for user in ("joe", "no", "never heard of"):
            world.auth_query.forget(user, "shop")
        world.auth_query.forget("joe", "nowhere")
        await find("joe", "secret")
        await find("no", None)
        assert [user for user, _ in world.target.asked] == ["joe", "no", "joe"]
        on_its_way = world.find("late")
        await turn()
        world.auth_query.reload()
        assert world.target.closed
        world.know_target()
        await world.answer(-1, "old")
        assert (await on_its_way).secret == "old"
        assert world.auth_query._kept == {}

    run(play, auth_query_cache_ttl=60, auth_query_negative_ttl=60)


def test_who_is_asked() -> None:
    world = World()
    asks = world.auth_query
    assert asks._question("joe", "shop") == Question(
        "shop", "asker", "SELECT 2, $1", "joe"
    )
    assert asks._question("joe", "own") == Question(
        "shop", "other", "SELECT 1, $1", "joe"
    )
    names = ("shop", "own", "nowhere", "pgbouncer")
    assert [asks.can_ask(name) for name in names] == [True, True, False, True]
    world.pools.config = load_text(INI.replace("auth_user = asker", ""), "p.ini")
    assert [asks.can_ask(name) for name in names] == [False, True, False, False]
    world.pools.config = load_text(INI + "auth_dbname = shop", "p.ini")
    assert asks._question("root", "pgbouncer") == Question(
        "shop", "asker", "SELECT 2, $1", "root"
    )


def test_the_console_is_no_auth_dbname() -> None:
    with pytest.raises(ConfigError, match="cannot use the reserved"):
        load_text(INI + "auth_dbname = pgbouncer\n", "p.ini")


@pytest.mark.parametrize(
    ("text", "database", "why"),
    [
        (INI + "auth_dbname = missing\n", "shop", '"missing" is not configured'),
        (
            INI.replace("auth_dbname=shop", "auth_dbname=pgbouncer"),
            "own",
            'cannot use the reserved "pgbouncer" database as an auth_dbname',
        ),
        (INI, "pgbouncer", "cannot use the reserved"),
        (INI.replace("auth_user = asker", ""), "shop", "a reload has taken"),
    ],
)
def test_a_database_that_cannot_be_asked(text: str, database: str, why: str) -> None:
    """PgBouncer starts with it, so does this; it says so, if it is written there."""

    async def play(world: World) -> None:
        world.pools.config = load_text(text, "p.ini")
        warned = any("auth_dbname: " in one for one in world.pools.config.warnings)
        assert warned == ("missing" in text or "=pgbouncer" in text)
        with pytest.raises(LoginError) as caught:
            await world.auth_query.find("joe", database)
        assert caught.value.message == "bouncer config error"
        assert why in caught.value.why

    run(play)
