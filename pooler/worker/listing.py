# SPDX-License-Identifier: MIT
"""Rows of this worker's connections, for the console. Worker layer, cold.

They are made in pieces, with turns of the loop in between: ten thousand clients hold
nobody up.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from pooler.config.model import RESERVED_DATABASE
from pooler.io.engine import Engine
from pooler.ipc.socket_row import SocketRow
from pooler.login import packets
from pooler.session.records import ClientState, ServerState
from pooler.worker.cancel import Cancels
from pooler.worker.pool import Pool, Server
from pooler.worker.pools import Pools

AT_ONCE = 256  # places of the table of connections: about a millisecond
CLIENT_STATES = {
    ClientState.CLIENT_LOGIN: "login",
    ClientState.CLIENT_IDLE: "idle",
    ClientState.CLIENT_WAITING: "waiting",
    ClientState.CLIENT_ACTIVE: "active",
}
SERVER_STATES = {
    ServerState.SERVER_IDLE: "idle",
    ServerState.SERVER_ACTIVE: "active",
    ServerState.SERVER_TESTED: "tested",
}
REPLICATION_NAMES = {"database": "logical", "true": "physical"}
_PORT = re.compile(r"\.s\.PGSQL\.(\d+)$")

Portion = Callable[[int, int], tuple[list[tuple[Any, ...]], int]]


class Listings:
    """The connections of one worker as rows."""

    def __init__(
        self, engine: Engine, pools: Pools, cancels: Cancels, slot: int
    ) -> None:
        self._engine = engine
        self._pools = pools
        self._cancels = cancels
        self._slot = slot

    def clients(self) -> AsyncIterator[list[SocketRow]]:
        """Every client, also those that log in and those that bring cancel requests."""
        return self._portions(self._engine.list_clients, self._client)

    def servers(self) -> AsyncIterator[list[SocketRow]]:
        """Every server that has logged in; not the console."""
        return self._portions(self._engine.list_servers, self._server)

    async def _portions(
        self,
        portion: Portion,
        row: Callable[[tuple[Any, ...], float], SocketRow | None],
    ) -> AsyncIterator[list[SocketRow]]:
        at = 0
        while True:
            found, at = portion(at, AT_ONCE)
            offset_s = time.time() - time.monotonic()
            rows = (row(one, offset_s) for one in found)
            yield [one for one in rows if one is not None]
            if not at:
                return
            await asyncio.sleep(0)

    def _client(self, found: tuple[Any, ...], offset_s: float) -> SocketRow | None:
        (handle, number, state, pool_id, link, opened_us, seen_us, wait_us) = found[:8]
        (peer, local, pid, user, label, tls, prepared, held, out, fd) = found[8:]
        pool = self._pools.by_id(pool_id)
        state = CLIENT_STATES.get(state)
        if state is None:
            return None
        if pool is not None and pool.is_console:
            state, link = "idle", 0  # what it is linked to is no server
        state = self._cancels.states.get(handle, state)
        return SocketRow(
            "C",
            packets.decode(user) if user else pool.user if pool else "(nouser)",
            _database(pool) if pool else "(nodb)",
            _replication(pool),
            state,
            *self._end(peer),
            *self._end(local),
            opened_us / 1e6 + offset_s,
            seen_us / 1e6 + offset_s,
            wait_us,
            0,
            self._pointer(handle),
            self._pointer(link),
            pid,
            tls,
            packets.decode(label),
            prepared,
            number,
            held,
            out,
            fd,
        )

    def _server(self, found: tuple[Any, ...], offset_s: float) -> SocketRow | None:
        handle, state, _, link, opened_us, used_us, cancels, obsolete = found[:8]
        local, label, tls, prepared, held, out, fd = found[8:]
        server = self._pools.launches.servers.get(handle)
        state = SERVER_STATES.get(state)
        if server is None or state is None or server.pool.is_console:
            return None
        return SocketRow(
            "S",
            server.pool.user,
            server.pool.database.name,
            _replication(server.pool),
            "being_canceled" if cancels and state == "idle" else state,
            *_address(server),
            *self._end(local, _address(server)[1]),
            opened_us / 1e6 + offset_s,
            used_us / 1e6 + offset_s,
            0,
            int(obsolete),
            self._pointer(handle),
            self._pointer(link),
            server.backend_pid,
            tls,
            packets.decode(label),
            prepared,
            server.id,
            held,
            out,
            fd,
        )

    def _end(self, name: tuple[str, int], unix_port: int = 0) -> tuple[str, int]:
        """An address as it is shown: a Unix socket has the port in its name."""
        if name[0] != "unix":
            return name
        return "unix", unix_port or self._pools.config.settings.listen_port

    def _pointer(self, handle: int) -> str:
        """What the log calls it; behind the number of the worker, if that is not 0."""
        return f"{self._slot << 64 | handle:#x}" if handle else ""


def _database(pool: Pool) -> str:
    return RESERVED_DATABASE if pool.is_console else pool.database.name


def _replication(pool: Pool | None) -> str:
    startup = pool.startup if pool is not None else None
    return REPLICATION_NAMES.get((startup or {}).get("replication", ""), "none")


def _address(server: Server) -> tuple[str, int]:
    family, name = server.way.address
    if family != socket.AF_UNIX:
        return str(name[0]), int(name[1])
    text = name if isinstance(name, str) else packets.decode(name)
    port = _PORT.search(text)
    return "unix", int(port[1]) if port else 0
