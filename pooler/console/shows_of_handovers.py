# SPDX-License-Identifier: MIT
"""SHOW HANDOVERS: servers that went from worker to worker. Console layer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from types import MappingProxyType

from pooler.console.answers import Answer, columns
from pooler.console.grammar import Command
from pooler.console.rows import Console, Row
from pooler.console.shows import shown

# What a worker counts of each pool; see ``Handover.count``.
_COUNTS = ("given", "received", "refused", "returned", "closed")


async def _show_handovers(console: Console, command: Command) -> Answer:
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for worker in await console.ask_workers("handovers"):
        for database, user, counts in worker:
            found[database, user].update(counts)
    return shown(
        (*key, *(counts[name] for name in _COUNTS))
        for key, counts in sorted(found.items())
    )


OF_HANDOVERS: Mapping[str, Row] = MappingProxyType(
    {
        "HANDOVERS": Row(
            _show_handovers,
            columns(
                "database, user, given i, received i, refused i, returned i, closed i"
            ),
            admin=False,
        ),
    }
)
