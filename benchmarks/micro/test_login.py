# SPDX-License-Identifier: MIT
"""A client's login, which is Python."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro.timing import CPU_TIME, measure
from benchmarks.micro.works import LOGIN, Work

pytestmark = CPU_TIME


@pytest.mark.parametrize("work", LOGIN, ids=[work.name for work in LOGIN])
def test_login(benchmark: BenchmarkFixture, work: Work) -> None:
    """Take what a client says until it is logged in."""
    measure(benchmark, work)
