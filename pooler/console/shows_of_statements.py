# SPDX-License-Identifier: MIT
"""SHOW PREPARED_STATEMENTS: what the workers keep for clients. Console layer.

Texts may hold secrets, so this is for admins.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType

from pooler.console.answers import Answer, columns
from pooler.console.grammar import Command
from pooler.console.rows import Console, Row
from pooler.console.shows import shown

CUT = "…"  # stands behind a text that goes on


async def _show_statements(console: Console, command: Command) -> Answer:
    """One row for each database and text; workers and contexts are summed."""
    found: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for database, text, digest, *counts in await console.list_workers("statements"):
        sums = found[database, text, digest]
        found[database, text, digest] = [
            a + b for a, b in zip(sums, counts, strict=True)
        ]
    rows = sorted(found.items(), key=lambda one: (one[0][0], -one[1][2], one[0][1:]))
    return shown(
        (database, text + CUT if digest else text, *counts)
        for (database, text, digest), counts in rows
    )


OF_STATEMENTS: Mapping[str, Row] = MappingProxyType(
    {
        "PREPARED_STATEMENTS": Row(
            _show_statements,
            columns("database, query, clients i, servers i, uses q, bytes q"),
        ),
    }
)
