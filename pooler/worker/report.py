# SPDX-License-Identifier: MIT
"""What the console asks of a worker. Worker layer, cold.

A question brings a socket for its answer, which is one JSON value, or for a list any
number of lines of it; so an answer may be long, holds nobody up, and that of a dead
worker ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from pooler import log
from pooler.io.engine import Engine
from pooler.ipc.bus import BusMessage, pack
from pooler.worker.cancel import Cancels
from pooler.worker.handover import Handover
from pooler.worker.listing import Listings
from pooler.worker.pauses import Pauses
from pooler.worker.pool import Pool
from pooler.worker.pools import Pools
from pooler.worker.prepared import statements

Payload = dict[str, Any]


class Reports:
    """The questions of a worker's console, by kind."""

    def __init__(
        self,
        engine: Engine,
        pools: Pools,
        cancels: Cancels,
        pauses: Pauses,
        handover: Handover,
        slot: int,
    ) -> None:
        self._engine = engine
        self._pools = pools
        self._cancels = cancels
        self._pauses = pauses
        self._handover = handover
        self._slot = slot
        listings = Listings(engine, pools, cancels, slot)
        self._tasks: set[asyncio.Task[None]] = set()
        self._values: Mapping[str, Callable[[Payload], Any]] = {
            "pools": self._report_pools,
            "counts": self._report_counts,
            "dns_hosts": lambda _: self._pools.opener.names.host_rows(),
            "dns_zones": lambda _: self._pools.opener.names.zone_rows(),
            "peer_pools": lambda _: self._cancels.of_peers(),
            "handovers": self._report_handovers,
            "reconnect": lambda asked: self._pools.reconnect(_database(asked)),
            "kill": lambda asked: self._pauses.kill(_database(asked)),
            "kill_client": lambda asked: self._pauses.kill_client(int(asked["id"])),
        }
        self._lists: Mapping[str, Callable[[], AsyncIterator[Any]]] = {
            "clients": listings.clients,
            "servers": listings.servers,
            "statements": lambda: statements(engine, pools),
        }
        self._waits: Mapping[str, Callable[[str], Awaitable[str]]] = {
            "until_paused": pauses.until_paused,
            "until_closed": pauses.until_closed,
            "until_suspended": pauses.until_suspended,
        }

    def asked(self, message: BusMessage) -> None:
        """A question has come; the answer follows as its reader takes it."""
        sock = socket.socket(fileno=os.dup(message.fds[0]))
        sock.setblocking(False)
        task = asyncio.get_running_loop().create_task(
            self._answer(sock, str(message.payload.get("kind")), message.payload)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, sock: socket.socket, kind: str, payload: Payload) -> None:
        with sock:
            try:
                if kind in self._lists:
                    async for portion in self._lists[kind]():
                        await _send(sock, portion)
                elif kind in self._waits:
                    await _send(
                        sock,
                        await _unless_gone(sock, self._waits[kind](_database(payload))),
                    )
                else:
                    await _send(sock, self._values[kind](payload))
            except OSError:
                pass  # nobody wants it any more
            except Exception:
                log.write_exception(f"question {kind} of the console failed")

    def _report_pools(self, payload: Payload) -> list[dict[str, Any]]:
        rows = [self._row(pool) for pool in self._pools.all() if not pool.is_console]
        past = [{"pid": os.getpid(), **row} for row in self._pools.past.rows()]
        return rows + past

    def _row(self, pool: Pool) -> dict[str, Any]:
        return {
            "database": pool.database.name,
            "user": pool.user,
            "pid": os.getpid(),
            **self._pools.stats(pool),
            **self._cancels.of_pool(pool),
        }

    def _report_counts(self, payload: Payload) -> dict[str, int]:
        """Sizes of this worker; its own connections to the console are no servers."""
        counts = self._engine.counters()
        consoles = sum(
            self._pools.stats(pool)["servers"]
            for pool in self._pools.all()
            if pool.is_console
        )
        counts["servers"] -= consoles
        counts["consoles"] = consoles
        counts |= self._pools.opener.names.counts()
        return {**counts, "slot": self._slot}

    def _report_handovers(self, payload: Payload) -> list[Any]:
        return [[*key, counts] for key, counts in self._handover.counts.items()]


def _database(payload: Payload) -> str:
    return str(payload.get("database", ""))


async def _send(sock: socket.socket, answer: object) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, pack(answer) + b"\n")


async def _unless_gone(sock: socket.socket, answer: Awaitable[str]) -> str:
    """The answer, unless whoever has asked hangs up: OSError."""
    loop = asyncio.get_running_loop()
    wanted = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(loop.sock_recv(sock, 1))
    try:
        await asyncio.wait((wanted, gone), return_when=asyncio.FIRST_COMPLETED)
        if wanted.done():
            return wanted.result()
        raise ConnectionResetError
    finally:
        for one in (wanted, gone):
            one.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await one
