# SPDX-License-Identifier: MIT
"""Messages that may not be lost."""

from __future__ import annotations

import asyncio
import os

import pytest

from pooler.ipc.bus import MASTER, Bus
from pooler.ipc.outbox import Outbox


def received(bus: Bus) -> list[object]:
    found = []
    while (message := bus.receive(MASTER)) is not None:
        found.append(message.payload.get("n"))
        message.close_fds()
    return found


def test_what_does_not_fit_waits_in_order() -> None:
    bus = Bus.for_slots(1)

    async def play() -> None:
        outbox = Outbox(bus, MASTER)
        fill = 0
        while bus.send(MASTER, "fill", {"n": fill, "pad": "x" * 4000}):
            fill += 1
        outbox.put("late", {"n": "first"})
        read, write = os.pipe()
        second = asyncio.create_task(outbox.deliver("late", {"n": "second"}, [read]))
        given_up = asyncio.create_task(outbox.deliver("late", {"n": "never"}))
        await asyncio.sleep(0)
        given_up.cancel()
        assert not second.done()
        assert received(bus) == list(range(fill))
        await asyncio.wait_for(second, 5)
        assert received(bus) == ["first", "second"]
        os.close(read)
        os.close(write)
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert received(bus) == []

    asyncio.run(play())
    bus.close()


def test_where_nobody_reads_nothing_waits() -> None:
    bus = Bus.for_slots(1).claim(0)

    async def play() -> None:
        outbox = Outbox(bus, MASTER)
        outbox.put("lost", {})
        await asyncio.wait_for(outbox.deliver("lost", {}), 5)

    asyncio.run(play())
    assert not bus.is_read(MASTER)
    assert bus.is_read(0)
    bus.close()
