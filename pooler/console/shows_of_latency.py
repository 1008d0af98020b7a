# SPDX-License-Identifier: MIT
"""SHOW LATENCY: how long things take, in all workers together. Console layer.

The histograms stand on the page of accounts, so no worker is asked for them, and the
death of one takes nothing away.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pooler.board.page import Kind
from pooler.console.answers import Answer, Value, columns
from pooler.console.grammar import Command
from pooler.console.rows import Console, Row
from pooler.console.shows import shown

# As ``Page.times`` tells them.
KINDS = ("wait", "transaction", "query")
# In a thousand: p50, p90, p95, p99, p999.
RANKS = (500, 900, 950, 990, 999)


@dataclass(slots=True)
class Times:
    """How long things of one kind took, in us."""

    most_us: int = 0
    # By the longest time of a bucket: how many there are in it.
    counts: Counter[int] = field(default_factory=Counter)

    def add(self, most_us: int, counts: Mapping[int, int]) -> None:
        """Those of another pool."""
        self.most_us = max(self.most_us, most_us)
        self.counts.update(counts)

    def columns(self) -> list[Value]:
        """count, percentiles, max; of nothing there is no percentile."""
        count = sum(self.counts.values())
        if not count:
            return [0, *[None] * (len(RANKS) + 1)]
        return [count, *(self.at(rank, count) for rank in RANKS), self.most_us]

    def at(self, rank: int, count: int) -> int:
        """The time that so many in a thousand did not exceed."""
        wanted = -(-count * rank // 1000)
        for end_us in sorted(self.counts):
            wanted -= self.counts[end_us]
            if wanted <= 0:
                return min(end_us, self.most_us)
        return self.most_us


async def _show_latency(console: Console, command: Command) -> Answer:
    pools = {
        (pool["database"], pool["user"])
        for worker in await console.ask_workers("pools")
        for pool in worker
    }
    found: dict[str, tuple[Times, ...]] = defaultdict(
        lambda: tuple(Times() for _ in KINDS)
    )
    for database, user in pools:
        measured = console.page.times(Kind.POOL, database, user)
        for times, told in zip(found[database], measured or (), strict=False):
            times.add(*told)
    return shown(
        [database, kind, *times.columns()]
        for database, of_all in sorted(found.items())
        for kind, times in zip(KINDS, of_all, strict=True)
    )


OF_LATENCY: Mapping[str, Row] = MappingProxyType(
    {
        "LATENCY": Row(
            _show_latency,
            columns(
                "database, kind, count q, p50 q, p90 q, p95 q, p99 q, p999 q, max q"
            ),
            admin=False,
        ),
    }
)
