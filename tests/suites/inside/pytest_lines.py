# SPDX-License-Identifier: MIT
"""A pytest plugin for the suites: one line of JSON for each test."""

from __future__ import annotations

import json
import os

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Setup and teardown count only when they do not pass."""
    if report.when == "call" or not report.passed:
        with open(os.environ["SUITE_RESULTS"], "a") as file:
            row = {"name": report.nodeid, "outcome": report.outcome}
            file.write(json.dumps(row) + "\n")
