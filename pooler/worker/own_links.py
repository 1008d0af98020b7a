# SPDX-License-Identifier: MIT
"""Connections of our own that log in to PostgreSQL. Worker layer, cold.

Those of auth_query, and logins by which a word is learned. They count as servers of
the pool of their names, as PgBouncer's auth_query does, and wait for a place as its
servers do. One that is idle is closed when somebody else needs its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

from pooler.board.page import Verdict
from pooler.config.settings import Database
from pooler.login.scram import ScramKeys
from pooler.worker.accounts import Accounts, Places, limits_of
from pooler.worker.servers import NO_PARAMETERS, ReadyServer, ServerOpener

# Closes an idle connection; False: there is none any more.
Evict = Callable[[], bool]
Names = tuple[str, str]


class OwnLinks:
    """Opens them, once they have a place; closes idle ones for others."""

    def __init__(self, opener: ServerOpener, accounts: Accounts) -> None:
        self._opener = opener
        self._accounts = accounts
        # Who does something about it that there is no place; set by the worker.
        self.on_refused: Callable[[Places, Verdict], None] = lambda *_: None
        self._idle: dict[Names, Evict] = {}

    async def open(
        self,
        database: Database,
        user: str,
        scram_keys: ScramKeys | None,
        parameters: Mapping[str, str] = NO_PARAMETERS,
    ) -> ReadyServer:
        """``ServerOpener.open`` as soon as there is a place; the caller limits that."""
        await self._opener.find_way(database)
        places = self._accounts.open(database.name, user)
        try:
            while True:
                room = asyncio.get_running_loop().create_future()
                limits = limits_of(self._opener.config, database, user)
                verdict = self._accounts.take(places, limits, partial(_happens, room))
                if verdict is Verdict.TAKEN:
                    break
                self.on_refused(places, verdict)
                await room
        except BaseException:
            self._accounts.close(places)
            raise
        self._accounts.close(places)  # they stay as long as the server counts there
        return await self._opener.open(
            database,
            user,
            scram_keys,
            parameters,
            places=places,
            gone=partial(self._accounts.give, places),
        )

    def idle(self, names: Names, evict: Evict) -> None:
        """There is an idle one of this database and user."""
        self._idle[names] = evict

    def let_go(self, is_unused: Callable[[str], bool]) -> None:
        """Close the idle ones of these databases; asked by the name of the entry."""
        for names, evict in list(self._idle.items()):
            if is_unused(names[0]):
                while evict():
                    pass
                del self._idle[names]

    def evict(self, places: Places) -> None:
        """Close an idle one that counts in any of these accounts, if there is one."""
        for names, evict in list(self._idle.items()):
            own = self._accounts.open(*names)
            self._accounts.close(own)
            if not set(own).intersection(places):
                continue
            if evict():
                return
            del self._idle[names]


def _happens(room: asyncio.Future[None]) -> None:
    if not room.done():
        room.set_result(None)
