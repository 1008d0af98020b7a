# SPDX-License-Identifier: MIT
"""What Python knows of a server, on its way to another worker. Worker layer, cold.

The engine writes down the session (``relay/moves``); beside it travel how the server
was reached and how it is cancelled, and under which configuration it was opened: where
another one runs, it is closed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pooler.config.model import Config
from pooler.config.settings import Settings, rows
from pooler.io.engine import Engine
from pooler.ipc.bus import MASTER, Bus
from pooler.ipc.worker_start import WorkerStart
from pooler.worker.departures import Departures
from pooler.worker.handover import Handover
from pooler.worker.hosts import Address
from pooler.worker.pool import Pool, Server
from pooler.worker.pools import Pools
from pooler.worker.server_tls import Attempt
from pooler.worker.servers import Way
from pooler.worker.stays import Backend, Stay, Stays

Count = Callable[[tuple[str, str], str], None]  # of a pool, by its names: what

# A server that speaks TLS cannot move: another one is opened, at some cost.
TLS_PATIENCE_US = 200_000


def fingerprint(config: Config, pool: Pool) -> str:
    """What servers of a pool depend on, as a short text that tells no secret.

    The same in all workers, whether they were sent a configuration or born with it.
    """
    database, settings = pool.database, config.settings
    facts = [
        *(getattr(database, each.name) for each in dataclasses.fields(database)),
        *(getattr(settings, row.name) for row in rows(Settings) if row.reconnect),
        config.hosts(database),
        config.server_tls(database),
        config.pool_mode(database, pool.user),
        settings.server_reset_query,
    ]
    return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()


class ByMaster:
    """The bus, but servers go by way of the master; see ``master/wards``."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def send(
        self, slot: int, kind: str, payload: dict[str, Any], fds: Sequence[int] = ()
    ) -> bool:
        """As ``Bus.send``."""
        if kind == "server":
            return self._bus.send(MASTER, kind, {**payload, "to": slot}, fds)
        return self._bus.send(slot, kind, payload, fds)


class Luggage:
    """Takes servers out of this worker, and into it; see ``handover.Carrier``."""

    def __init__(
        self,
        engine: Engine,
        pools: Pools,
        stays: Stays,
        departures: Departures,
        count: Count,
    ) -> None:
        """``count``: a server of a pool was closed because it cannot move."""
        self._engine = engine
        self._pools = pools
        self._stays = stays
        self._departures = departures
        self._count = count

    def pool_of(self, key: tuple[str, str]) -> Pool | None:
        """The pool of a database and a user, if there is one here."""
        return self._pools.by_names(*key)

    # ------------------------------------------------------------ out

    def send_off(self, handle: int, row: int) -> tuple[int, dict[str, Any]] | None:
        """Let go of a server; see ``handover.Carrier``."""
        servers = self._pools.launches.servers
        server = servers.get(handle)
        if server is None or server.pool.places is None:
            return None
        given = self._engine.server_give(handle)
        if given is None:
            if server.way.attempt is Attempt.TLS:
                self._replace(handle, server)
            return None
        fd, record = given
        del servers[handle]
        backend = self._stays.give_away(handle)
        assert backend is not None  # noqa: S101 - every server in PostgreSQL has one
        self._pools.resize(server.pool)  # was one to go from here: it has gone
        family, sockaddr = server.way.address
        return fd, {
            "pool": server.pool.key,
            "number": backend.number,
            "places": server.pool.places,
            "record": record.hex(),
            "id": server.id,
            "pid": server.backend_pid,
            "key": server.cancel_key.hex(),
            "address": [int(family), sockaddr],
            "host": server.way.host,
            "config": fingerprint(self._pools.config, server.pool),
        }

    def _replace(self, handle: int, server: Server) -> None:
        """Its place goes to who waits elsewhere, and another server is opened there."""
        self._engine.pool_patience(server.pool.pool_id, TLS_PATIENCE_US)
        self._engine.server_retire(handle)
        self._count(server.pool.key, "closed")

    # ------------------------------------------------------------ in

    def take_in(self, fd: int, told: dict[str, Any]) -> bool:
        """Use a server of another worker, or close it (False)."""
        database, user = told["pool"]
        pool = self._pools.by_names(database, user)
        if pool is not None and self._use(fd, pool, told):
            return True
        accounts = self._pools.accounts
        places = accounts.open(database, user)

        def gone() -> None:
            accounts.give(places)
            accounts.close(places)

        self._departures.take(fd, self._backend(told, Stay(gone, places)))
        return False

    def bury(self, fd: int, told: dict[str, Any]) -> None:
        """End one that was sent to a dead worker, whose places it had."""
        self._departures.take(fd, self._backend(told, None))

    def _backend(self, told: dict[str, Any], stay: Stay | None) -> Backend:
        database, user = told["pool"]
        key = bytes.fromhex(told["key"])
        return Backend(
            told["number"], stay, database, user, told["pid"], key, _way(told)
        )

    def _use(self, fd: int, pool: Pool, told: dict[str, Any]) -> bool:
        """Have the engine take it over; False: ``fd`` is the caller's still."""
        if told["config"] != fingerprint(self._pools.config, pool):
            return False
        record = bytes.fromhex(told["record"])
        try:
            handle = self._engine.server_receive(fd, pool.pool_id, record)
        except (ValueError, MemoryError):
            return False
        stay = Stay(partial(self._pools.launches.give_place, pool), pool.places)
        backend = self._backend(told, stay)
        self._stays.inherit(handle, backend)
        self._pools.launches.servers[handle] = Server(
            pool, backend.way, backend.pid, backend.key, told["id"], has_moved=True
        )
        return True


def _way(told: dict[str, Any]) -> Way:
    """How a server was reached: never by TLS, for such a one does not move."""
    family, sockaddr = told["address"]
    if not isinstance(sockaddr, str):
        sockaddr = tuple(sockaddr)
    return Way(Address(family, sockaddr), told["host"])


def make_handover(
    start: WorkerStart,
    engine: Engine,
    pools: Pools,
    stays: Stays,
    departures: Departures,
) -> Handover:
    """What gives servers to other workers, and gets theirs."""
    board = start.board

    def beat_age_s(slot: int) -> float:
        now_us = time.monotonic_ns() // 1000
        return (now_us - board.get(slot, "heartbeat_us")) / 1e6

    made = Handover(
        engine,
        ByMaster(start.bus),
        Luggage(
            engine, pools, stays, departures, lambda key, what: made.count(key, what)
        ),
        later=lambda delay_s, call: asyncio.get_running_loop().call_later(
            delay_s, call
        ),
        process_of=lambda slot: board.get(slot, "pid"),
        beat_age_s=beat_age_s,
    )
    return made
