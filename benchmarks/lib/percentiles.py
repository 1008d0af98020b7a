# SPDX-License-Identifier: MIT
"""Percentiles of pgbench's per-transaction log, and bands over rounds. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

# pgbench documentation, "Per-Transaction Logging": client_id transaction_no time ...
TIME_FIELD = 2
END_S_FIELD, END_US_FIELD = 4, 5
MIN_FIELDS = 6


class Sample(NamedTuple):
    """One transaction of the log: when it ended (by the clock), how long it took."""

    end_s: float
    time_us: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency of one measurement, in microseconds; ``samples`` says how sure."""

    samples: int
    p50_us: float
    p95_us: float
    p99_us: float
    max_us: float

    @classmethod
    def of(cls, values_us: Iterable[float]) -> Self | None:
        """Summarise samples; ``None`` when there are none, never a zero."""
        ordered = sorted(values_us)
        if not ordered:
            return None
        return cls(
            samples=len(ordered),
            p50_us=percentile(ordered, 50),
            p95_us=percentile(ordered, 95),
            p99_us=percentile(ordered, 99),
            max_us=ordered[-1],
        )


@dataclass(frozen=True, slots=True)
class Band:
    """The median of several rounds and how far they lie apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self | None:
        """Return the band of the values; ``None`` when there are none."""
        kept = list(values)
        if not kept:
            return None
        return cls(statistics.median(kept), min(kept), max(kept))

    def contains(self, value: float) -> bool:
        """Say whether the rounds disagree about the side of ``value``."""
        return self.low <= value <= self.high


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile: always a value that did occur.

    ``ordered`` is ascending and not empty; ``percent`` is within 0..100.
    """
    if not ordered:
        raise ValueError("no samples")
    if not 0 <= percent <= 100:
        raise ValueError(f"percent out of range: {percent}")
    rank = math.ceil(len(ordered) * percent / 100)
    return ordered[max(rank, 1) - 1]


def parse_log(lines: Iterable[str]) -> tuple[list[Sample], int]:
    """Return the samples and the number of failed or skipped transactions.

    A line that is not a pgbench log line raises ``ValueError``: a log that changed
    its format must not become a quiet gap in the numbers.
    """
    samples: list[Sample] = []
    failed = 0
    for line in lines:
        fields = line.split()
        if not fields:
            continue
        if len(fields) < MIN_FIELDS:
            raise ValueError(f"not a pgbench log line: {line!r}")
        time = fields[TIME_FIELD]
        if time.isdigit():
            end_s = int(fields[END_S_FIELD]) + int(fields[END_US_FIELD]) / 1e6
            samples.append(Sample(end_s, int(time)))
        elif time.isalpha():  # "failed", "skipped", or the kind of the failure
            failed += 1
        else:
            raise ValueError(f"not a pgbench log line: {line!r}")
    return samples, failed


def ratio_band(ours: Sequence[float], base: Sequence[float]) -> Band | None:
    """Return the band of per-round ratios.

    Round n is divided by round n, which ran seconds apart from it, so slow drift of
    the machine cancels out; dividing two medians would keep it.
    """
    if len(ours) != len(base):
        raise ValueError(f"{len(ours)} rounds cannot be compared with {len(base)}")
    if any(value <= 0 for value in base):
        return None
    return Band.of(mine / theirs for mine, theirs in zip(ours, base, strict=True))
