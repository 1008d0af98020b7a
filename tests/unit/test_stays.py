# SPDX-License-Identifier: MIT
"""An opening is over when PostgreSQL has none of its backends any more."""

from __future__ import annotations

import asyncio

from pooler.worker.stays import Stay


def test_gone_is_told_once_and_last() -> None:
    told: list[str] = []
    stay = Stay(lambda: told.append("gone"))
    stay.hold()
    stay.hold()
    for _ in range(2):
        stay.release()
        assert told == []
    stay.release()
    assert told == ["gone"]


def test_the_next_attempt_waits_for_the_end_of_the_one_before() -> None:
    async def play() -> None:
        stay = Stay(lambda: None)
        await stay.left()  # there is none
        stay.hold()
        stay.hold()
        waiting = asyncio.create_task(stay.left())
        for _ in range(2):
            await asyncio.sleep(0)
            assert not waiting.done()
            stay.release()
        await asyncio.wait_for(waiting, 5)

    asyncio.run(play())
