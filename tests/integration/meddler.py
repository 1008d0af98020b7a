# SPDX-License-Identifier: MIT
"""A network that is slow, cuts inside messages, closes one side, falls silent."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from tests.integration.harness import HOST

READ_BYTES = 16384
SILENCE_S = 1.0


class Broken(Exception):
    """Both connections are to be reset."""


Fault = Callable[["Way", bytes], Awaitable[None]]


class Way:
    """One direction of a connection."""

    def __init__(self, into: asyncio.StreamWriter, chance: random.Random) -> None:
        self.into = into
        self.chance = chance

    async def put(self, data: bytes) -> None:
        self.into.write(data)
        await self.into.drain()


async def late(way: Way, data: bytes) -> None:
    await asyncio.sleep(way.chance.uniform(0, 0.05))
    await way.put(data)


async def in_pieces(way: Way, data: bytes) -> None:
    """The first ones byte by byte; Nagle is off, so each is a segment of its own."""
    for at in range(min(len(data), 40)):
        await way.put(data[at : at + 1])
        await asyncio.sleep(0)
    await way.put(data[40:])


async def cut(way: Way, data: bytes) -> None:
    await way.put(data[: way.chance.randrange(len(data))])
    raise Broken


async def half_closed(way: Way, data: bytes) -> None:
    await way.put(data[: way.chance.randrange(len(data))])
    way.into.write_eof()
    await asyncio.sleep(0.1)
    raise Broken


async def silent(way: Way, data: bytes) -> None:
    await asyncio.sleep(SILENCE_S)
    raise Broken


# By how often they come among a thousand reads.
FAULTS: Mapping[Fault, int] = {
    late: 20, in_pieces: 40, cut: 8, half_closed: 8, silent: 2,
}  # fmt: skip


class Meddler:
    """Passes connections on to a port of this machine, and spoils some of them.

    ``host`` and ``port``: where it listens; 0: wherever there is room.
    """

    def __init__(self, target: int, seed: int, host: str = HOST, port: int = 0) -> None:
        self._target = target
        self._chance = random.Random(seed)
        self._faults = dict(FAULTS)
        self.spoilt = 0
        self._listener = socket.create_server((host, port), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def heal(self) -> None:
        """Spoil nothing any more."""
        self._faults.clear()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._stand_in, sock=self._listener)
        )
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        for _ in range(3):  # their transports close
            self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _stand_in(
        self, near_in: asyncio.StreamReader, near: asyncio.StreamWriter
    ) -> None:
        writers = [near]
        ways: list[asyncio.Task[None]] = []
        close: Callable[[asyncio.StreamWriter], None] = _reset
        own = asyncio.current_task()
        assert own is not None
        self._tasks.add(own)  # or nobody has it when both sides have said their end
        try:
            far_in, far = await asyncio.open_connection(HOST, self._target)
            writers.append(far)
            for reader, writer in ((near_in, far), (far_in, near)):
                writer.get_extra_info("socket").setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
                )
                way = Way(writer, self._chance)
                ways.append(asyncio.ensure_future(self._pass_on(reader, way)))
            await asyncio.gather(*ways)
            close = asyncio.StreamWriter.close
        except (Broken, OSError, asyncio.CancelledError):
            pass  # as the loop ends, too
        finally:
            self._tasks.discard(own)
            for way_task in ways:
                way_task.cancel()
            for writer in writers:
                close(writer)

    async def _pass_on(self, reader: asyncio.StreamReader, way: Way) -> None:
        while data := await reader.read(READ_BYTES):
            fault = self._choose()
            if fault is None:
                await way.put(data)
            else:
                self.spoilt += 1
                await fault(way, data)
        with suppress(OSError):
            way.into.write_eof()

    def _choose(self) -> Fault | None:
        pick = self._chance.randrange(1000)
        for fault, weight in self._faults.items():
            if pick < weight:
                return fault
            pick -= weight
        return None


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
