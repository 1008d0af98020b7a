# SPDX-License-Identifier: MIT
"""The threads that check passwords: bounded, and nobody waits for who hangs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from pooler import log
from pooler.errors import LoginError
from pooler.worker import judges as module
from pooler.worker.judges import Judges, Verdict

pytestmark = pytest.mark.timeout(30)


class Slow:
    """A check that ends when it is told to."""

    def __init__(self, why_not: str = "") -> None:
        self.begun = threading.Event()
        self.end = threading.Event()
        self.why_not = why_not

    def __call__(self) -> Verdict:
        self.begun.set()
        assert self.end.wait(20)
        return Verdict(self.why_not)


def run(what: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(what())


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.001)


def judge_threads() -> int:
    return sum(one.name == "judge" for one in threading.enumerate())


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 10
    while judge_threads():
        assert time.monotonic() < deadline, "threads are left"
        time.sleep(0.001)


def test_verdicts() -> None:
    async def play() -> None:
        judges = Judges(2, 0)
        assert await judges.ask(Verdict) == Verdict()
        assert await judges.ask(lambda: Verdict("no", 2.0)) == Verdict("no", 2.0)
        assert judge_threads() == 1  # the second one was never needed

        def broken() -> Verdict:
            raise RuntimeError("broken")

        failed = await judges.ask(broken)
        assert failed.why_not == "internal error: RuntimeError"
        assert await judges.ask(Verdict) == Verdict()
        judges.close()

    run(play)


def test_so_many_at_once_so_many_wait_and_the_rest_is_refused() -> None:
    async def play() -> None:
        judges = Judges(2, 1)
        slow = [Slow(str(number)) for number in range(3)]
        asked = [asyncio.create_task(judges.ask(one)) for one in slow]
        await until(lambda: slow[0].begun.is_set() and slow[1].begun.is_set())
        assert judges.waiting == 1
        with pytest.raises(LoginError) as caught:
            await judges.ask(Verdict)
        assert caught.value.message == "too many logins wait for an answer"
        assert caught.value.sqlstate == "53300"
        assert "1 wait for 2 threads" in caught.value.why
        slow[0].end.set()
        await until(slow[2].begun.is_set)
        for one in slow:
            one.end.set()
        assert [v.why_not for v in await asyncio.gather(*asked)] == ["0", "1", "2"]
        assert judge_threads() == 2
        judges.close()

    run(play)


def test_who_leaves_while_it_waits_costs_nothing() -> None:
    async def play() -> None:
        judges = Judges(1, 1)
        first, second = Slow(), Slow()
        asked = [asyncio.create_task(judges.ask(one)) for one in (first, second)]
        await until(lambda: judges.waiting == 1 and first.begun.is_set())
        asked[1].cancel()
        await until(lambda: judges.waiting == 0)
        first.end.set()
        assert await asked[0] == Verdict()
        assert await judges.ask(Verdict) == Verdict()
        assert not second.begun.is_set()
        judges.close()

    run(play)


def test_a_check_that_hangs_holds_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(module, "SLOW_S", 0.0)
    monkeypatch.setattr(log, "write", lambda level, text, **more: lines.append(text))

    async def play() -> None:
        judges = Judges(2, 0)
        hanging = Slow()
        cuts: list[str] = []
        asked = asyncio.create_task(judges.ask(hanging, lambda: cuts.append("cut")))
        await until(hanging.begun.is_set)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asked, 0.01)
        assert (judges.given_up, cuts) == (1, ["cut"])
        assert "holds one of 1 threads (1 are held so)" in lines[0]
        assert await judges.ask(Verdict) == Verdict()  # by the other
        other = Slow()
        waits = asyncio.create_task(judges.ask(other))
        await until(other.begun.is_set)
        with pytest.raises(LoginError) as caught:
            await judges.ask(Verdict)
        assert "1 work for clients that are gone" in caught.value.why
        hanging.end.set()
        await until(lambda: judges.given_up == 0)
        assert await judges.ask(Verdict) == Verdict()
        other.end.set()
        assert await waits == Verdict()
        judges.close()

    run(play)


def test_the_loop_may_end_before_a_check() -> None:
    hanging = Slow()

    async def play() -> None:
        judges = Judges(1, 0)
        asked = asyncio.create_task(judges.ask(hanging))
        await until(hanging.begun.is_set)
        asked.cancel()
        judges.close()

    run(play)
    assert judge_threads() == 1  # it would not keep the process
    hanging.end.set()


def test_a_reload_makes_more_and_fewer() -> None:
    async def play() -> None:
        judges = Judges(1, 0)
        slow = [Slow(), Slow()]
        first = asyncio.create_task(judges.ask(slow[0]))
        await until(slow[0].begun.is_set)
        with pytest.raises(LoginError):
            await judges.ask(Verdict)
        judges.resize(2, 0)
        second = asyncio.create_task(judges.ask(slow[1]))
        await until(slow[1].begun.is_set)
        judges.resize(1, 0)
        for one in slow:
            one.end.set()
        assert [await first, await second] == [Verdict(), Verdict()]
        await until(lambda: judge_threads() == 1)
        assert await judges.ask(Verdict) == Verdict()
        judges.close()

    run(play)
