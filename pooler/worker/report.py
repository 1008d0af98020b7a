# SPDX-License-Identifier: MIT
"""What the console asks of a worker. Worker layer, cold.

A question brings a socket for its answer, which is one JSON value; so an answer may be
long, holds nobody up, and that of a dead worker ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

from pooler.ipc.bus import BusMessage, pack
from pooler.worker.handover import Handover
from pooler.worker.pool import Pool
from pooler.worker.pools import Pools


class Reports:
    """The questions of a worker's console, by kind."""

    def __init__(self, pools: Pools, handover: Handover) -> None:
        self._pools = pools
        self._handover = handover
        self._tasks: set[asyncio.Task[None]] = set()
        self._kinds: Mapping[str, Callable[[dict[str, Any]], Any]] = {
            "pools": self._report_pools,
            "reconnect": self._reconnect,
            "handovers": self._report_handovers,
        }

    def asked(self, message: BusMessage) -> None:
        """A question has come; the answer follows as its reader takes it."""
        sock = socket.socket(fileno=os.dup(message.fds[0]))
        sock.setblocking(False)
        try:
            answer = self._kinds[str(message.payload.get("kind"))](message.payload)
        except Exception:
            sock.close()
            raise
        task = asyncio.get_running_loop().create_task(_send(sock, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _report_pools(self, payload: dict[str, Any]) -> list[dict[str, Any]]:
        return [self._row(pool) for pool in self._pools.all() if not pool.is_console]

    def _row(self, pool: Pool) -> dict[str, Any]:
        return {
            "database": pool.database.name,
            "user": pool.user,
            **self._pools.stats(pool),
        }

    def _report_handovers(self, payload: dict[str, Any]) -> list[Any]:
        return [[*key, counts] for key, counts in self._handover.counts.items()]

    def _reconnect(self, payload: dict[str, Any]) -> bool:
        """Replace servers as they become free; says whether any database was meant."""
        return self._pools.reconnect(str(payload.get("database", "")))


async def _send(sock: socket.socket, answer: object) -> None:
    with sock, contextlib.suppress(OSError):  # nobody wants it any more
        await asyncio.get_running_loop().sock_sendall(sock, pack(answer))
