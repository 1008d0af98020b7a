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
import os
import time
from collections.abc import Callable
from typing import Any

from pooler.config.loading import Config
from pooler.config.settings import Settings, rows
from pooler.io.engine import Engine
from pooler.ipc.worker_start import WorkerStart
from pooler.worker.handover import Handover
from pooler.worker.hosts import Address
from pooler.worker.pool import Pool, Server
from pooler.worker.pools import Pools
from pooler.worker.server_tls import Attempt
from pooler.worker.servers import Way

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


class Luggage:
    """Takes servers out of this worker, and into it; see ``handover.Carrier``."""

    def __init__(self, engine: Engine, pools: Pools, count: Count) -> None:
        """``count``: a server of a pool was closed because it cannot move."""
        self._engine = engine
        self._pools = pools
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
        accounts = self._pools.accounts
        accounts.page.move_server(accounts.row, row, *server.pool.places)
        family, sockaddr = server.way.address
        return fd, {
            "pool": server.pool.key,
            "record": record.hex(),
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

    def take_back(self, row: int, fd: int, told: dict[str, Any]) -> None:
        """It could not be sent: it counts and works here again, or is closed."""
        pool = self._pools.by_names(*told["pool"])
        assert pool is not None and pool.places is not None  # noqa: S101, PT018
        accounts = self._pools.accounts
        try:
            accounts.page.move_server(row, accounts.row, *pool.places)
        except ValueError:  # that worker has died: with it went what it counted
            os.close(fd)
            return
        self.take_in(fd, told)

    # ------------------------------------------------------------ in

    def take_in(self, fd: int, told: dict[str, Any]) -> bool:
        """Use a server of another worker, or close it (False)."""
        database, user = told["pool"]
        pool = self._pools.by_names(database, user)
        if pool is not None and self._use(fd, pool, told):
            return True
        os.close(fd)
        accounts = self._pools.accounts
        places = accounts.open(database, user)
        accounts.give(places)
        accounts.close(places)
        return False

    def _use(self, fd: int, pool: Pool, told: dict[str, Any]) -> bool:
        """Have the engine take it over; False: ``fd`` is the caller's still."""
        if told["config"] != fingerprint(self._pools.config, pool):
            return False
        record = bytes.fromhex(told["record"])
        try:
            handle = self._engine.server_receive(fd, pool.pool_id, record)
        except (ValueError, MemoryError):
            return False
        family, sockaddr = told["address"]
        if not isinstance(sockaddr, str):
            sockaddr = tuple(sockaddr)
        way = Way(Address(family, sockaddr), told["host"])
        self._pools.launches.servers[handle] = Server(
            pool, way, told["pid"], bytes.fromhex(told["key"])
        )
        return True


def make_handover(
    start: WorkerStart,
    engine: Engine,
    pools: Pools,
    loop: asyncio.AbstractEventLoop,
) -> Handover:
    """What gives servers to other workers, and gets theirs."""
    board = start.board

    def beat_age_s(slot: int) -> float:
        now_us = time.monotonic_ns() // 1000
        return (now_us - board.get(slot, "heartbeat_us")) / 1e6

    made = Handover(
        engine,
        start.bus,
        Luggage(engine, pools, lambda key, what: made.count(key, what)),
        later=loop.call_later,
        process_of=lambda slot: board.get(slot, "pid"),
        beat_age_s=beat_age_s,
    )
    return made
