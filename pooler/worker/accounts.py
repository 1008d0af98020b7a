# SPDX-License-Identifier: MIT
"""What this worker counts on the page that all workers share. Worker layer, cold.

A server takes a place before it is connected, and gives it back when PostgreSQL is rid
of it; so at no moment are there more than the limits allow, whoever opens them: pools,
replication clients, auth_query, logins that learn a word. Who is refused is told when
a place is given back by which it was refused (bus message ``room``).

Source: PgBouncer documentation, "default_pool_size", "max_db_connections",
"max_user_connections".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from pooler.board.page import Kind, Page, PageFull, Verdict
from pooler.config.model import Config
from pooler.config.settings import Database
from pooler.errors import TOO_MANY_CONNECTIONS, LoginError
from pooler.ipc.bus import Bus, BusMessage

# Who waits for a place looks again so often, and no more than so small a part of time.
LOOK_S = 0.05
LOOK_PART = 20


class Places(NamedTuple):
    """The accounts by which a server counts: of its pool, its database and its user."""

    pool: int
    database: int
    user: int

    def of(self, verdict: Verdict) -> int:
        """The account that is in the way."""
        return self[verdict - 1]


class Limits(NamedTuple):
    """How many servers there may be, over all workers; 0 is no limit."""

    pool: int
    database: int
    user: int


def limits_of(config: Config, database: Database, user: str) -> Limits:
    """The limits of the servers of a pool."""
    return Limits(
        config.pool_size(database, user),
        config.max_db_connections(database),
        config.max_user_connections(user),
    )


def now_us() -> int:
    """The clock of the engine, and so of all workers."""
    return time.monotonic_ns() // 1000


class Accounts:
    """The row of one worker: its places, and who here waits for one."""

    def __init__(self, page: Page, row: int, bus: Bus) -> None:
        self.page = page
        self.row = row
        self._bus = bus
        # By the account that was in the way: whom to tell of room there.
        self._waiting: dict[int, dict[Callable[[], None], None]] = {}
        self._look: asyncio.TimerHandle | None = None
        self._pause_s = LOOK_S

    def open(self, database: str, user: str) -> Places:
        """Open the accounts of a pool; LoginError when there is no room for more."""
        page, row = self.page, self.row
        try:
            return Places(
                page.open(row, Kind.POOL, database, user),
                page.open(row, Kind.DATABASE, database),
                page.open(row, Kind.USER, user),
            )
        except PageFull as error:
            raise LoginError(str(error), TOO_MANY_CONNECTIONS) from None

    def open_peer(self, peer_id: int) -> Places:
        """Open the accounts of a peer, to which cancel requests are passed on.

        No database and no user has an empty name; LoginError as with ``open``.
        """
        page, row = self.page, self.row
        try:
            return Places(
                page.open(row, Kind.POOL, "", str(peer_id)),
                page.open(row, Kind.DATABASE, ""),
                page.open(row, Kind.USER, ""),
            )
        except PageFull as error:
            raise LoginError(str(error), TOO_MANY_CONNECTIONS) from None

    def close(self, places: Places) -> None:
        """Nobody here needs the accounts any more, but the servers that count there."""
        for account in places:
            self.page.close(self.row, account)

    def is_used(self, database: str) -> bool:
        """Whether any worker has a pool of a database, or PostgreSQL a server."""
        try:
            account = self.page.open(self.row, Kind.DATABASE, database)
        except PageFull:
            return False
        found = self.page.total(account, "refs") + self.page.total(account, "servers")
        self.page.close(self.row, account)
        return bool(found > 1)

    def take(
        self, places: Places, limits: Limits, on_room: Callable[[], None]
    ) -> Verdict:
        """Take a place for one more server.

        If there is none, ``on_room`` is called once, when it is worth another try.
        """
        verdict = self._take(places, limits)
        if verdict is not Verdict.TAKEN:
            self._waiting.setdefault(places.of(verdict), {})[on_room] = None
            if self._look is None:
                loop = asyncio.get_running_loop()
                self._look = loop.call_later(self._pause_s, self._look_again)
        return verdict

    def try_take(self, places: Places, limits: Limits) -> Verdict:
        """``take`` for who does not wait."""
        verdict = self._take(places, limits)
        if verdict is not Verdict.TAKEN and places.of(verdict) not in self._waiting:
            self.page.unwant(self.row, places.of(verdict))
        return verdict

    def _take(self, places: Places, limits: Limits) -> Verdict:
        return self.page.take_server(
            self.row,
            *places,
            now_us(),
            pool_limit=limits.pool,
            database_limit=limits.database,
            user_limit=limits.user,
        )

    def give(self, places: Places) -> None:
        """PostgreSQL is rid of a server: others may have its place."""
        self.page.give_server(self.row, *places)
        for account in places:
            for row in self.page.wanting(account):
                if row == self.row:
                    self._room(account)
                elif row < self._bus.slots:
                    self._bus.send(row, "room", {"account": account})

    def heard_room(self, message: BusMessage) -> None:
        """Another process has given a place back."""
        self._room(int(message.payload["account"]))

    def _look_again(self) -> None:
        """Everybody who waits for room looks again, while there is somebody.

        What is idle elsewhere may be asked for, and a message may have been lost. It
        takes no more than a small part of the time, however many they are.
        """
        begun_s = time.monotonic()
        for account in list(self._waiting):
            self._room(account)
        self._pause_s = max(LOOK_S, LOOK_PART * (time.monotonic() - begun_s))
        self._look = None
        if self._waiting:
            loop = asyncio.get_running_loop()
            self._look = loop.call_later(self._pause_s, self._look_again)

    def _room(self, account: int) -> None:
        """Whoever waits for this account tries again, and is refused again, or not."""
        waiting = self._waiting.pop(account, None)
        if not waiting:
            self.page.unwant(self.row, account)
            return
        for on_room in waiting:
            on_room()
