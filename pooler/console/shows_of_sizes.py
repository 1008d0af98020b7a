# SPDX-License-Identifier: MIT
"""SHOW: how much of what there is. Console layer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

from pooler.config.model import RESERVED_DATABASE
from pooler.console.answers import Answer, Value, columns
from pooler.console.grammar import Command
from pooler.console.rows import Console, Row
from pooler.console.shows import shown

_WORKER_COUNTS = ("clients", "logins", "servers", "statements", "statement_bytes")
_DNS_COUNTS = ("dns_names", "dns_zones", "dns_queries", "dns_pending")
_PEER_COLUMNS = ("cl_active_cancel_req", "cl_waiting_cancel_req", "sv_active_cancel")


async def _counts(console: Console) -> Counter[str]:
    """The sums over all workers, with their pools and databases."""
    found: Counter[str] = Counter()
    for worker in await console.ask_workers("counts"):
        # Each worker looks names up for itself; the others are sums.
        sums = worker.keys() - {"slot", *_DNS_COUNTS}
        found.update({name: worker[name] for name in sums})
        for name in _DNS_COUNTS:
            found[name] = max(found[name], worker[name])
        found["workers"] += 1
    pools = {
        (pool["database"], pool["user"])
        for worker in await console.ask_workers("pools")
        for pool in worker
    }
    config = console.config
    found["pools"] = len(pools) + 1  # and the console's own
    found["databases"] = len({*config.databases, *(name for name, _ in pools)}) + 1
    found["users"] = len(
        {
            RESERVED_DATABASE,
            *config.userlist,
            *config.users,
            *(user for _, user in pools),
        }
    )
    return found


async def _show_lists(console: Console, command: Command) -> Answer:
    found = await _counts(console)
    peers = len(console.config.peers)
    return shown(
        [
            ("databases", found["databases"]),
            ("users", found["users"]),
            ("peers", peers),
            ("pools", found["pools"]),
            ("peer_pools", peers),
            ("free_clients", 0),  # memory goes back when a connection ends
            ("used_clients", found["clients"]),
            ("login_clients", found["logins"]),
            ("free_servers", 0),
            ("used_servers", found["servers"]),
            *((name, found[name]) for name in _DNS_COUNTS),
        ]
    )


async def _show_mem(console: Console, command: Command) -> Answer:
    """One row for each of PgBouncer's caches; sizes of 0 are not kept apart here."""
    found = await _counts(console)
    workers = found["workers"] or 1
    peers = len(console.config.peers)

    def row(name: str, size: int, used: int) -> tuple[str, int, int, int, int]:
        return name, size, used, 0, size * used

    statements = found["statements"]
    return shown(
        [
            row("user_cache", 0, found["users"]),
            row("credentials_cache", 0, len(console.config.userlist)),
            row("db_cache", 0, found["databases"]),
            row("peer_cache", 0, peers),
            row("peer_pool_cache", 0, peers),
            row("pool_cache", 0, found["pools"]),
            row("outstanding_request_cache", 0, 0),
            row(
                "server_cache",
                found["server_record_bytes"] // workers,
                found["servers"],
            ),
            row(
                "client_cache",
                found["client_record_bytes"] // workers,
                found["clients"],
            ),
            row("iobuf_cache", found["receive_bytes"] // workers, workers),
            row("var_list_cache", 0, found["parameter_sets"]),
            (
                "server_prepared_statement_cache",
                found["statement_bytes"] // (statements or 1),
                statements,
                0,
                found["statement_bytes"],
            ),
        ]
    )


async def _show_peer_pools(console: Console, command: Command) -> Answer:
    sums: dict[int, Counter[str]] = {peer: Counter() for peer in console.config.peers}
    for worker in await console.ask_workers("peer_pools"):
        for peer, counts in worker.items():
            sums.setdefault(int(peer), Counter()).update(counts)
    return shown(
        (peer, *(counts[name] for name in _PEER_COLUMNS), 0)
        for peer, counts in sums.items()
    )


async def _show_dns_hosts(console: Console, command: Command) -> Answer:
    """What any worker knows of a name; the one that has asked last tells of it."""
    newest: dict[str, tuple[int, str]] = {}
    for worker in await console.ask_workers("dns_hosts"):
        for host, ttl, addresses in worker:
            newest[host] = max(newest.get(host, (-1, "")), (ttl, addresses))
    return shown((host, *told) for host, told in sorted(newest.items()))


async def _show_dns_zones(console: Console, command: Command) -> Answer:
    newest: dict[str, tuple[int, int]] = {}
    for worker in await console.ask_workers("dns_zones"):
        for zone, serial, count in worker:
            newest[zone] = max(newest.get(zone, (-1, 0)), (serial, count))
    return shown((zone, *told) for zone, told in sorted(newest.items()))


async def _show_workers(console: Console, command: Command) -> Answer:
    """One row for each place of a worker, also if it is dead or does not answer."""
    board = console.board
    found = {worker["slot"]: worker for worker in await console.ask_workers("counts")}
    now_us = time.monotonic_ns() // 1000

    def since_us(slot: int, name: str) -> int | None:
        then_us = board.get(slot, name)
        return max(0, now_us - then_us) if then_us else None

    def row(slot: int) -> tuple[Value, ...]:
        counts = found.get(slot, {})
        age_us, silent_us = since_us(slot, "started_us"), since_us(slot, "heartbeat_us")
        return (
            slot,
            board.get(slot, "pid"),
            None if age_us is None else age_us // 1_000_000,
            None if silent_us is None else silent_us // 1000,
            *(counts.get(name) for name in _WORKER_COUNTS),
        )

    return shown(row(slot) for slot in range(board.slots))


OF_SIZES: Mapping[str, Row] = MappingProxyType(
    {
        "LISTS": Row(_show_lists, columns("list, items i"), admin=False),
        "MEM": Row(
            _show_mem, columns("name, size i, used i, free i, memtotal i"), admin=False
        ),
        "PEER_POOLS": Row(
            _show_peer_pools,
            columns(
                "peer_id i, cl_active_cancel_req i, cl_waiting_cancel_req i,"
                " sv_active_cancel i, sv_login i"
            ),
            admin=False,
        ),
        "WORKERS": Row(
            _show_workers,
            columns(
                "worker i, pid i, age i, heartbeat_ms i, clients i, login_clients i,"
                " servers i, statements i, statement_bytes q"
            ),
            admin=False,
        ),
        "DNS_HOSTS": Row(
            _show_dns_hosts, columns("hostname, ttl q, addrs"), admin=False
        ),
        "DNS_ZONES": Row(
            _show_dns_zones, columns("zonename, serial q, count i"), admin=False
        ),
    }
)
