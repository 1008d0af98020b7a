# SPDX-License-Identifier: MIT
"""What pools have counted that are gone. Worker layer, cold.

The totals of a database never go backwards while it is there: what a pool has counted
is kept beside those that are, by database only.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

# Of ``Engine.pool_stats``, what adds up.
TOTALS = (
    *("xacts", "queries", "received_bytes", "sent_bytes", "assignments"),
    *("client_logins", "xact_us", "query_us", "wait_us", "client_parses"),
    *("server_parses", "binds", "parse_hits", "evictions", "replays", "changed"),
    "cleaned",
)


class Past:
    """Totals of pools that are gone, by database."""

    def __init__(self) -> None:
        self._totals: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, database: str, stats: Mapping[str, int]) -> None:
        """A pool goes that has counted this."""
        self._totals[database].update({name: stats[name] for name in TOTALS})

    def names(self) -> Iterable[str]:
        """The databases of which something is kept."""
        return list(self._totals)

    def forget(self, database: str) -> None:
        """The database is gone, too."""
        self._totals.pop(database, None)

    def rows(self) -> list[dict[str, int | str]]:
        """As a worker reports its pools; ``past`` tells them from these."""
        return [
            {"past": 1, "database": name, "user": "", **totals}
            for name, totals in self._totals.items()
        ]
