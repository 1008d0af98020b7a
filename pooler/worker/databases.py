# SPDX-License-Identifier: MIT
"""CREATE, ALTER and DROP DATABASE through us. Worker layer, cold.

PostgreSQL refuses them while somebody is connected to the database, or to the one that
is copied, and waits up to five seconds for those to go. An idle server of ours would be
such a somebody, though its clients have left: sharing would show. So when such a
command has gone out (the engines count, on the board), every worker tells the others
which databases it has clients of, and once all have told, each closes the idle servers
of the databases that nobody uses. Where a client is connected, PostgreSQL refuses as it
would without us. When the command is done, a login that failed for want of the
database is forgotten.

Source: PostgreSQL documentation, "DROP DATABASE", "Template Databases".
"""

from __future__ import annotations

from collections.abc import Iterable

from pooler.config.settings import Database
from pooler.io.engine import Engine
from pooler.ipc.bus import Bus, BusMessage
from pooler.worker.pool import Pool
from pooler.worker.pools import Pools

# Of a login: there is no such database, or it lets nobody in for now.
ABOUT_DATABASES = frozenset({"3D000", "55000"})
# A message of the bus has room for so many; with more, none is closed.
MOST_BYTES = 32 * 1024


def real_name(database: Database) -> str:
    """How PostgreSQL calls it."""
    return database.dbname or database.name


class Databases:
    """Sees to it that idle servers of one worker are in nobody's way."""

    def __init__(self, engine: Engine, pools: Pools, bus: Bus) -> None:
        self._engine = engine
        self._pools = pools
        self._bus = bus
        self._seen = engine.database_commands()
        self._in_use: dict[int, set[str] | None] = {}  # by worker; None: any may be

    def look(self) -> None:
        """Go on if a command has been seen, here or in another worker."""
        number = self._engine.database_commands()
        if number == self._seen:
            return
        self._seen = number
        self._in_use.clear()
        self.forget_failures()
        used = sorted(
            {real_name(one.database) for one in self._pools.all() if self._is_used(one)}
        )
        told = used if sum(map(len, used)) <= MOST_BYTES else None
        for slot in range(self._bus.slots):
            if slot != self._bus.own_slot:
                self._bus.send(slot, "in_use", {"number": number, "databases": told})
        self._hear(self._bus.own_slot, used)

    def heard(self, message: BusMessage) -> None:
        """Another worker says which databases it has clients of."""
        number = int(message.payload["number"])
        if number != self._seen:
            self.look()
        if number == self._seen:
            self._hear(message.sender, message.payload["databases"])

    def forget_failures(self) -> None:
        """A database that was not there may be there now."""
        for pool in self._pools.shared():
            failure = pool.backoff.failure
            if failure is not None and failure.sqlstate in ABOUT_DATABASES:
                pool.backoff.forget()

    def _is_used(self, pool: Pool) -> bool:
        return not pool.is_console and bool(self._pools.stats(pool)["clients"])

    def _hear(self, slot: int, databases: Iterable[str] | None) -> None:
        self._in_use[slot] = None if databases is None else set(databases)
        if len(self._in_use) < self._bus.slots:
            return  # one that is being born tells nothing: then none is closed
        for pool in self._pools.shared():
            if self._is_unused(pool.database):
                self._pools.replace_servers(pool)
        self._pools.own_links.let_go(
            lambda name: self._is_unused(self._pools.database(name))
        )

    def _is_unused(self, database: Database | None) -> bool:
        """Whether no worker has told of a client; None: the database is no more."""
        return database is None or all(
            one is not None and real_name(database) not in one
            for one in self._in_use.values()
        )
