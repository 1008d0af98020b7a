# SPDX-License-Identifier: MIT
"""What makes the limits totals over all workers, put together. Worker layer, cold."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pooler.io.engine import Engine
from pooler.ipc.bus import Bus, BusMessage
from pooler.worker.databases import Databases
from pooler.worker.failures import Failures
from pooler.worker.pools import Pools
from pooler.worker.readiness import Readiness
from pooler.worker.sharing import Sharing
from pooler.worker.welcomes import Welcomes


class Totals:
    """Connects the pools of one worker with those of the others."""

    def __init__(self, engine: Engine, pools: Pools, bus: Bus) -> None:
        welcomes = Welcomes(pools, bus)
        sharing = Sharing(engine, pools, bus)
        pools.launches.on_refused += [welcomes.wanted, sharing.refused]
        pools.launches.on_closed.append(sharing.closed)
        pools.own_links.on_refused = sharing.refused_link
        pools.launches.on_failing.append(welcomes.failing)
        self._failures = Failures(pools, bus)
        databases = Databases(engine, pools, bus)
        pools.launches.before_refusal = databases.look
        self._looks = (Readiness(pools, sharing).look, databases.look)
        self.messages: Mapping[str, Callable[[BusMessage], None]] = {
            "room": pools.accounts.heard_room,
            "evict": sharing.asked,
            "evict_link": sharing.asked_link,
            "welcome?": welcomes.asked,
            "welcome": welcomes.told,
            **self._failures.messages,
            "in_use": databases.heard,
        }

    def beat(self) -> None:
        """Look at what changes by itself; several times a second."""
        for look in self._looks:
            look()
