# SPDX-License-Identifier: MIT
"""Users that a reload has taken out of auth_file lose what they have here.

Worker layer, cold. Their clients are told and closed, also those that log in, and the
servers that were logged in to by their secret are replaced. PgBouncer lets them stay as
they are until they leave, and lets nobody in any more; here nobody goes on by a secret
that was taken away. Who may still be found by auth_query stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from pooler import log
from pooler.config.model import RESERVED_DATABASE
from pooler.errors import CLOSE_REASON_ROWS, LoginError
from pooler.io.engine import Engine
from pooler.login import packets
from pooler.session.records import CloseReason
from pooler.worker.pool import Pool
from pooler.worker.pools import Pools

REASON = CloseReason.CLOSE_USER_REMOVED


def user_removed() -> LoginError:
    """What those hear who are about to be let in."""
    return LoginError(*CLOSE_REASON_ROWS[REASON][1:])


def close_users(
    engine: Engine, pools: Pools, users: frozenset[str], can_ask: Callable[[str], bool]
) -> None:
    """Close the clients of these users, and replace the servers of their pools.

    ``can_ask``: whether users of a database may be found elsewhere. Cost: O(clients)
    """
    closed: Counter[str] = Counter()
    for handle, pool_id, name in engine.client_users():
        pool = pools.by_id(pool_id)
        if pool is None:
            continue
        user = packets.decode(name) if name else pool.user
        if user in users and not can_ask(_database(pool)):
            engine.client_close(handle, REASON, tell=True)
            closed[user] += 1
    for user, count in closed.items():
        log.write(
            log.WARNING,
            f"closing {count} clients of user '{user}', who was taken out of auth_file",
        )
    for pool in pools.shared():
        is_own = pool.database.user is None and pool.user in users
        if is_own and not can_ask(pool.database.name):
            pools.launches.refuse_logins(pool, user_removed())
            pools.replace_servers(pool)


def _database(pool: Pool) -> str:
    return RESERVED_DATABASE if pool.is_console else pool.database.name
