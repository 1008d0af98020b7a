# SPDX-License-Identifier: MIT
"""Other people's test suites, through the pooler: ``python -m tests.suites [NAME]...``.

Runs each suite straight to PostgreSQL and on every way through a pooler, and names the
tests that pass straight and not through the pooler. Exit code 1 if one of them is not
in known.toml, or if an entry of known.toml is not needed any more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pooler.errors import PoolerError
from tests.suites import known, results
from tests.suites.catalog import SUITES
from tests.suites.known import Known, Verdict
from tests.suites.results import Outcome, Results
from tests.suites.suite import FOLDER, ROOT, RUN_DEADLINE_S, Run, SuiteError, run
from tests.suites.ways import STRAIGHT, WAYS

COLUMNS = ("passed", "failed", "skipped", "known", "lost")
ROW = "{:<20} {:<12}" + " {:>8}" * len(COLUMNS)


def print_row(name: str, way: str, found: Results, verdict: Verdict) -> None:
    """One row of the table."""
    counted = results.count(found)
    numbers = [counted[outcome] for outcome in (Outcome.PASSED, Outcome.FAILED)]
    numbers += [counted[Outcome.SKIPPED], len(verdict.excused), len(verdict.lost)]
    print(ROW.format(name, way, *numbers), flush=True)


def complain(run_name: str, found: Results, verdict: Verdict) -> list[str]:
    """What is to be looked at; one line for all tests that were not run."""
    said = [
        f"{run_name}: {found[test]}: {test}" for test in verdict.lost if test in found
    ]
    not_run = [test for test in verdict.lost if test not in found]
    if not_run:
        said.append(f"{run_name}: {len(not_run)} not run, the first is {not_run[0]}")
    said += [
        f"{run_name}: stale in known.toml: {entry.test}" for entry in verdict.stale
    ]
    return said


def complain_hung(run_name: str, one: Run) -> list[str]:
    """A run that was ended: its last test, behind which it hung."""
    if not one.hung:
        return []
    last = list(one.found)[-1]
    return [f"{run_name}: ended after {RUN_DEADLINE_S:.0f} s; the last test is {last}"]


def run_suite(name: str, ways: Sequence[str], entries: Sequence[Known]) -> list[str]:
    """Run one on every way and print its rows; returns what is to be looked at."""
    suite = SUITES[name]
    suite.fetch()
    straight = run(name, suite, STRAIGHT)
    print_row(name, STRAIGHT, straight.found, Verdict())
    complaints = complain_hung(f"{name}, {STRAIGHT}", straight)
    for way in ways:
        one = run(name, suite, way)
        mine = known.entries_for(entries, name, way)
        verdict = known.compare(straight.found, one.found, mine)
        print_row(name, way, one.found, verdict)
        complaints += complain_hung(f"{name}, {way}", one)
        complaints += complain(f"{name}, {way}", one.found, verdict)
    return complaints


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.suites", description=__doc__)
    parser.add_argument("--way", action="append", choices=sorted(WAYS), dest="ways")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SUITES))
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(SUITES)
    if unknown:
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")
    entries = known.load()
    complaints = []
    print(ROW.format("suite", "way", *COLUMNS), flush=True)
    for name in options.names or SUITES:
        try:
            complaints += run_suite(name, options.ways or list(WAYS), entries)
        except (SuiteError, PoolerError, AssertionError) as error:
            complaints.append(f"{name}: {error}")
    print()
    for complaint in complaints:
        print(complaint)
    print(
        f"their output: {FOLDER.relative_to(ROOT)}/logs"
        if complaints
        else "as expected"
    )
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
