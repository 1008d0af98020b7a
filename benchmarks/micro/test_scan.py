# SPDX-License-Identifier: MIT
"""The scanner, per message."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro.timing import CPU_TIME, measure
from benchmarks.micro.works import SCAN, Work

pytestmark = CPU_TIME


@pytest.mark.parametrize("work", SCAN, ids=[work.name for work in SCAN])
def test_scan(benchmark: BenchmarkFixture, work: Work) -> None:
    """Walk the messages of one read."""
    measure(benchmark, work)
