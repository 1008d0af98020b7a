# SPDX-License-Identifier: MIT
"""Pools that nobody uses go, and what the files do not have. Worker layer, cold.

A pool is unused that has no client and no server and for which nobody logs in. Each
worker drops its own: of a database that came from ``*`` after ``autodb_idle_timeout``,
all pools of it together; any other after ``pool_idle_timeout``; one whose database was
taken out of the files at once. A name that comes back begins anew.

Source: PgBouncer documentation, "autodb_idle_timeout", "pool_idle_timeout".
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from pooler import log
from pooler.config.model import Config
from pooler.config.settings import Settings
from pooler.io.engine import Engine
from pooler.worker.pool import Pool
from pooler.worker.pools import Pools

LONGEST_PAUSE_S = 60.0  # between two looks
LOOKS = 20  # at least, in a timeout
AT_ONCE = 256  # pools that go in one look: some milliseconds
DROPPED = (
    "dropping database '{}' as it does not exist anymore or inactive auto-database"
)
CLEANED = "cleaning up idle pool for user {} on db {} because: pool idle timeout"


class Unused:
    """Since when the pools of one worker have been unused."""

    def __init__(
        self,
        engine: Engine,
        pools: Pools,
        database_gone: Sequence[Callable[[str], None]],
    ) -> None:
        """``database_gone``: who hears that one that is not listed has no pool here."""
        self._engine = engine
        self._pools = pools
        self._database_gone = database_gone
        self._config: Config | None = None  # that was looked at last
        self._next_s = 0.0
        # By the engine's id: since when, and how many clients had logged in by then.
        self._since: dict[int, tuple[float, int]] = {}

    def look(self) -> None:
        """Drop what has been unused for long enough; called with each beat.

        Cost: O(pools), but rarely.
        """
        config, now_s = self._pools.config, time.monotonic()
        if config is not self._config:
            self._config = config
            self._next_s = 0.0
        if now_s < self._next_s:
            return
        self._next_s = now_s + _pause_s(config.settings)
        self._note(now_s)
        budget = AT_ONCE
        for name, pools in self._by_database().items():
            if budget <= 0:
                self._next_s = now_s
                break
            budget -= self._look_at(config, name, pools, now_s)
        self._forget_past(config)

    def _note(self, now_s: float) -> None:
        """Take down which pools are unused. Nothing goes that was not so before."""
        before = self._since
        self._since = {}
        for pool_id, logins in self._engine.pools_empty().items():
            pool = self._pools.by_id(pool_id)
            if pool is None or pool.startup is not None or pool.is_awaited:
                continue
            since = before.get(pool_id)
            if since is None or since[1] != logins:
                since = (now_s, logins)
            self._since[pool_id] = since

    def _by_database(self) -> dict[str, list[Pool]]:
        found: dict[str, list[Pool]] = defaultdict(list)
        for pool in self._pools.shared():
            found[pool.database.name].append(pool)
        return found

    def _look_at(
        self, config: Config, name: str, pools: list[Pool], now_s: float
    ) -> int:
        """Drop the pools of a database that are due; how many there were."""
        unused = [pool for pool in pools if pool.pool_id in self._since]
        if not unused:
            return 0
        ages_s = {pool.pool_id: now_s - self._since[pool.pool_id][0] for pool in unused}
        is_listed = name in config.databases
        if not is_listed and config.autodb is None:
            due = [pool for pool in unused if ages_s[pool.pool_id] > 0]
            self._next_s = now_s  # the others follow with the next beat
        elif self._is_inactive(config, name, len(unused) == len(pools), ages_s):
            due = pools
        else:
            limit_s = config.settings.pool_idle_timeout
            due = [
                pool
                for pool in unused
                if limit_s and ages_s[pool.pool_id] > limit_s
                if not self._is_kept_ready(config, pool)
            ]
        if len(due) == len(pools) and not is_listed:
            for gone in self._database_gone:
                gone(name)
        for pool in due:
            self._drop(config, pool)
        return len(due)

    def _is_inactive(
        self, config: Config, name: str, is_all: bool, ages_s: dict[int, float]
    ) -> bool:
        """Whether a database that came from ``*`` goes; never a paused one."""
        limit_s = config.settings.autodb_idle_timeout
        held = config.state.paused_databases | config.state.disabled
        if name in config.databases or not limit_s or name in held:
            return False
        return is_all and min(ages_s.values()) > limit_s

    def _is_kept_ready(self, config: Config, pool: Pool) -> bool:
        """Whether ``min_pool_size`` would bring it back at once."""
        return pool.database.user == pool.user and bool(
            config.min_pool_size(pool.database)
        )

    # ------------------------------------------------------------ dropping

    def _drop(self, config: Config, pool: Pool) -> None:
        name = pool.database.name
        stats = self._pools.stats(pool)
        last_pool, last_database = self._is_last(pool)
        del self._since[pool.pool_id]
        if not self._pools.drop(pool):
            return
        if name in config.databases:
            self._pools.past.add(name, stats)
            if last_pool:
                log.write(log.LOG, CLEANED.format(pool.user, name))
        elif last_database:
            log.write(log.WARNING, DROPPED.format(name))
        elif config.autodb is not None:
            self._pools.past.add(name, stats)

    def _is_last(self, pool: Pool) -> tuple[bool, bool]:
        """Whether no other pool here or elsewhere has its names, or its database."""
        assert pool.places is not None  # noqa: S101 - only the console's has none
        page = self._pools.accounts.page
        return (
            page.total(pool.places.pool, "refs") == 1,
            page.total(pool.places.database, "refs") == 1,
        )

    def _forget_past(self, config: Config) -> None:
        """Totals of a database go with its last pool, unless the files list it."""
        for name in self._pools.past.names():
            if name in config.databases:
                continue
            if config.autodb is None or not self._pools.accounts.is_used(name):
                self._pools.past.forget(name)


def _pause_s(settings: Settings) -> float:
    timeouts_s = (settings.autodb_idle_timeout, settings.pool_idle_timeout)
    shortest_s = min((one for one in timeouts_s if one), default=LONGEST_PAUSE_S)
    return min(shortest_s / LOOKS, LONGEST_PAUSE_S)
