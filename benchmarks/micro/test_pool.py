# SPDX-License-Identifier: MIT
"""The pool alone."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro.timing import CPU_TIME, measure
from benchmarks.micro.works import POOL, Work

pytestmark = CPU_TIME


@pytest.mark.parametrize("work", POOL, ids=[work.name for work in POOL])
def test_pool(benchmark: BenchmarkFixture, work: Work) -> None:
    """Attach and detach."""
    measure(benchmark, work)
