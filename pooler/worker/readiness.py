# SPDX-License-Identifier: MIT
"""``min_pool_size``, and pools that have become smaller. Worker layer, cold.

Looked at with each beat. As with PgBouncer a pool is filled up by one server a beat,
and only where somebody may need it: it has clients, or a database forces its user.
Which worker opens it does not matter: the page says when there are enough.

Source: PgBouncer documentation, "min_pool_size".
"""

from __future__ import annotations

from pooler import log
from pooler.config.loading import Config
from pooler.errors import LoginError
from pooler.worker.pool import Pool
from pooler.worker.pools import Pools
from pooler.worker.sharing import Sharing


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
            shrinking = [self._shrink(one) for one in self._pools.shared()]
            self._shrinking = any(shrinking)

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

    def _shrink(self, pool: Pool) -> bool:
        """Give up a server of a pool that has too many; False: it has not."""
        config = self._pools.config
        size = config.pool_size(pool.database, pool.user)
        if not size or pool.places is None:
            return False
        size += config.reserve_pool_size(pool.database, pool.user)
        page = self._pools.accounts.page
        if page.total(pool.places.pool, "servers") <= size:
            return False
        self._sharing.give_up(pool)
        return True
