# SPDX-License-Identifier: MIT
"""SHOW: what goes on in the pools, summed over all workers. Console layer."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from pooler.board.page import Kind
from pooler.config.model import RESERVED_DATABASE, Config
from pooler.config.settings import Database
from pooler.console.answers import Answer, Value, columns
from pooler.console.grammar import Command
from pooler.console.rows import Console, Row
from pooler.console.shows import shown

CONSOLE_POOL_SIZE = 2
_SUMMED = (
    *("clients", "waiting", "servers", "active", "idle", "tested", "connecting"),
    *("cl_active_cancel_req", "cl_waiting_cancel_req"),
    *("sv_active_cancel", "sv_being_canceled"),
)


async def _pools(console: Console) -> dict[tuple[str, str], Counter[str]]:
    """(database, user) to the sums of its pools, sorted."""
    now_us = time.monotonic_ns() // 1000
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for worker in await console.ask_workers("pools"):
        for pool in worker:
            if "past" in pool:
                continue
            one = found[pool["database"], pool["user"]]
            since_us = pool["waiting_since_us"]
            waited_us = max(0, now_us - since_us) if since_us else 0
            one.update({name: pool[name] for name in _SUMMED})
            one["maxwait_us"] = max(one["maxwait_us"], waited_us)
    return dict(sorted(found.items()))


async def _show_pools(console: Console, command: Command) -> Answer:
    config = console.config

    def rows() -> Iterator[tuple[Value, ...]]:
        for (name, user), one in found.items():
            database = config.database(name)
            if database is None:
                continue
            seconds, rest_us = divmod(one["maxwait_us"], 1_000_000)
            yield (
                name,
                user,
                one["clients"] - one["waiting"],
                one["waiting"],
                one["cl_active_cancel_req"],
                one["cl_waiting_cancel_req"],
                one["active"],
                one["sv_active_cancel"],
                one["sv_being_canceled"],
                one["idle"],
                0,
                one["tested"],
                one["connecting"],
                seconds,
                rest_us,
                str(config.pool_mode(database, user)),
                _load_balance(database),
            )

    found = await _pools(console)
    counts = await console.ask_workers("counts")
    consoles = sum(worker["consoles"] for worker in counts)
    own = (RESERVED_DATABASE, RESERVED_DATABASE, consoles)
    return shown([*rows(), (*own, *(0,) * 12, "statement", None)])


async def _show_databases(console: Console, command: Command) -> Answer:
    config = console.config
    servers: Counter[str] = Counter()
    for (name, _), one in (await _pools(console)).items():
        servers[name] += one["servers"] + one["connecting"]
    names = {*config.databases, *servers}
    entries = (config.database(name) for name in sorted(names))

    def clients(name: str) -> int:
        return console.page.clients(Kind.DATABASE, name)

    rows: list[tuple[Value, ...]] = [
        _database_row(config, entry, servers[entry.name], clients(entry.name))
        for entry in entries
        if entry is not None
    ]
    return shown([*rows, _console_row(config, clients(RESERVED_DATABASE))])


def _database_row(
    config: Config, entry: Database, servers: int, clients: int
) -> tuple[Value, ...]:
    settings = config.settings

    def wider(own: Any, wide: Any) -> Any:
        return wide if own is None else own

    return (
        entry.name,
        entry.host or None,
        entry.port,
        entry.dbname,
        entry.user,
        wider(entry.pool_size, settings.default_pool_size),
        wider(entry.min_pool_size, settings.min_pool_size),
        wider(entry.reserve_pool_size, settings.reserve_pool_size),
        int(wider(entry.server_lifetime, settings.server_lifetime)),
        None if entry.pool_mode is None else str(entry.pool_mode),
        _load_balance(entry),
        config.max_db_connections(entry),
        servers,
        config.max_db_client_connections(entry),
        clients,
        int(entry.name in config.state.paused_databases),
        int(entry.name in config.state.disabled),
    )


def _console_row(config: Config, clients: int) -> tuple[Value, ...]:
    settings = config.settings
    return (
        RESERVED_DATABASE,
        None,
        settings.listen_port,
        RESERVED_DATABASE,
        RESERVED_DATABASE,
        CONSOLE_POOL_SIZE,
        *(0, 0),
        int(settings.server_lifetime),
        "statement",
        None,
        settings.max_db_connections,
        0,
        settings.max_db_client_connections,
        clients,
        *(0, 0),
    )


def _load_balance(database: Database) -> str | None:
    return str(database.load_balance_hosts) if "," in (database.host or "") else None


async def _show_users(console: Console, command: Command) -> Answer:
    config = console.config
    servers: Counter[str] = Counter()
    for (_, user), one in (await _pools(console)).items():
        servers[user] += one["servers"] + one["connecting"]

    def size(value: int | None) -> str:
        # PgBouncer's own: set ones are padded, the others are empty.
        return "" if value is None else f"{value:9d}"

    def rows() -> Iterator[tuple[Value, ...]]:
        own = RESERVED_DATABASE  # as PgBouncer, which has the console's user, too
        for name in sorted({own, *config.userlist, *config.users, *servers}):
            entry = config.users.get(name)
            yield (
                name,
                size(entry.pool_size if entry else None),
                size(entry.reserve_pool_size if entry else None),
                str(entry.pool_mode) if entry and entry.pool_mode else None,
                config.max_user_connections(name),
                servers[name],
                config.max_user_client_connections(name),
                console.page.clients(Kind.USER, name),
            )

    return shown(rows())


OF_POOLS: Mapping[str, Row] = MappingProxyType(
    {
        "POOLS": Row(
            _show_pools,
            columns(
                "database, user, cl_active i, cl_waiting i, cl_active_cancel_req i,"
                " cl_waiting_cancel_req i, sv_active i, sv_active_cancel i,"
                " sv_being_canceled i, sv_idle i, sv_used i, sv_tested i, sv_login i,"
                " maxwait i, maxwait_us i, pool_mode, load_balance_hosts"
            ),
            admin=False,
        ),
        "DATABASES": Row(
            _show_databases,
            columns(
                "name, host, port i, database, force_user, pool_size i,"
                " min_pool_size i, reserve_pool_size i, server_lifetime i, pool_mode,"
                " load_balance_hosts, max_connections i, current_connections i,"
                " max_client_connections i, current_client_connections i, paused i,"
                " disabled i"
            ),
            admin=False,
        ),
        "USERS": Row(
            _show_users,
            columns(
                "name, pool_size, reserve_pool_size, pool_mode,"
                " max_user_connections i, current_connections i,"
                " max_user_client_connections i, current_client_connections i"
            ),
            admin=False,
        ),
    }
)
