# SPDX-License-Identifier: MIT
"""Totals over all workers, and their averages. Console layer.

Workers count from their start; here two marks are kept, a ``stats_period`` apart, of
each worker by itself, so that one that dies takes away its totals and makes no average
wrong. Averages count from the older mark, as PgBouncer's do.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pooler.config.model import RESERVED_DATABASE


class Statistic(NamedTuple):
    """One that SHOW STATS has.

    ``name``: in SHOW TOTALS, behind ``total_`` or ``avg_``; ``counter``: of a pool;
    ``per``: the statistic that an average is divided by; empty: it is per second.
    """

    name: str
    counter: str
    per: str = ""


STATISTICS = (
    Statistic("server_assignment_count", "assignments"),
    Statistic("xact_count", "xacts"),
    Statistic("query_count", "queries"),
    Statistic("client_bytes", "received_bytes"),
    Statistic("server_bytes", "sent_bytes"),
    Statistic("xact_time", "xact_us", "xacts"),
    Statistic("query_time", "query_us", "queries"),
    Statistic("wait_time", "wait_us", "assignments"),
    Statistic("ps_client_parse_count", "client_parses"),
    Statistic("ps_server_parse_count", "server_parses"),
    Statistic("ps_bind_count", "binds"),
    Statistic("client_login_count", "client_logins"),
)
COUNTERS = tuple(one.counter for one in STATISTICS)

# Of a worker: process id, database. Pools that go leave there what they have counted.
Key = tuple[int, str]
Snapshot = Mapping[Key, Counter[str]]


@dataclass(slots=True)
class Mark:
    """What had been counted at a time."""

    at_s: float
    counted: Snapshot = field(default_factory=dict)


def snapshot(reports: Iterable[Iterable[dict[str, Any]]]) -> dict[Key, Counter[str]]:
    """The counters of the pools that workers have told of."""
    found: dict[Key, Counter[str]] = defaultdict(Counter)
    for worker in reports:
        for pool in worker:
            key = (pool["pid"], pool["database"])
            found[key].update({name: pool[name] for name in COUNTERS})
    return dict(found)


class Stats:
    """The marks, and what the console has done itself."""

    def __init__(self, now_s: float) -> None:
        """As if the first mark had been a second ago, as PgBouncer has it."""
        self._older = Mark(now_s - 1)
        self._newer = Mark(now_s)
        self.own: Counter[str] = Counter()

    def mark(self, now_s: float, counted: Snapshot) -> None:
        """A ``stats_period`` is over."""
        self._older = self._newer
        self._newer = Mark(now_s, self._with_own(counted))

    def by_database(
        self, now_s: float, counted: Snapshot
    ) -> dict[str, tuple[Counter[str], Counter[str]]]:
        """(totals, averages) of each database, sorted by its name."""
        counted = self._with_own(counted)
        totals: dict[str, Counter[str]] = defaultdict(Counter)
        growth: dict[str, Counter[str]] = defaultdict(Counter)
        for key, counters in counted.items():
            before = self._older.counted.get(key, Counter())
            totals[key[1]].update(counters)
            # less than before: a database that has begun anew
            growth[key[1]].update(
                {name: max(0, counters[name] - before[name]) for name in COUNTERS}
            )
        return {
            name: (totals[name], self._averages(growth[name], now_s))
            for name in sorted(totals)
        }

    def of_all(
        self, now_s: float, counted: Snapshot
    ) -> tuple[Counter[str], Counter[str]]:
        """(totals, averages) of everything."""
        totals: Counter[str] = Counter()
        growth: Counter[str] = Counter()
        for key, counters in self._with_own(counted).items():
            before = self._older.counted.get(key, Counter())
            totals.update(counters)
            growth.update(
                {name: max(0, counters[name] - before[name]) for name in COUNTERS}
            )
        return totals, self._averages(growth, now_s)

    def _with_own(self, counted: Snapshot) -> Snapshot:
        own = Counter({name: self.own[name] for name in COUNTERS})
        return {**counted, (0, RESERVED_DATABASE): own}

    def _averages(self, growth: Counter[str], now_s: float) -> Counter[str]:
        passed_s = max(1e-6, now_s - self._older.at_s)
        averages: Counter[str] = Counter()
        for one in STATISTICS:
            if one.per:
                averages[one.counter] = growth[one.counter] // (growth[one.per] or 1)
            else:
                averages[one.counter] = int(growth[one.counter] / passed_s)
        return averages


def log_line(averages: Counter[str]) -> str:
    """What the log says each ``stats_period``."""
    return (
        f"stats: {averages['xacts']} xacts/s, {averages['queries']} queries/s,"
        f" {averages['client_parses']} client parses/s,"
        f" {averages['server_parses']} server parses/s,"
        f" {averages['binds']} binds/s, in {averages['received_bytes']} B/s,"
        f" out {averages['sent_bytes']} B/s, xact {averages['xact_us']} us,"
        f" query {averages['query_us']} us, wait {averages['wait_us']} us"
    )
