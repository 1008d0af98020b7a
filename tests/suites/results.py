# SPDX-License-Identifier: MIT
"""What a run of a suite has found: the outcome of each test, by its name.

Whatever runs inside a suite appends one line of JSON for each test to the file that
SUITE_RESULTS names, so that what was done before a crash is kept.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path


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


def read_lines(path: Path) -> Results:
    """The outcomes in a file of our own lines; an empty file is no outcome."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return _collect([(row["name"], Outcome(row["outcome"])) for row in rows])


def read_go(text: str) -> Results:
    """The outcomes in the output of ``go test -json``; its other lines are ignored."""
    outcomes = []
    for line in text.splitlines():
        row = json.loads(line) if line.startswith("{") else {}
        if "Test" in row and row["Action"] in GO_ACTIONS:
            name = f"{row['Package']}.{row['Test']}"
            outcomes.append((name, GO_ACTIONS[row["Action"]]))
    return _collect(outcomes)


def count(results: Results) -> Counter[Outcome]:
    """How many tests ended in each way."""
    return Counter(results.values())
