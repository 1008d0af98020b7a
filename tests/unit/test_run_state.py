# SPDX-License-Identifier: MIT
"""What the operator may pause and disable, command by command."""

from __future__ import annotations

import pytest

from pooler.config.model import RunState
from pooler.config.run_state import StateError, changed


def run(*commands: str) -> RunState:
    state = RunState()
    for command in commands:
        verb, _, database = command.partition(" ")
        state = changed(state, verb, database)
    return state


def test_each_command_changes_its_part() -> None:
    assert run("PAUSE") == RunState(paused=True)
    assert run("PAUSE", "RESUME") == RunState()
    assert run("PAUSE a", "KILL b").paused_databases == {"a", "b"}
    assert run("SUSPEND") == RunState(suspended=True)
    assert run("SUSPEND", "RESUME") == RunState()
    assert run("DISABLE a", "SUSPEND").disabled == {"a"}
    assert run("PAUSE a", "PAUSE a", "RESUME a") == RunState()
    assert run("KILL a", "RESUME a") == RunState()
    assert run("DISABLE a", "PAUSE", "RESUME").disabled == {"a"}
    assert run("DISABLE a", "ENABLE a") == RunState()


def test_who_is_held() -> None:
    assert run("PAUSE").holds("a")
    assert run("PAUSE a").holds("a")
    assert not run("PAUSE a").holds("b")
    assert not run("SUSPEND").holds("a")
    assert run("PAUSE a", "PAUSE", "RESUME").holds("a")


@pytest.mark.parametrize(
    ("commands", "problem"),
    [
        (["PAUSE", "PAUSE"], "already suspended/paused"),
        (["PAUSE", "PAUSE a"], "already suspended/paused"),
        (["PAUSE", "KILL a"], "already suspended/paused"),
        (["RESUME"], "pooler is not paused/suspended"),
        (["PAUSE a", "RESUME"], "pooler is not paused/suspended"),
        (["PAUSE", "SUSPEND"], "already suspended/paused"),
        (["SUSPEND", "SUSPEND"], "already suspended/paused"),
        (["SUSPEND", "PAUSE"], "already suspended/paused"),
        (["SUSPEND", "PAUSE a"], "already suspended/paused"),
        (["SUSPEND", "KILL a"], "already suspended/paused"),
        (["PAUSE a", "SUSPEND"], "cannot suspend with paused databases"),
        (["RESUME a"], "database a is not paused"),
        (["PAUSE", "RESUME a"], "database a is not paused"),
    ],
)
def test_what_cannot_be(commands: list[str], problem: str) -> None:
    with pytest.raises(StateError, match=problem):
        run(*commands)
