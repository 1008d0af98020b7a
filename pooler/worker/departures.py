# SPDX-License-Identifier: MIT
"""Backends that are closed here and that PostgreSQL has not let go of. Worker layer.

The engine waits for the end of file (``io/part``). One that does not come is asked for:
a backend at work does not look at its connection, so PostgreSQL is asked to cancel it,
again and again. A host that nobody can reach is given up after a while; a backend that
lives and does not end is not: it counts, and the log says so.

Backends that a dead worker has left come from the master (message ``bury``) and go the
same way.

Source: PostgreSQL documentation, "Canceling Requests in Progress".
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pooler import log
from pooler.errors import ConfigError, LoginError
from pooler.io.engine import Engine
from pooler.io.links import Links
from pooler.ipc.bus import BusMessage
from pooler.worker.servers import ServerOpener, send_cancel
from pooler.worker.stays import Backend, Stays

# An idle backend ends as soon as it is told; one at work is cancelled before long.
IDLE_S = 1.0
AT_WORK_S = 0.05
AGAIN_FIRST_S = 0.5
AGAIN_MOST_S = 15.0
CANCEL_S = 10.0  # where cancel_wait_timeout is no limit
CANCELS_AT_ONCE = 32
GIVE_UP_S = 30.0  # one that cannot be asked any more
TELL_S = 10.0  # the log hears of one that will not end


@dataclass(slots=True)
class _Departure:
    backend: Backend
    since_s: float
    again_s: float = AGAIN_FIRST_S
    told: bool = False
    # Own: it waits, then it asks, and waits again.
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None

    def end(self) -> None:
        """Nothing more is asked."""
        if self.timer is not None:
            self.timer.cancel()
        if self.task is not None:
            self.task.cancel()


class Departures:
    """The backends of one worker that are to end."""

    def __init__(
        self, engine: Engine, links: Links, stays: Stays, opener: ServerOpener
    ) -> None:
        self._engine = engine
        self._links = links
        self._stays = stays
        self._opener = opener
        self._budget = asyncio.Semaphore(CANCELS_AT_ONCE)
        self._departing: dict[int, _Departure] = {}

    def parted(self, handle: int, *, at_work: bool) -> None:
        """The engine has closed a connection to PostgreSQL, and waits for its end."""
        backend = self._stays.get(handle)
        if backend is not None:
            self._watch(handle, backend, AT_WORK_S if at_work else IDLE_S)

    def gone(self, handle: int, code: int) -> None:
        """PostgreSQL has closed it as well; ``code``: errno, 0 at its end of file."""
        departure = self._departing.pop(handle, None)
        if departure is not None:
            departure.end()
        backend = self._stays.leave(handle)
        if backend is not None and code:
            log.write(
                log.WARNING,
                f"a closed server was lost: {os.strerror(code)}",
                tag=backend.tag,
            )

    def bury(self, message: BusMessage) -> None:
        """End what a dead worker has left; the master is told of each that is gone."""
        rows: Sequence[dict[str, Any]] = message.payload["servers"]
        for row, fd in zip(rows, message.fds, strict=True):
            if not self._stays.has(row["number"]):
                self._bury(row, fd)

    def _bury(self, row: dict[str, Any], fd: int) -> None:
        backend = Backend(row["number"], None, row["database"], row["user"])
        if row["way"] is not None:
            backend.pid = row["pid"]
            try:
                backend.way = self._opener.way_of(row["way"])
                backend.key = bytes.fromhex(row["key"])
            except ConfigError as error:  # files of TLS that have gone meanwhile
                log.write(log.ERROR, f"cannot be cancelled: {error}", tag=backend.tag)
        self.take(os.dup(fd), backend)

    def take(self, fd: int, backend: Backend) -> None:
        """End a backend whose connection another worker has had; takes ``fd`` over."""
        try:
            handle = self._engine.part_open(fd)
        except BaseException:
            os.close(fd)
            raise
        self._stays.inherit(handle, backend)
        self._watch(handle, backend, AT_WORK_S)

    def _watch(self, handle: int, backend: Backend, patience_s: float) -> None:
        departure = _Departure(backend, time.monotonic())
        self._departing[handle] = departure
        self._wait(handle, departure, patience_s)

    def _wait(self, handle: int, one: _Departure, patience_s: float) -> None:
        loop = asyncio.get_running_loop()
        one.timer = loop.call_later(patience_s, self._press, handle, one)

    def _press(self, handle: int, one: _Departure) -> None:
        """Ask for the end of a backend, which has not come by itself."""
        loop = asyncio.get_running_loop()
        one.task = loop.create_task(self._ask(handle, one))

    async def _ask(self, handle: int, one: _Departure) -> None:
        problem = await self._cancel(one.backend)
        waited_s = time.monotonic() - one.since_s
        if problem and waited_s > GIVE_UP_S:
            self._give_up(handle, one, problem)
            return
        if waited_s > TELL_S and not one.told:
            one.told = True
            why = f", {problem}" if problem else " and was cancelled"
            log.write(
                log.WARNING,
                f"a server was closed {int(waited_s)}s ago{why}: it has not ended"
                " and still counts",
                tag=one.backend.tag,
            )
        self._wait(handle, one, one.again_s)
        one.again_s = min(2 * one.again_s, AGAIN_MOST_S)

    async def _cancel(self, backend: Backend) -> str:
        """Have PostgreSQL cancel what a backend is at; returns why it cannot be."""
        if not backend.key:
            return "cannot be cancelled (no cancel key)"
        limit_s = self._opener.config.settings.cancel_wait_timeout or CANCEL_S
        try:
            async with self._budget, asyncio.timeout(limit_s):
                await send_cancel(self._links, backend.way, backend.pid, backend.key)
        except (OSError, TimeoutError, LoginError) as error:
            return f"cancel request failed: {str(error) or 'cancel_wait_timeout'}"
        return ""

    def _give_up(self, handle: int, one: _Departure, problem: str) -> None:
        log.write(
            log.WARNING,
            f"a closed server has not ended, {problem}: it does not count any more",
            tag=one.backend.tag,
        )
        del self._departing[handle]
        self._engine.part_give_up(handle)
        self._stays.leave(handle)
