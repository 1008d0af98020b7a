# SPDX-License-Identifier: MIT
"""SHOW: statistics. Console layer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from pooler.console.answers import Answer, Value, columns
from pooler.console.grammar import Command
from pooler.console.rows import Console, Row, Run
from pooler.console.shows import shown
from pooler.console.stats import COUNTERS, STATISTICS, snapshot

# PgBouncer's own names: three sets, and in the averages some with a prefix.
_COUNTS = ("server_assignment_count", "xact_count", "query_count")
_TIMES = ("xact_time", "query_time", "wait_time")
_PARSES = ("client_parse_count", "server_parse_count", "bind_count")
_LOGINS = ("client_login_count",)


def _names(prefix: str, traffic: Sequence[str], *, late: str = "") -> str:
    """Columns; ``late``: the prefix of those that PgBouncer has added later."""
    early = (*_COUNTS, *traffic, *_TIMES)
    return ", ".join(
        (
            *(f"{prefix}{name} n" for name in early),
            *(f"{late or prefix}{name} n" for name in (*_PARSES, *_LOGINS)),
        )
    )


_Both = tuple[Counter[str], Counter[str]]


def _by_database(values: Callable[[_Both], list[Value]]) -> Run:
    async def show(console: Console, command: Command) -> Answer:
        counted = snapshot(await console.ask_workers("pools"))
        found = console.stats.by_database(time.monotonic(), counted)
        return shown([name, *values(both)] for name, both in found.items())

    return show


def _all_of(counters: Counter[str]) -> list[Value]:
    return [counters[name] for name in COUNTERS]


async def _show_totals(console: Console, command: Command) -> Answer:
    counted = snapshot(await console.ask_workers("pools"))
    both = console.stats.of_all(time.monotonic(), counted)
    return shown(
        (f"{prefix}_{one.name}", counters[one.counter])
        for prefix, counters in zip(("total", "avg"), both, strict=True)
        for one in STATISTICS
    )


_BYTES = ("bytes_received", "bytes_sent")

OF_STATS: Mapping[str, Row] = MappingProxyType(
    {
        "STATS": Row(
            _by_database(lambda both: _all_of(both[0]) + _all_of(both[1])),
            columns(
                f"database, {_names('total_', ('received', 'sent'))},"
                f" {_names('avg_', ('recv', 'sent'))}"
            ),
            admin=False,
        ),
        "STATS_TOTALS": Row(
            _by_database(lambda both: _all_of(both[0])),
            columns(f"database, {_names('', _BYTES)}"),
            admin=False,
        ),
        "STATS_AVERAGES": Row(
            _by_database(lambda both: _all_of(both[1])),
            columns(f"database, {_names('', _BYTES, late='avg_')}"),
            admin=False,
        ),
        "TOTALS": Row(_show_totals, columns("name, value n"), admin=False),
    }
)
