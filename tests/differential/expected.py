# SPDX-License-Identifier: MIT
"""Differences that are known: not mended yet, or not to be had."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import NamedTuple

from tests.differential.play import Difference


class Known(NamedTuple):
    """``scenarios`` and ``differences`` are patterns of their kinds.

    ``said`` must be found in what was said, ``last`` in the exchange that differs (both
    as Python, regular expressions, in any case).
    """

    scenarios: str
    differences: str
    reason: str
    said: str = ""
    last: str = ""


# Errors that PostgreSQL finds at another place, because the statement is prepared again
# in front of the client's message.
_AGAIN = "of the Parse in front, of a statement that the server lacks"
_NEVER_TOLD = "nobody was told the parameters of a statement that the server lacks"
_SNAPSHOT = "a Parse of ours came first, which takes a snapshot"
_BY_PARSE = "EXECUTE of what is itself PREPARE, EXECUTE or so by Parse: not found"
_RESET_BESIDE = "a RESET and a SET in one batch: what is told, and in which order"
_IN_FUNCTION = "PREPARE inside a function of the user's own cannot be seen"
_BYTES = "names that are not ASCII are told apart by their bytes, in whatever encoding"
_RESET_HIDDEN = "a RESET inside of DO or a procedure goes to the server's own value"
_WARNED_AT = "the place in a warning is that in the text with the server's own name"
_LOST = "read under settings that nobody can tell: it is to be prepared anew"
_TYPE_GONE = "a type is gone, with a number of its own; prepared again: another error"

_NAMES = r"(prepare|execute|deallocate) "
_SQL_BY_PARSE = r"Parse\(.{1,40}(prepare|execute|deallocate|discard) "
_NOT_ASCII = _NAMES + r'("?[^\x00-\x7f]|"\\*"?\\udc)|(Parse|Bind).*[^\x00-\x7f]'
_VALUES = r"Bind\(values"
_DESCRIBE = r"Describe\('S'"
_CHANGED = r"set_config\(|\bset\b"

EXPECTED_DIFFERENCES = (
    Known("stale", "E 0A000 -> *", "meant: a stale plan is prepared again, unseen"),
    Known("*", "t -> E 25P02", f"without rows: {_NEVER_TOLD}", last=_DESCRIBE),
    Known("*", "t -> E 42P01", f"without rows: {_NEVER_TOLD}", last=_DESCRIBE),
    Known("*", "t -> E 42883", f"without rows: {_NEVER_TOLD}", last=_DESCRIBE),
    Known("*", "E 08P01 in CM -> E 25P02", f"wrong number of values: {_NEVER_TOLD}"),
    Known("*", "E 08P01 in CMPR -> E 42P01", f"wrong number of values: {_NEVER_TOLD}"),
    Known(
        "*", "E 42601 in CDMPR -> E 42P01", f"number of values: {_AGAIN}", last=_NAMES
    ),
    Known("*", "E 42P03 in CMPR -> E 42P01", f"portal taken: {_AGAIN}"),
    Known("*", "E 08P01 in M -> E 08P01", "one text with two names: names the other"),
    Known("*", "C BEGIN -> E 25001", _SNAPSHOT),
    Known("*", "C SET -> E 25001", _SNAPSHOT),
    Known("*", "[2tT] -> E 0A000", _LOST, said=_CHANGED, last="Bind|Describe"),
    Known("login", "Z -> S *", _RESET_HIDDEN, said=r"(do \$x\$|run_it).*reset"),
    Known("login", "D -> D", _RESET_HIDDEN, last=r"(do \$x\$|run_it).*reset"),
    Known("*", "N 22P06 in P -> N 22P06", _WARNED_AT, last="prepare"),
    Known("login", "S standard_conforming_strings -> Z", _RESET_BESIDE, said="reset"),
    Known("context", "S application_name -> S DateStyle", _RESET_BESIDE, said="reset"),
    *(
        Known("hidden", difference, _IN_FUNCTION, said="run.*prepare s1 as select 7")
        for difference in (
            "E 26000 -> [12]",
            "E 42P05 -> [1D]",
            "D -> E 42P05",
            "2 -> E 26000",
            "E 26000 -> t",
            "E 08P01 in CMR -> E 26000",
        )
    ),
    Known("types", "E XX000 in * -> E *", _TYPE_GONE, said="drop (type|domain)"),
    *(
        Known("encoding", difference, _BYTES, said=_NOT_ASCII)
        for difference in (
            "E 22021 -> [1T]",
            "E 22021 -> C *",
            "E 22021 in CM* -> E *",
            "E 22P05 -> C *",
            "E 26000 -> C DEALLOCATE",
            "E 26000 in CMR -> E 22012",
            "2 -> E 22P05",
        )
    ),
    *(
        Known("*", difference, _BY_PARSE, said=_SQL_BY_PARSE)
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


def reason_for(kind: str, difference: Difference) -> str:
    """Why a difference is known; empty if it is not. ``kind``: of its scenario."""
    exchanges = difference.scenario.exchanges
    said = repr(exchanges)
    last = repr(exchanges[-1:])
    for known in EXPECTED_DIFFERENCES:
        if (
            fnmatchcase(kind, known.scenarios)
            and fnmatchcase(difference.kind, known.differences)
            and re.search(known.said, said, re.IGNORECASE)
            and re.search(known.last, last, re.IGNORECASE)
        ):
            return known.reason
    return ""
