# SPDX-License-Identifier: MIT
"""How runs of other people's suites are read and compared (tests/suites)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.integration.harness import is_alive, wait_until
from tests.suites import known, results
from tests.suites.__main__ import complain_hung
from tests.suites.catalog import SUITES
from tests.suites.known import Known, KnownError, compare
from tests.suites.results import Outcome
from tests.suites.suite import Command, Run, run_command
from tests.suites.ways import WAYS

PASSED, FAILED, SKIPPED = Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED
STRAIGHT = {"a::one": PASSED, "a::two": PASSED, "b::one": FAILED, "b::two": SKIPPED}


def entry(test: str, sometimes: bool = False) -> Known:
    return Known("suite", "session", test, "a reason", sometimes)


def test_the_same_everywhere_is_good() -> None:
    assert compare(STRAIGHT, STRAIGHT, []).good


def test_what_fails_straight_may_do_anything() -> None:
    verdict = compare(STRAIGHT, {**STRAIGHT, "b::one": PASSED, "b::two": FAILED}, [])
    assert verdict.good


@pytest.mark.parametrize("outcome", [FAILED, SKIPPED])
def test_what_passes_straight_only_is_lost(outcome: Outcome) -> None:
    verdict = compare(STRAIGHT, {**STRAIGHT, "a::two": outcome}, [])
    assert verdict.lost == ("a::two",)
    assert not verdict.good


def test_what_was_not_run_is_lost() -> None:
    assert compare(STRAIGHT, {"a::two": PASSED}, []).lost == ("a::one",)


def test_a_known_difference_is_excused() -> None:
    verdict = compare(STRAIGHT, {**STRAIGHT, "a::two": FAILED}, [entry("^a::tw")])
    assert verdict.good
    assert verdict.excused == ("a::two",)


def test_an_entry_excuses_what_it_names_only() -> None:
    failing = {**STRAIGHT, "a::one": FAILED, "a::two": FAILED}
    verdict = compare(STRAIGHT, failing, [entry("::two$")])
    assert (verdict.lost, verdict.excused) == (("a::one",), ("a::two",))


def test_an_entry_that_nothing_needs_is_stale() -> None:
    unneeded = entry("a::one")
    verdict = compare(STRAIGHT, STRAIGHT, [unneeded])
    assert verdict.stale == (unneeded,)
    assert not verdict.good


def test_an_entry_about_what_fails_straight_is_stale() -> None:
    assert compare(STRAIGHT, STRAIGHT, [entry("b::one")]).stale


def test_what_depends_on_chance_may_pass() -> None:
    assert compare(STRAIGHT, STRAIGHT, [entry("a::one", sometimes=True)]).good


def test_lines_keep_the_worst_outcome_of_a_name(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_text(
        '{"name": "one", "outcome": "passed"}\n'
        '{"name": "two", "outcome": "skipped"}\n'
        '{"name": "one", "outcome": "failed"}\n'
    )
    assert results.read_lines(lines) == {"one": FAILED, "two": SKIPPED}
    assert results.read_lines(tmp_path / "none") == {}


@pytest.mark.parametrize("cut", ['{"name": "two", "outco', "{", ""])
def test_a_line_that_was_cut_is_none(tmp_path: Path, cut: str) -> None:
    """A suite that is ended at its deadline is ended in the middle of a line."""
    lines = tmp_path / "lines"
    lines.write_text('{"name": "one", "outcome": "passed"}\n' + cut)
    assert results.read_lines(lines) == {"one": PASSED}
    text = '{"Action": "pass", "Package": "p", "Test": "TestOne"}\n' + cut
    assert results.read_go(text) == {"p.TestOne": PASSED}


SLEEPS = "import subprocess, sys; print('x', flush=True); child = subprocess.Popen("
SLEEPS += "['sleep', '600']); open('pid', 'w').write(str(child.pid)); child.wait()"


@pytest.mark.full
def test_a_suite_that_hangs_is_ended_and_named(tmp_path: Path) -> None:
    """With what it has started; the deadline is long enough to start something."""
    command = Command((sys.executable, "-c", SLEEPS), tmp_path, {})
    output = tmp_path / "output"
    assert not run_command(command, {}, output, deadline_s=3)
    assert output.read_text() == "x\n"
    child = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_alive(child), "its child has ended")
    [said] = complain_hung("suite, session", Run({"a": PASSED, "b": FAILED}, hung=True))
    assert said.startswith("suite, session: ended after")
    assert said.endswith("the last test is b")
    assert complain_hung("suite, session", Run({"a": PASSED})) == []


def test_a_suite_that_ends_is_not_named(tmp_path: Path) -> None:
    command = Command((sys.executable, "-c", "raise SystemExit(3)"), tmp_path, {})
    assert run_command(command, {}, tmp_path / "output", deadline_s=60)


def test_go_names_a_test_by_its_package() -> None:
    text = (
        "# a line of the compiler\n"
        '{"Action": "run", "Package": "p", "Test": "TestOne"}\n'
        '{"Action": "pass", "Package": "p", "Test": "TestOne"}\n'
        '{"Action": "fail", "Package": "p", "Test": "TestTwo/sub"}\n'
        '{"Action": "fail", "Package": "p"}\n'
    )
    assert results.read_go(text) == {"p.TestOne": PASSED, "p.TestTwo/sub": FAILED}


@pytest.mark.parametrize(
    "row",
    [
        'suite = "s", way = "w", test = "("',
        'suite = "s", way = "w", test = "t"',
    ],
)
def test_an_entry_must_be_right(tmp_path: Path, row: str) -> None:
    path = tmp_path / "known.toml"
    path.write_text(f"known = [{{{row}, reason = ' '}}]")
    with pytest.raises(KnownError, match="entry 1"):
        known.load(path)
    path.write_text(f"known = [{{{row}}}]")
    with pytest.raises(KnownError, match="entry 1"):
        known.load(path)


def test_the_list_names_suites_and_ways_that_exist() -> None:
    for one in known.load():
        assert one.suite in SUITES, one
        assert one.way in WAYS, one
