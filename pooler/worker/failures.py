# SPDX-License-Identifier: MIT
"""What one worker has found out of servers that fail, told to all. Worker layer, cold.

So a server that lets nobody in is tried by one worker after each pause, not by each of
them, and a client hears what is known wherever it lands. Bus messages: ``failing`` and
``opens`` of a pool, ``host`` of an address. Whoever misses one finds out by itself.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from pooler.errors import LocalResourceError, LoginError
from pooler.ipc.bus import Bus, BusMessage
from pooler.worker.hosts import Address
from pooler.worker.luggage import fingerprint
from pooler.worker.pool import Pool
from pooler.worker.pools import Pools

SECRETS = frozenset({"28"})  # PostgreSQL's class of SQLSTATEs "invalid authorization"
MOST_EARLY = 256


class Failures:
    """Tells others of failures here, and heeds theirs."""

    def __init__(self, pools: Pools, bus: Bus) -> None:
        self._pools = pools
        self._bus = bus
        self._health = pools.opener.hosts.health
        # Of pools that are not here yet: what was told, and until when it counts.
        self._early: dict[tuple[str, str], tuple[dict[str, Any], float]] = {}
        pools.on_made = self._made
        pools.launches.on_failing.append(self._failing)
        pools.launches.on_opens = self._opens
        self._health.tell = self._of_host
        self.messages: Mapping[str, Callable[[BusMessage], None]] = {
            "failing": self.heard_failing,
            "opens": self.heard_opens,
            "host": self.heard_of_host,
        }

    def _tell(self, kind: str, payload: dict[str, Any]) -> None:
        for slot in range(self._bus.slots):
            if slot != self._bus.own_slot:
                self._bus.send(slot, kind, payload)

    # ------------------------------------------------------------ pools

    def _failing(self, pool: Pool, error: LoginError) -> None:
        """A pause has begun here, for a reason that others have, too.

        Theirs may be another secret; and what this process is short of is its own.
        """
        is_own = isinstance(error, LocalResourceError)
        if is_own or error.sqlstate[:2] in SECRETS or pool.startup is not None:
            return
        backoff = pool.backoff
        told = {
            "pool": pool.key,
            "config": fingerprint(self._pools.config, pool),
            "message": error.message,
            "sqlstate": error.sqlstate,
            "hopeless": backoff.hopeless,
            "failures": backoff.failures,
            "pause_s": backoff.pause_s(time.monotonic()),
        }
        self._tell("failing", told)

    def _opens(self, pool: Pool) -> None:
        """A login has succeeded where others have failed."""
        if pool.startup is None:
            self._tell("opens", {"pool": pool.key})

    def heard_failing(self, message: BusMessage) -> None:
        """A login has failed in another worker."""
        told, now_s = message.payload, time.monotonic()
        database, user = told["pool"]
        pool = self._pools.by_names(database, user)
        until_s = now_s + float(told["pause_s"])
        if pool is not None:
            self._heed(pool, told, until_s)
            return
        while len(self._early) >= MOST_EARLY:
            del self._early[next(iter(self._early))]
        self._early[database, user] = told, until_s

    def _made(self, pool: Pool) -> None:
        """There is a pool here now of which others may have told."""
        early = self._early.pop(pool.key, None)
        if early is not None and early[1] > time.monotonic():
            self._heed(pool, *early)

    def _heed(self, pool: Pool, told: dict[str, Any], until_s: float) -> None:
        if told["config"] != fingerprint(self._pools.config, pool):
            return
        now_s = time.monotonic()
        pool.backoff.heard(
            LoginError(told["message"], told["sqlstate"]),
            now_s,
            pause_s=until_s - now_s,
            failures=int(told["failures"]),
            hopeless=bool(told["hopeless"]),
        )

    def heard_opens(self, message: BusMessage) -> None:
        """One has succeeded there: nobody waits any longer here."""
        database, user = message.payload["pool"]
        self._early.pop((database, user), None)
        pool = self._pools.by_names(database, user)
        if pool is not None and pool.backoff.failure is not None:
            pool.backoff.forget()
            self._pools.launches.try_again(pool)

    # ------------------------------------------------------------ hosts

    def _of_host(self, place: Hashable, what: str) -> None:
        if isinstance(place, Address):
            where = [int(place.family), place.sockaddr]
            self._tell("host", {"address": where, "what": what})

    def heard_of_host(self, message: BusMessage) -> None:
        """An address has failed in another worker, has answered, or let us in."""
        family, sockaddr = message.payload["address"]
        if not isinstance(sockaddr, str):
            sockaddr = tuple(sockaddr)
        place = Address(socket.AddressFamily(family), sockaddr)
        self._health.heard(place, str(message.payload["what"]))
