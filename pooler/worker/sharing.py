# SPDX-License-Identifier: MIT
"""Who gives a server up so that somebody else may have one. Worker layer, cold.

Who is refused a server looks on the page for one that is idle, by the limit that is in
the way: of the same pool in another worker, or of another pool of the database or the
user in any. Its worker is asked to close it (bus message ``evict``); the place that
comes free is told to those who wait for it. If all servers of the pool are at work, the
next one that is free is asked for where clients of another worker wait less long.

This is the place where it is decided who gives up what. That a server is closed here
and another one opened there is the plain way, which is right for every server.

Source: PgBouncer documentation, "max_db_connections", "max_user_connections".
"""

from __future__ import annotations

from pooler.board.page import Verdict
from pooler.io.engine import Engine
from pooler.ipc.bus import Bus, BusMessage
from pooler.worker.accounts import LOOK_S, Accounts, Places, now_us
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
        self._asked_us: dict[int, int] = {}  # by account: when somebody was asked

    @property
    def _accounts(self) -> Accounts:
        return self._pools.accounts

    # ------------------------------------------------------------ asking

    def refused(self, pool: Pool, verdict: Verdict) -> None:
        """A pool may open no server: ask for one that somebody can do without."""
        if pool.places is None or not self._is_waited_for(pool):
            return
        account = pool.places.of(verdict)
        if verdict is Verdict.POOL_FULL and pool.startup is None:
            # of the servers of a pool ``worker/handover`` takes care
            if self._is_due(account):
                self._ask_links(account)
            return
        since_us = self._pools.stats(pool)["waiting_since_us"] or now_us()
        self._ask(pool.places, verdict, since_us)

    def refused_link(self, places: Places, verdict: Verdict) -> None:
        """The same of a connection of our own."""
        self._ask(places, verdict, now_us())

    def _is_waited_for(self, pool: Pool) -> bool:
        stats = self._pools.stats(pool)
        if pool.on_welcome and (pool.welcome is None or pool.startup is not None):
            return True
        return stats["waiting"] > stats["connecting"] + stats["tested"]

    def _ask(self, places: Places, verdict: Verdict, since_us: int) -> None:
        """Ask once for each account in a while: looking costs something."""
        account = places.of(verdict)
        if not self._is_due(account):
            return
        found = self._accounts.page.oldest_idle(account)
        if found is not None:
            slot, victim = found
            self._tell(slot, victim)
            return
        self._ask_links(account)
        if verdict is Verdict.POOL_FULL:
            self._ask_who_waits_less(places.pool, since_us)

    def _is_due(self, account: int) -> bool:
        now = now_us()
        if now - self._asked_us.get(account, 0) < LOOK_S * 1e6 / 2:
            return False
        if len(self._asked_us) > 1024:
            self._asked_us.clear()
        self._asked_us[account] = now
        return True

    def _ask_links(self, account: int) -> None:
        """Connections of our own that are idle may go."""
        for slot in range(self._bus.slots):
            if slot != self._bus.own_slot:
                self._bus.send(slot, "evict_link", {"accounts": [account]})
        self._pools.own_links.evict(Places(account, account, account))

    def _ask_who_waits_less(self, account: int, since_us: int) -> None:
        page, own, now = self._accounts.page, self._bus.own_slot, now_us()
        later_us = {}
        for slot in range(self._bus.slots):
            row = page.cell(account, slot)
            if slot != own and row["servers"]:
                later_us[slot] = row["waiting_since_us"] or now
        slot = max(later_us, key=lambda slot: later_us[slot], default=own)
        if slot != own and later_us[slot] - since_us > UNFAIR_US:
            self._tell(slot, account)

    def _tell(self, slot: int, account: int) -> None:
        if slot == self._bus.own_slot:
            self._give_up(account)
        else:
            self._bus.send(slot, "evict", {"account": account})

    # ------------------------------------------------------------ giving up

    def asked(self, message: BusMessage) -> None:
        """Somebody else needs a place that a server of ours has."""
        self._give_up(int(message.payload["account"]))

    def asked_link(self, message: BusMessage) -> None:
        """Somebody else needs a place that a connection of our own has."""
        [account] = message.payload["accounts"]
        self._pools.own_links.evict(Places(account, account, account))

    def _give_up(self, account: int) -> None:
        pool = self._pools.by_account(account)
        if pool is not None:
            self.give_up(pool)

    def give_up(self, pool: Pool, *, idle_only: bool = False) -> bool:
        """Close an idle server now, or else the next one that is free; False: none."""
        stats = self._pools.stats(pool)
        if stats["idle"] > stats["waiting"]:
            self._engine.pool_evict(pool.pool_id)
        elif not idle_only and 0 < stats["servers"] <= stats["max_servers"]:
            # one too many: it goes as soon as it is free; see ``closed``
            self._engine.pool_resize(pool.pool_id, stats["servers"] - 1)
        else:
            return False
        return True

    def closed(self, pool: Pool) -> None:
        """A server is gone: the pool may have as many again as all workers may."""
        if pool.startup is None and pool.places is not None:
            self._pools.resize(pool)
