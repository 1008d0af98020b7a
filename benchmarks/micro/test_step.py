# SPDX-License-Identifier: MIT
"""Relay and release, per transaction or read."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro.timing import CPU_TIME, measure
from benchmarks.micro.works import STEP, Work

pytestmark = CPU_TIME


@pytest.mark.parametrize("work", STEP, ids=[work.name for work in STEP])
def test_step(benchmark: BenchmarkFixture, work: Work) -> None:
    """Take reads, and let go of the server."""
    measure(benchmark, work)
