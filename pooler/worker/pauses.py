# SPDX-License-Identifier: MIT
"""PAUSE, SUSPEND, RESUME, KILL and WAIT_CLOSE in one worker. Worker layer, cold.

What is paused is part of the configuration (``RunState``), so a reload does not undo it
and a successor is born with it. Here pools follow it, and who has asked waits until
their servers are gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from pooler.io.engine import Engine
from pooler.session.records import CloseReason
from pooler.worker.pool import Pool
from pooler.worker.pools import Pools
from pooler.worker.suspension import Suspension


class Pauses:
    """What the operator wants of the pools, and who waits for it."""

    def __init__(self, engine: Engine, pools: Pools) -> None:
        self._engine = engine
        self._pools = pools
        self._suspension = Suspension(engine, pools)
        self._waiting: list[tuple[Callable[[], str], asyncio.Future[str]]] = []

    def apply(self) -> None:
        """Pause the pools that are to be paused by now, and let the others go."""
        self._suspension.apply()
        for pool in self._pools.all():
            self._pools.hold(pool)
            if not self._pools.config.state.holds(pool.database.name):
                self._pools.launches.seek_welcome(pool)
        self.check()

    def kill(self, database: str) -> None:
        """Close all clients and servers of a database."""
        for pool in list(self._of(database)):
            self._pools.kill(pool)

    def kill_client(self, number: int) -> bool:
        """Close one client; False: it is not here."""
        handle = self._engine.client_of_id(number)
        if handle is None:
            return False
        self._engine.client_close(handle, CloseReason.CLOSE_FORCED, tell=True)
        return True

    async def until_paused(self, database: str) -> str:
        """Return when a database ("": every one) has no server here any more.

        "gone", or "resumed" if it is not paused any more.
        """

        def outcome() -> str:
            if not self._pools.config.state.holds(database):
                return "resumed"
            found = (self._pools.stats(pool)["servers"] for pool in self._of(database))
            return "" if any(found) else "gone"

        return await self._until(outcome)

    async def until_closed(self, database: str) -> str:
        """Return "gone" when no server waits to be closed: all are new."""

        def outcome() -> str:
            found = (self._engine.pool_obsolete(p.pool_id) for p in self._of(database))
            return "" if any(found) else "gone"

        return await self._until(outcome)

    async def until_suspended(self, database: str) -> str:
        """Return "gone" when all that was read here has been sent.

        Or "resumed" if that is not wanted any more. ``database``: "", it is all of it.
        """
        return await self._until(self._suspension.outcome)

    def check(self) -> None:
        """Something has happened to servers: whoever waits for it may be told."""
        self._suspension.on_time()
        if not self._waiting:
            return
        still = []
        for outcome, future in self._waiting:
            found = "" if future.done() else outcome()
            if found:
                future.set_result(found)
            elif not future.done():
                still.append((outcome, future))
        self._waiting = still

    async def _until(self, outcome: Callable[[], str]) -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append((outcome, future))
        self.check()
        return await future

    def _of(self, database: str) -> Iterator[Pool]:
        for pool in self._pools.all():
            if not pool.is_console and database in ("", pool.database.name):
                yield pool
