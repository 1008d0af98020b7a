# SPDX-License-Identifier: MIT
"""What a suite is, and how one is run on one way."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.suites import results
from tests.suites.results import Results
from tests.suites.ways import Needs, Target, open_way

ROOT = Path(__file__).resolve().parents[2]
# Git ignores .venv.
FOLDER = ROOT / ".venv" / "suites"
INSIDE = Path(__file__).with_name("inside")
RUN_DEADLINE_S = 1200.0


class SuiteError(Exception):
    """A suite cannot be had or has run no test; says why."""


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run: arguments, folder, and variables besides libpq's."""

    arguments: Sequence[str | Path]
    folder: Path
    variables: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite of tests: how to get it, and what runs it.

    ``fetch`` brings it below FOLDER and returns when it is there already. ``go`` says
    that the program prints what ``go test -json`` prints.
    """

    fetch: Callable[[], object]
    command: Callable[[Target], Command]
    needs: Needs = field(default_factory=Needs)
    go: bool = False


def _run(command: Command, target: Target, output: Path, lines: Path) -> None:
    """Run to its end, or to the deadline; its exit code says nothing that we need."""
    kept = {key: value for key, value in os.environ.items() if key[:2] != "PG"}
    environment = {
        **kept,
        **target.environment,
        "PYTHONPATH": str(INSIDE),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SUITE_RESULTS": str(lines),
        **command.variables,
    }
    with output.open("wb") as log:
        process = subprocess.Popen(
            command.arguments,
            cwd=command.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(RUN_DEADLINE_S)
        except subprocess.TimeoutExpired:
            print(f"  ended after {RUN_DEADLINE_S:.0f} s: {output}")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def run(name: str, suite: Suite, way: str) -> Results:
    """Run a suite on one way; SuiteError if it has run no test.

    What it printed is kept in FOLDER/logs.
    """
    logs = FOLDER / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    output = logs / f"{name}-{way}.log"
    lines = logs / f"{name}-{way}.jsonl"
    lines.unlink(missing_ok=True)
    pooler_log = logs / f"{name}-{way}-pooler.log"
    with open_way(way, suite.needs, pooler_log) as target:
        _run(suite.command(target), target, output, lines)
    found = (
        results.read_go(output.read_text()) if suite.go else results.read_lines(lines)
    )
    if not found:
        raise SuiteError(f"{name}, {way}: no test was run; see {output}")
    return found
