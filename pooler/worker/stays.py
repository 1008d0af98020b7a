# SPDX-License-Identifier: MIT
"""Every backend that this worker has in PostgreSQL, from connect to its end of file.

Worker layer, cold. A backend counts from before its startup packet until PostgreSQL has
closed its side, whatever becomes of the login, the link and the server meanwhile. The
master is told of each, and gets a copy of its socket: if this worker dies, it knows
what the worker has left at work (``master/wards``).
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pooler import log
from pooler.io.links import Link
from pooler.ipc.outbox import Outbox

# A server is not opened before the master knows of it, unless the master stands still.
TELL_S = 2.0


class Stay:
    """One opening of a server: its attempts, one behind the other, and what is left.

    ``gone`` is called once, when PostgreSQL has nothing of it any more.
    """

    def __init__(
        self, gone: Callable[[], None], places: tuple[int, int, int] | None = None
    ) -> None:
        """The maker has a hold of its own, and releases it when the opening is over.

        ``places``: the accounts by which it counts (``worker/accounts``), for the
        master: who dies does not give them back.
        """
        self._gone = gone
        self.places = places
        self._holds = 1
        self.has_connected = False  # this host has taken a connection
        self._alone: asyncio.Future[None] | None = None

    def part(self) -> Stay:
        """The attempts at one host, of which another host knows nothing."""
        self.hold()
        return Stay(self.release, self.places)

    def hold(self) -> None:
        """One more host, or backend."""
        self._holds += 1

    def connected(self) -> None:
        """One more backend."""
        self.has_connected = True
        self.hold()

    def release(self) -> None:
        """One is gone, or the opening is over."""
        self._holds -= 1
        if self._alone is not None and not self._alone.done():
            self._alone.set_result(None)
        if self._holds == 0:
            self._gone()

    async def left(self) -> None:
        """Return when the attempts so far have left PostgreSQL."""
        while self._holds > 1:
            self._alone = asyncio.get_running_loop().create_future()
            await self._alone


@dataclass(slots=True)
class Backend:
    """One connection to PostgreSQL."""

    number: int  # no other backend of any worker has it
    stay: Stay | None  # None: a dead worker has left it
    database: str
    user: str
    pid: int = 0
    key: bytes = field(default=b"", repr=False)  # b"": it cannot be cancelled
    way: Any = None  # worker.servers.Way; None: it has not logged in

    @property
    def tag(self) -> str:
        """How log lines name it."""
        return f"S-{self.pid}: {self.database}/{self.user}"


class Stays:
    """The backends of one worker, by the handle of their connection."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._by_handle: dict[int, Backend] = {}
        # The process is part of the number: its successor must not count anew.
        self._numbers = itertools.count(os.getpid() << 32)
        self._told_slow = False

    async def enter(self, link: Link, database: str, user: str, stay: Stay) -> None:
        """A link to PostgreSQL stands; returns when its startup packet may be sent."""
        number = next(self._numbers)
        link.counts = True
        stay.connected()
        self._by_handle[link.handle] = Backend(number, stay, database, user)
        payload = {
            "number": number,
            "database": database,
            "user": user,
            "places": stay.places,
        }
        try:
            async with asyncio.timeout(TELL_S):
                await self._outbox.deliver("server_opened", payload, [link.fileno()])
        except TimeoutError:
            if not self._told_slow:
                log.write(
                    log.WARNING,
                    "the master takes no messages: servers are opened without it, and"
                    " if this worker dies nobody clears them away",
                )
            self._told_slow = True

    async def know(self, link: Link, pid: int, key: bytes, way: Any) -> None:
        """A backend has logged in; returns when the master knows how to cancel it."""
        backend = self._by_handle[link.handle]
        backend.pid, backend.key, backend.way = pid, key, way
        payload = {
            "number": backend.number,
            "pid": pid,
            "key": key.hex(),
            "way": way.packed(),
        }
        try:
            async with asyncio.timeout(TELL_S):
                await self._outbox.deliver("server_known", payload)
        except TimeoutError:
            self._outbox.put("server_known", payload)

    def give_away(self, handle: int) -> Backend | None:
        """A server is about to go to another worker."""
        return self._by_handle.pop(handle, None)

    def inherit(self, handle: int, backend: Backend) -> None:
        """A backend that another worker has had, dead or alive, is here now."""
        self._by_handle[handle] = backend

    def has(self, number: int) -> bool:
        """Whether a backend is here already."""
        return any(one.number == number for one in self._by_handle.values())

    def get(self, handle: int) -> Backend | None:
        """The backend behind a connection; None: PostgreSQL has none."""
        return self._by_handle.get(handle)

    def leave(self, handle: int) -> Backend | None:
        """PostgreSQL has let go of a backend."""
        backend = self._by_handle.pop(handle, None)
        if backend is None:
            return None
        self._outbox.put("server_gone", {"number": backend.number})
        if backend.stay is not None:
            backend.stay.release()
        return backend
