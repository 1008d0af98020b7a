# SPDX-License-Identifier: MIT
"""What a run of a suite has found: the outcome of each test, by its name.

Whatever runs inside a suite appends one line of JSON for each test to the file that
SUITE_RESULTS names, so that what was done before a crash is kept.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any


class Outcome(StrEnum):
    """How a test ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


Results = Mapping[str, Outcome]

# What `go test -json` calls them.
GO_ACTIONS = {
    "pass": Outcome.PASSED,
    "fail": Outcome.FAILED,
    "skip": Outcome.SKIPPED,
}
# A name that comes twice (a test and its teardown) has the worst of its outcomes.
WORST_FIRST = (Outcome.FAILED, Outcome.SKIPPED, Outcome.PASSED)


def _collect(outcomes: list[tuple[str, Outcome]]) -> Results:
    found: dict[str, Outcome] = {}
    for name, outcome in outcomes:
        found[name] = min(found.get(name, outcome), outcome, key=WORST_FIRST.index)
    return found


def _rows(text: str) -> Iterator[dict[str, Any]]:
    """The objects among the lines; one that was cut, by an end or another, is none."""
    for line in text.splitlines():
        if line.startswith("{"):
            with contextlib.suppress(json.JSONDecodeError):
                yield json.loads(line)


def read_lines(path: Path) -> Results:
    """The outcomes in a file of our own lines; an empty file is no outcome."""
    text = path.read_text() if path.exists() else ""
    return _collect([(row["name"], Outcome(row["outcome"])) for row in _rows(text)])


def read_go(text: str) -> Results:
    """The outcomes in the output of ``go test -json``; its other lines are ignored."""
    outcomes = []
    for row in _rows(text):
        if "Test" in row and row["Action"] in GO_ACTIONS:
            name = f"{row['Package']}.{row['Test']}"
            outcomes.append((name, GO_ACTIONS[row["Action"]]))
    return _collect(outcomes)


def count(results: Results) -> Counter[Outcome]:
    """How many tests ended in each way."""
    return Counter(results.values())
