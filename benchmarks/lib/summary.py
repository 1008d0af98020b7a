# SPDX-License-Identifier: MIT
"""From measurements to rows: bands over rounds and ratios to PgBouncer. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.lib.percentiles import Band, Latency, ratio_band
from benchmarks.lib.results import Measurement, Results

BASELINE_BRAND: Final = "pgbouncer"


@dataclass(frozen=True, slots=True)
class Metric:
    """One row: where a number is found, its column, and its unit's size."""

    key: str
    title: str
    value: Callable[[Measurement], float | None]
    scale: float = 1.0
    digits: int = 1


def _of_latency(
    field: Callable[[Latency], float],
) -> Callable[[Measurement], float | None]:
    return lambda row: None if row.latency is None else field(row.latency)


METRICS: Final = (
    Metric("tps", "tps", lambda row: row.tps, digits=0),
    Metric("p50", "p50 ms", _of_latency(lambda it: it.p50_us), 1e-3, 2),
    Metric("p95", "p95 ms", _of_latency(lambda it: it.p95_us), 1e-3, 2),
    Metric("p99", "p99 ms", _of_latency(lambda it: it.p99_us), 1e-3, 2),
    Metric("max", "max ms", _of_latency(lambda it: it.max_us), 1e-3, 1),
    Metric("cpu", "CPU µs", lambda row: row.peer_cpu_us),
    Metric("postgres", "PG µs", lambda row: row.postgres_cpu_us),
    Metric("generator", "gen µs", lambda row: row.generator_cpu_us),
    Metric("busy", "gen %", lambda row: row.generator_busy, 100, 0),
    Metric("foreign", "others %", lambda row: row.foreign_busy, 100, 0),
    Metric("pss", "PSS B/client", lambda row: row.client_pss_bytes, digits=0),
    Metric("rss", "RSS B/client", lambda row: row.client_rss_bytes, digits=0),
    Metric("storm", "all in after s", lambda row: row.storm_s, digits=2),
    Metric("slowdown", "times slower", lambda row: row.slowdown, digits=2),
)
METRICS_BY_KEY: Final = {metric.key: metric for metric in METRICS}
# Above one is better for tps, below one for all else.
RATIOS: Final = {
    "cpu": "CPU ratio",
    "tps": "tps ratio",
    "p99": "p99 ratio",
    "pss": "PSS ratio",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One target in one case. An invalid row has errors and no ratios."""

    target: str
    rounds: int
    bands: dict[str, Band]
    ratios: dict[str, Band]
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CaseTable:
    """All targets of one case; ``baseline`` is what the ratios refer to."""

    case: str
    baseline: str | None
    rows: tuple[Row, ...]


def summarise(results: Results) -> list[CaseTable]:
    """Return the tables, in the order in which the cases and targets were run."""
    cases = dict.fromkeys(row.case for row in results.measurements)
    order = baselines(results.metadata)
    return [_table(case, results.measurements, order) for case in cases]


def baselines(metadata: dict[str, Any]) -> list[str]:
    """Return the PgBouncers, newest first: the first that ran a case is its base."""
    peers = [
        target
        for target in metadata.get("targets", [])
        if target["brand"] == BASELINE_BRAND
    ]
    peers.sort(key=lambda target: target["version_key"], reverse=True)
    return [target["name"] for target in peers]


def _table(
    case: str, measurements: Sequence[Measurement], order: Sequence[str]
) -> CaseTable:
    by_target: dict[str, list[Measurement]] = {}
    for row in measurements:
        if row.case == case:
            by_target.setdefault(row.target, []).append(row)
    baseline = next((name for name in order if name in by_target), None)
    base = by_target[baseline] if baseline is not None else []
    return CaseTable(
        case=case,
        baseline=baseline,
        rows=tuple(_row(target, rows, base) for target, rows in by_target.items()),
    )


def _row(target: str, rows: Sequence[Measurement], base: Sequence[Measurement]) -> Row:
    errors = tuple(
        f"round {row.round}: {error}" for row in rows for error in row.errors
    )
    bands = {}
    for metric in METRICS:
        band = Band.of(_values(metric, rows))
        if band is not None:
            bands[metric.key] = band
    return Row(
        target=target,
        rounds=len(rows),
        bands=bands,
        ratios={} if errors else _ratios(rows, base),
        errors=errors,
    )


def _ratios(
    rows: Sequence[Measurement], base: Sequence[Measurement]
) -> dict[str, Band]:
    if any(row.errors for row in base):
        return {}
    ratios = {}
    for key in RATIOS:
        mine = _values(METRICS_BY_KEY[key], rows)
        theirs = _values(METRICS_BY_KEY[key], base)
        if mine and len(mine) == len(theirs):
            band = ratio_band(mine, theirs)
            if band is not None:
                ratios[key] = band
    return ratios


def _values(metric: Metric, rows: Sequence[Measurement]) -> list[float]:
    """Return the values in the order of rounds."""
    found = (metric.value(row) for row in sorted(rows, key=lambda row: row.round))
    return [value for value in found if value is not None]
