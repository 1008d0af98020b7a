# SPDX-License-Identifier: MIT
"""Who gives a server up so that somebody else may have one. Worker layer, cold.

A pool that is refused a server looks on the page for one that is idle elsewhere, by the
limit that is in the way: of the same pool in another worker, or of another pool of the
database or the user in any. Its worker is asked to close it (bus message ``evict``);
the place that comes free is told to those who wait for it. If all of them are at work,
one is asked for that is given up when its client is done, where clients of the other
worker wait for less long than ours.

This is the place where it is decided who gives up what; that a server is closed here
and another one opened there is the plain way, which is right for every server.
"""

from __future__ import annotations

from pooler.board.page import Verdict
from pooler.io.engine import Engine
from pooler.ipc.bus import Bus, BusMessage
from pooler.worker.accounts import Accounts, now_us
from pooler.worker.pool import Pool
from pooler.worker.pools import Pools

# Who waits longer than others by this gets a server from them.
UNFAIR_US = 200_000


class Sharing:
    """What one worker asks of others, and gives up for them."""

    def __init__(self, engine: Engine, pools: Pools, bus: Bus) -> None:
        self._engine = engine
        self._pools = pools
        self._bus = bus

    @property
    def _accounts(self) -> Accounts:
        return self._pools.accounts

    # ------------------------------------------------------------ asking

    def refused(self, pool: Pool, verdict: Verdict) -> None:
        """A pool may open no server: ask for one that somebody can do without."""
        if pool.places is None or not self._is_waited_for(pool):
            return
        if verdict is Verdict.POOL_FULL and pool.startup is not None:
            self._ask_same_pool(pool)  # of the others ``worker/handover`` takes care

    def _is_waited_for(self, pool: Pool) -> bool:
        stats = self._pools.stats(pool)
        if pool.on_welcome and (pool.welcome is None or pool.startup is not None):
            return True
        return stats["waiting"] > stats["connecting"] + stats["tested"]

    def _ask_same_pool(self, pool: Pool) -> None:
        """Ask the worker that has an idle one, or whose clients wait less long."""
        assert pool.places is not None  # noqa: S101 - what the caller has asked
        page, own = self._accounts.page, self._bus.own_slot
        waits_since_us = self._pools.stats(pool)["waiting_since_us"] or now_us()
        rows = {
            slot: page.cell(pool.places.pool, slot)
            for slot in range(self._bus.slots)
            if slot != own or pool.startup is not None
        }
        spare = [slot for slot, row in rows.items() if row["idle"] > row["waiting"]]
        if spare:
            slot = min(spare, key=lambda slot: rows[slot]["idle_since_us"])
            self._ask(slot, pool)
            return
        now = now_us()
        later = {
            slot: row["waiting_since_us"] or now
            for slot, row in rows.items()
            if slot != own and row["servers"]
        }
        slot = max(later, key=lambda slot: later[slot], default=own)
        if slot != own and later[slot] - waits_since_us > UNFAIR_US:
            self._ask(slot, pool)

    def _ask(self, slot: int, pool: Pool) -> None:
        names = {"database": pool.database.name, "user": pool.user}
        if slot == self._bus.own_slot:
            self._give_up(pool.database.name, pool.user)
        else:
            self._bus.send(slot, "evict", names)

    # ------------------------------------------------------------ giving up

    def asked(self, message: BusMessage) -> None:
        """Somebody else needs a place that a server of ours has."""
        self._give_up(str(message.payload["database"]), str(message.payload["user"]))

    def _give_up(self, database: str, user: str) -> None:
        """Close an idle server now, or else the next one that is free."""
        pool = self._pools.by_names(database, user)
        if pool is None:
            return
        stats = self._pools.stats(pool)
        if stats["servers"] and stats["servers"] <= stats["max_servers"]:
            # one too many: it goes as soon as it is free; see ``closed``
            self._engine.pool_resize(pool.pool_id, stats["servers"] - 1)
            if stats["idle"]:
                self.closed(pool)

    def closed(self, pool: Pool) -> None:
        """A server is gone: the pool may have as many again as all workers may."""
        if pool.startup is None and pool.places is not None:
            self._pools.resize(pool)
