# SPDX-License-Identifier: MIT
"""Time a work with pytest-benchmark."""

from __future__ import annotations

import time
from typing import Final

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro.works import Work

# What other processes take of the core is not counted.
CPU_TIME: Final = pytest.mark.benchmark(timer=time.process_time)


def measure(benchmark: BenchmarkFixture, work: Work) -> None:
    """Take the CPU time of an item.

    The shortest round counts: whatever else the machine does only adds to it.
    """
    repeat = work.prepare()
    benchmark(repeat, work.repetitions)
    if benchmark.stats is not None:  # else timing is disabled
        ns = benchmark.stats["min"] / (work.repetitions * work.items) * 1e9
        benchmark.extra_info.update(work=work.name, per=work.per, ns=round(ns, 3))
