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


# Errors that PostgreSQL finds at another place, because the statement is prepared again
# in front of the client's message.
_AGAIN = "of the Parse in front, of a statement that the server lacks"
_NEVER_TOLD = "nobody was told the parameters of a statement that the server lacks"
_SNAPSHOT = "a Parse of ours came first, which takes a snapshot"
_BY_PARSE = "EXECUTE of what is itself PREPARE, EXECUTE or so by Parse: not found"
_RESET_BESIDE = "a RESET and a SET in one batch: what is told, and in which order"
_IN_FUNCTION = "PREPARE inside a function of the user's own cannot be seen"

EXPECTED_DIFFERENCES = (
    Known("stale", "E 0A000 -> *", "meant: a stale plan is prepared again, unseen"),
    Known("*", "t -> E 25P02", f"without rows: {_NEVER_TOLD}"),
    Known("*", "t -> E 42P01", f"without rows: {_NEVER_TOLD}"),
    Known("*", "E 08P01 in CM -> E 25P02", f"wrong number of values: {_NEVER_TOLD}"),
    Known("*", "E 08P01 in CMPR -> E 42P01", f"wrong number of values: {_NEVER_TOLD}"),
    Known("*", "E 42P03 in CMPR -> E 42P01", f"portal taken: {_AGAIN}"),
    Known("*", "E 08P01 in M -> E 08P01", "one text with two names: names the other"),
    Known("*", "C BEGIN -> E 25001", _SNAPSHOT),
    Known("*", "C SET -> E 25001", _SNAPSHOT),
    Known("login", "Z -> S *", "SET LOCAL x TO DEFAULT goes to the server's own value"),
    Known("login", "S standard_conforming_strings -> Z", _RESET_BESIDE),
    Known("context", "S application_name -> S DateStyle", _RESET_BESIDE),
    Known("hidden", "E 26000 -> [12]", _IN_FUNCTION),
    Known("hidden", "E 42P05 -> [1D]", _IN_FUNCTION),
    Known("hidden", "D -> E 42P05", _IN_FUNCTION),
    Known("hidden", "2 -> E 26000", _IN_FUNCTION),
    *(
        Known(kind, difference, _BY_PARSE)
        for kind in ("prepare", "everything")
        for difference in (
            "C DEALLOCATE -> E 26000",
            "C PREPARE -> E 26000",
            "D -> E 26000",
            "T -> E 26000",
            "T -> n",
            "E 26000 in M -> E 26000",
            "E 42601 in CDMR -> E 26000",
            "E 42703 in CMPR -> E 26000",
            "E 42P05 in CMR -> E 26000",
            "E 54001 in CHMR -> E 26000",
        )
    ),
)


def reason_for(scenario: str, difference: str) -> str:
    """Why a difference is known; empty if it is not."""
    for known in EXPECTED_DIFFERENCES:
        pair = (scenario, known.scenarios), (difference, known.differences)
        if all(fnmatchcase(*one) for one in pair):
            return known.reason
    return ""
