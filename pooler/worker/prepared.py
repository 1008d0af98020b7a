# SPDX-License-Identifier: MIT
"""Prepared statements of this worker, for the console. Worker layer, cold.

First it is counted who has which statement, then the texts are read; both in pieces
with turns of the loop in between, so a row tells of about one moment.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from pooler.io.engine import Engine
from pooler.worker.pools import Pools

AT_ONCE = 4096  # places and entries that are looked at: about a millisecond
ROWS_AT_ONCE = 256
HALF_BITS = 32  # of what the engine counts by, and of the counts: see io/prepared
HALF = 1 << HALF_BITS

T = TypeVar("T")

# database, text, digest of a longer one, clients, servers, uses, bytes
Row = tuple[str, str, str, int, int, int, int]


async def statements(engine: Engine, pools: Pools) -> AsyncIterator[list[Row]]:
    """A row for each statement and database whose clients or servers have it."""
    holders: dict[int, int] = {}
    await _walk(lambda at: engine.count_holders(at, AT_ONCE, holders))
    texts: dict[int, tuple[bytes, bytes, int, int]] = {}
    await _walk(lambda at: engine.list_statements(at, AT_ONCE, texts))
    found: dict[tuple[str, int], int] = defaultdict(int)
    for piece in _batched(holders.items()):
        for key, count in piece:
            pool = pools.by_id(key >> HALF_BITS)
            if pool is not None:
                found[pool.database.name, key % HALF] += count
        await asyncio.sleep(0)
    for part in _batched(found.items()):
        yield [
            _row(database, texts[number], count)
            for (database, number), count in part
            if number in texts  # or it has gone meanwhile
        ]
        await asyncio.sleep(0)


async def _walk(piece: Callable[[int], int]) -> None:
    at = 0
    while at := piece(at):
        await asyncio.sleep(0)


def _batched(items: Iterable[T]) -> Iterator[list[T]]:
    """So many at a time."""
    rest = iter(items)
    while part := list(islice(rest, ROWS_AT_ONCE)):
        yield part


def _row(database: str, told: tuple[bytes, bytes, int, int], count: int) -> Row:
    text, digest, n_bytes, uses = told
    servers, clients = divmod(count, HALF)
    # It may be in any encoding, and cut in the middle of a letter.
    shown = text.decode("utf-8", "replace").strip()
    return database, shown, digest.hex(), clients, servers, uses, n_bytes
