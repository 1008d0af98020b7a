# SPDX-License-Identifier: MIT
"""Compares runs by the names of tests, and with the list of known differences."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.suites.results import Outcome, Results

KNOWN = Path(__file__).with_name("known.toml")


class KnownError(Exception):
    """The list of known differences has an entry that is not right; says which."""


@dataclass(frozen=True, slots=True)
class Known:
    """Tests of a suite that do not pass on a way to the server, and why.

    ``test`` is a regular expression, looked for anywhere in a name. ``sometimes`` is
    for tests that depend on chance: they may pass.
    """

    suite: str
    way: str
    test: str
    reason: str
    sometimes: bool = False

    def covers(self, name: str) -> bool:
        """Whether the entry is about this test."""
        return re.search(self.test, name) is not None


def load(path: Path = KNOWN) -> tuple[Known, ...]:
    """The list; KnownError for an entry that is not whole or no expression."""
    entries = []
    for number, row in enumerate(tomllib.loads(path.read_text())["known"], 1):
        try:
            entry = Known(**row)
            re.compile(entry.test)
        except (TypeError, re.error) as error:
            raise KnownError(f"{path.name}: entry {number}: {error}") from error
        if not entry.reason.strip():
            raise KnownError(f"{path.name}: entry {number} has no reason")
        entries.append(entry)
    return tuple(entries)


def entries_for(known: Iterable[Known], suite: str, way: str) -> tuple[Known, ...]:
    """The entries that concern one run."""
    return tuple(one for one in known if (one.suite, one.way) == (suite, way))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be reported of one run.

    ``lost``: tests that pass straight, not here, and are not known. ``excused``: the
    known ones of those. ``stale``: entries that no such test needs any more.
    """

    lost: tuple[str, ...] = ()
    excused: tuple[str, ...] = ()
    stale: tuple[Known, ...] = ()

    @property
    def good(self) -> bool:
        """Nothing has to be looked at."""
        return not self.lost and not self.stale


def compare(straight: Results, here: Results, known: Iterable[Known]) -> Verdict:
    """Compare a run with the one straight to PostgreSQL.

    A test that was skipped or not run here, but passes straight, is lost as well.
    What fails straight is no business of ours.
    """
    entries = tuple(known)
    passing = (name for name, how in straight.items() if how is Outcome.PASSED)
    missing = [name for name in passing if here.get(name) is not Outcome.PASSED]
    excused = [name for name in missing if any(one.covers(name) for one in entries)]
    return Verdict(
        lost=tuple(sorted(set(missing) - set(excused))),
        excused=tuple(sorted(excused)),
        stale=tuple(
            one
            for one in entries
            if not one.sometimes and not any(one.covers(name) for name in missing)
        ),
    )
