# SPDX-License-Identifier: MIT
"""``min_pool_size``, and limits that have become lower. Worker layer, cold.

Looked at with each beat. As with PgBouncer a pool is filled up by one server a beat,
and only where somebody may need it: it has clients, or a database forces its user.
Which worker opens it does not matter: the page says when there are enough.

Source: PgBouncer documentation, "min_pool_size".
"""

from __future__ import annotations

import time

from pooler import log
from pooler.config.model import Config
from pooler.errors import LoginError
from pooler.worker.accounts import limits_of
from pooler.worker.pool import Pool
from pooler.worker.pools import Pools
from pooler.worker.sharing import Sharing

TURN_S = 0.5  # that a worker has to give up what is too much


class Readiness:
    """Keeps the pools of one worker as large as they are to be."""

    def __init__(self, pools: Pools, sharing: Sharing) -> None:
        self._pools = pools
        self._sharing = sharing
        self._config: Config | None = None  # that was looked at last
        self._any_minimum = False
        self._shrinking = False

    def look(self) -> None:
        """Open one server more, and close some, where that is due."""
        config = self._pools.config
        if config is not self._config:
            self._config = config
            self._any_minimum = any(
                config.min_pool_size(one) for one in config.databases.values()
            ) or bool(config.settings.min_pool_size)
            self._shrinking = True
        if self._any_minimum:
            self._fill(config)
        if self._shrinking:
            self._shrinking = self._shrink(config)

    def _fill(self, config: Config) -> None:
        for database in config.databases.values():
            if database.user and config.min_pool_size(database):
                try:
                    self._pools.get(database, database.user)
                except LoginError as error:
                    log.write(log.ERROR, error.message, tag=database.name)
        for pool in self._pools.shared():
            minimum = config.min_pool_size(pool.database)
            forced = pool.database.user == pool.user
            if pool.database.name in config.state.disabled or not minimum:
                continue
            if forced or self._pools.stats(pool)["clients"]:
                self._pools.launches.keep_ready(pool, minimum)

    def _shrink(self, config: Config) -> bool:
        """Give up what pools, databases and users have too many of; False: nothing.

        One worker at a time, or two would close a server for the same reason. What is
        idle goes at once, that which has been so longest first. Where nothing is idle
        the next one goes that is free.
        """
        accounts = self._pools.accounts
        if int(time.monotonic() / TURN_S) % (accounts.page.rows - 1) != accounts.row:
            return True
        pools = [pool for pool in self._pools.shared() if pool.places is not None]
        surplus: dict[int, int] = {}
        for pool in pools:
            surplus |= self._surplus(config, pool, surplus)
        is_above = any(surplus.values())
        pools.sort(key=self._idle_since_us)
        for pool in pools:
            self._give_up(pool, surplus)
        return is_above  # so it is looked at again, whether that has happened

    def _surplus(
        self, config: Config, pool: Pool, known: dict[int, int]
    ) -> dict[int, int]:
        """By how much those of a pool's accounts are above their limits that are not
        known yet.
        """
        assert pool.places is not None  # noqa: S101 - those that have none are left out
        limits = limits_of(config, pool.database, pool.user)
        if limits.pool:
            reserve = config.reserve_pool_size(pool.database, pool.user)
            limits = limits._replace(pool=limits.pool + reserve)
        page = self._pools.accounts.page
        return {
            account: max(0, page.total(account, "servers") - limit)
            for account, limit in zip(pool.places, limits, strict=True)
            if limit and account not in known
        }

    def _give_up(self, pool: Pool, surplus: dict[int, int]) -> None:
        assert pool.places is not None  # noqa: S101 - those that have none are left out
        page = self._pools.accounts.page
        above = [account for account in pool.places if surplus.get(account)]
        for _ in range(max((surplus[account] for account in above), default=0)):
            is_elsewhere = any(page.oldest_idle(account) for account in above)
            if not self._sharing.give_up(pool, idle_only=is_elsewhere):
                break
            for account in above:
                surplus[account] = max(0, surplus[account] - 1)

    def _idle_since_us(self, pool: Pool) -> float:
        """When the server of a pool became idle that is so for longest."""
        assert pool.places is not None  # noqa: S101 - those that have none are left out
        accounts = self._pools.accounts
        since_us = accounts.page.cell(pool.places.pool, accounts.row)["idle_since_us"]
        return float(since_us or "inf")
