# SPDX-License-Identifier: MIT
"""Differences that are known: not mended yet, or not to be had."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple


class Known(NamedTuple):
    """``scenarios`` and ``differences`` are patterns of their kinds."""

    scenarios: str
    differences: str
    reason: str


EXPECTED_DIFFERENCES = (
    Known("stale", "E 0A000 -> *", "meant: a stale plan is prepared again, unseen"),
    Known("hidden", "*", "what a function of the user's own does cannot be seen"),
    Known("everything", "*", "all of this at once"),
    Known("*", "2 -> silence", "a prepared DO or CALL that was described"),
    Known("*", "E 08P01 in CM -> E 26000", "a Query that is skipped ends the unnamed"),
    Known("*", "2 -> E 26000", "a Query that is skipped ends the unnamed statement"),
    Known(
        "*", "E 42P05 in * -> E 42P01", "taken by a text that cannot be read any more"
    ),
    Known(
        "*", "E 42P01 in P -> E 42P01", "taken by a text that cannot be read any more"
    ),
    Known("*", "E 42P03 in * -> E 42P01", "portal taken, and the table is gone"),
    Known("*", "E 08P01 -> silence", "a prepared DO or CALL that was described"),
    Known("prepare", "*", "what a failed or skipped Query would have prepared stays"),
    Known("login", "* -> S *", "RESET goes to the server's own value"),
    Known("login", "S * -> *", "RESET goes to the server's own value"),
    Known("login", "D -> D", "read anew after standard_conforming_strings = off"),
    Known("context", "D -> D", "a Parse that was skipped changes its name's context"),
    Known("*", "E 08P01 in CMPR -> E 42P01", "bound wrongly, and its table is gone"),
    Known("*", "C BEGIN -> E 25001", "a Parse of ours came first in its batch"),
    Known("*", "E 42P05 -> 1", "a name is not found taken in a failed transaction"),
    Known("*", "t -> E 25P02", "the server lacks what is described in a failed one"),
    Known(
        "*", "E 08P01 in CMR -> E 25P02", "unnamed, and bound wrongly in a failed one"
    ),
    Known(
        "*", "E 08P01 in M -> E 08P01", "one text with two names: the other is named"
    ),
    Known(
        "*", "t -> E 42P01", "described without rows: evicted, and its table is gone"
    ),
    Known("*", "E 26000 in M -> E 26000", "the error names another name, or none"),
    Known("*", "E 26000 * -> E 42703", "a PREPARE that was skipped is remembered"),
)


def reason_for(scenario: str, difference: str) -> str:
    """Why a difference is known; empty if it is not."""
    for known in EXPECTED_DIFFERENCES:
        pair = (scenario, known.scenarios), (difference, known.differences)
        if all(fnmatchcase(*one) for one in pair):
            return known.reason
    return ""
