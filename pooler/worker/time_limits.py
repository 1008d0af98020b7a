# SPDX-License-Identifier: MIT
"""The time limits of a pool, from the configuration to the engine. Worker layer, cold.

The user's value beats the database's, and that the one of [pgbouncer].
"""

from __future__ import annotations

from pooler.config.model import Config
from pooler.config.settings import Database

TESTED_S = 10.0


def to_us(seconds: float) -> int:
    """Seconds of a setting as the engine's microseconds."""
    return int(seconds * 1_000_000)


def limits_of(config: Config, database: Database, user: str) -> dict[str, int]:
    """What ``Engine.pool_configure`` takes as ``limits`` of a pool."""
    settings = config.settings
    return limits_of_lone(config, database, user) | {
        "client_idle_us": to_us(config.limit_of_user("client_idle_timeout", user)),
        "query_us": to_us(config.limit_of_user("query_timeout", user)),
        "xact_us": to_us(config.limit_of_user("transaction_timeout", user)),
        "idle_xact_us": to_us(config.limit_of_user("idle_transaction_timeout", user)),
        "server_idle_us": to_us(settings.server_idle_timeout),
        "lifetime_us": to_us(config.server_lifetime(database)),
        "tested_us": to_us(settings.cancel_wait_timeout or TESTED_S),
    }


def limits_of_lone(config: Config, database: Database, user: str) -> dict[str, int]:
    """Those of a pool that one client has to itself, with a server that it uses."""
    return {
        "query_wait_us": to_us(config.query_wait_timeout(database, user)),
        "wait_notify_us": to_us(config.settings.query_wait_notify),
    }


def is_single_use(config: Config, database: Database) -> bool:
    """Whether each server of a database is closed when its first client is done."""
    return config.server_lifetime(database) == 0
