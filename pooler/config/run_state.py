# SPDX-License-Identifier: MIT
"""What an operator may pause and disable, as a table of verbs. Config layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from pooler.config.model import RunState


class StateError(Exception):
    """It cannot be changed like that; in PgBouncer's words."""


def issued(verb: str, database: str) -> str:
    """What the log says of a command."""
    return (
        f"{verb} '{database}' command issued" if database else f"{verb} command issued"
    )


def changed(state: RunState, verb: str, database: str) -> RunState:
    """The state behind a command; StateError.

    ``database``: empty for all of them, where the verb allows that.
    """
    return _VERBS[verb, bool(database)](state, frozenset([database]), database)


_Change = Callable[[RunState, frozenset[str], str], RunState]


def _disable(state: RunState, one: frozenset[str], name: str) -> RunState:
    return dataclasses.replace(state, disabled=state.disabled | one)


def _enable(state: RunState, one: frozenset[str], name: str) -> RunState:
    return dataclasses.replace(state, disabled=state.disabled - one)


def _check_running(state: RunState) -> None:
    if state.paused or state.suspended:
        raise StateError("already suspended/paused")


def _pause(state: RunState, one: frozenset[str], name: str) -> RunState:
    _check_running(state)
    return dataclasses.replace(state, paused=True)


def _pause_database(state: RunState, one: frozenset[str], name: str) -> RunState:
    _check_running(state)
    return dataclasses.replace(state, paused_databases=state.paused_databases | one)


def _resume(state: RunState, one: frozenset[str], name: str) -> RunState:
    if not (state.paused or state.suspended):
        raise StateError("pooler is not paused/suspended")
    return dataclasses.replace(state, paused=False, suspended=False)


def _resume_database(state: RunState, one: frozenset[str], name: str) -> RunState:
    if not one <= state.paused_databases:
        raise StateError(f"database {name} is not paused")
    return dataclasses.replace(state, paused_databases=state.paused_databases - one)


def _suspend(state: RunState, one: frozenset[str], name: str) -> RunState:
    _check_running(state)
    if state.paused_databases:
        raise StateError("cannot suspend with paused databases")
    return dataclasses.replace(state, suspended=True)


# By verb, and whether one database is meant.
_VERBS: Mapping[tuple[str, bool], _Change] = {
    ("DISABLE", True): _disable,
    ("ENABLE", True): _enable,
    ("PAUSE", False): _pause,
    ("PAUSE", True): _pause_database,
    ("RESUME", False): _resume,
    ("RESUME", True): _resume_database,
    ("KILL", True): _pause_database,
    ("SUSPEND", False): _suspend,
}
