# SPDX-License-Identifier: MIT
"""Prepared statements of this worker, for the console. Worker layer, cold.

First it is counted who has which statement, then the texts are read; both in pieces
with turns of the loop in between, and a row is about a moment between.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable

from pooler.io.engine import Engine
from pooler.worker.pools import Pools

AT_ONCE = 4096  # places and entries that are looked at: about a millisecond
STATEMENT_BITS = 32
ROWS_AT_ONCE = 256

# database, text, digest of a longer one, clients, servers, uses, bytes
Row = tuple[str, str, str, int, int, int, int]


async def statements(engine: Engine, pools: Pools) -> AsyncIterator[list[Row]]:
    """A row for each statement and database whose clients or servers have it."""
    holders: dict[int, int] = {}
    await _walk(lambda at: engine.count_holders(at, AT_ONCE, holders))
    texts: dict[int, tuple[bytes, bytes, int, int]] = {}
    await _walk(lambda at: engine.list_statements(at, AT_ONCE, texts))
    rows = [
        _row(database, texts[number], *counts)
        for (database, number), counts in _by_database(pools, holders).items()
        if number in texts  # or it has gone meanwhile
    ]
    for at in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[at : at + ROWS_AT_ONCE]


async def _walk(piece: Callable[[int], int]) -> None:
    at = 0
    while at := piece(at):
        await asyncio.sleep(0)


def _by_database(
    pools: Pools, holders: dict[int, int]
) -> dict[tuple[str, int], tuple[int, int]]:
    """(clients, servers) by database and statement."""
    found: dict[tuple[str, int], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for key, count in holders.items():
        pool = pools.by_id(key >> STATEMENT_BITS)
        if pool is None:
            continue
        servers, clients = divmod(count, 1 << STATEMENT_BITS)
        place = (pool.database.name, key % (1 << STATEMENT_BITS))
        before = found[place]
        found[place] = (before[0] + clients, before[1] + servers)
    return found


def _row(
    database: str, told: tuple[bytes, bytes, int, int], clients: int, servers: int
) -> Row:
    text, digest, n_bytes, uses = told
    # It may be in any encoding, and cut in the middle of a letter.
    shown = text.decode("utf-8", "replace").strip()
    return database, shown, digest.hex(), clients, servers, uses, n_bytes
