# SPDX-License-Identifier: MIT
"""What servers say at their login, told by one worker to another. Worker layer, cold.

A client is told the parameters of its pool at its login, and no server has to be free
for that. Where all that the pool may have are open in other workers, or this one is
short of descriptors, it asks them what theirs have said (bus messages ``welcome?`` and
``welcome``).
"""

from __future__ import annotations

from pooler.board.page import Verdict
from pooler.errors import LocalResourceError, LoginError
from pooler.ipc.bus import Bus, BusMessage
from pooler.worker.pool import Pool
from pooler.worker.pools import Pools


class Welcomes:
    """Asks and answers for the pools of one worker."""

    def __init__(self, pools: Pools, bus: Bus) -> None:
        self._pools = pools
        self._bus = bus

    def wanted(self, pool: Pool, verdict: Verdict) -> None:
        """A pool may open no server: ask those who have some, if clients wait."""
        self._ask(pool)

    def failing(self, pool: Pool, error: LoginError) -> None:
        """A pool can open no server for a while: as above, if that is our own fault."""
        if isinstance(error, LocalResourceError):
            self._ask(pool)

    def _ask(self, pool: Pool) -> None:
        if not pool.on_welcome or pool.startup is not None or pool.places is None:
            return
        page, own = self._pools.accounts.page, self._bus.own_slot
        names = {"database": pool.database.name, "user": pool.user}
        for slot in range(self._bus.slots):
            if slot != own and page.cell(pool.places.pool, slot)["servers"]:
                self._bus.send(slot, "welcome?", names)

    def asked(self, message: BusMessage) -> None:
        """Another worker asks; who has no welcome says nothing."""
        pool = self._pool(message)
        if pool is not None and pool.welcome is not None:
            self._bus.send(
                message.sender, "welcome", {**message.payload, "said": pool.welcome}
            )

    def told(self, message: BusMessage) -> None:
        """Another worker has answered; what a server of our own says comes first."""
        pool = self._pool(message)
        if pool is not None and pool.welcome is None and pool.on_welcome:
            pool.learn(dict(message.payload["said"]))
            self._pools.launches.settle_welcome(pool)

    def _pool(self, message: BusMessage) -> Pool | None:
        payload = message.payload
        return self._pools.by_names(str(payload["database"]), str(payload["user"]))
