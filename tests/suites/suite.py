# SPDX-License-Identifier: MIT
"""What a suite is, and how one is run on one way."""

from __future__ import annotations

import contextlib
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
RUN_DEADLINE_S = 1800.0


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


def run_command(
    command: Command,
    variables: Mapping[str, str],
    output: Path,
    deadline_s: float = RUN_DEADLINE_S,
) -> bool:
    """Run to its end, or to the deadline: then it and its children are ended.

    Returns whether it came to its end. Its exit code says nothing that we need.
    """
    kept = {key: value for key, value in os.environ.items() if key[:2] != "PG"}
    environment = {
        **kept,
        "PYTHONPATH": str(INSIDE),
        "PYTHONDONTWRITEBYTECODE": "1",
        **variables,
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
            process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            return False
        finally:
            # What it has started may outlive it, and would go on with the tests.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return True


@dataclass(frozen=True, slots=True)
class Run:
    """What one run has found. ``hung``: it was ended, for it took too long."""

    found: Results
    hung: bool = False


def run(name: str, suite: Suite, way: str) -> Run:
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
        variables = {**target.environment, "SUITE_RESULTS": str(lines)}
        whole = run_command(suite.command(target), variables, output)
    found = (
        results.read_go(output.read_text(errors="replace"))
        if suite.go
        else results.read_lines(lines)
    )
    if not found:
        raise SuiteError(f"{name}, {way}: no test was run; see {output}")
    return Run(found, hung=not whole)
