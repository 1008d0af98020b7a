# SPDX-License-Identifier: MIT
"""Rows as a table for people. Tools layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pooler.log import escape
from pooler.tools.client import Result


def lines_of(result: Result) -> Iterable[str]:
    """What is shown of an answer, as psql does it; control characters are escaped."""
    yield from (escape_lines(notice) for notice in result.notices)
    if result.error:
        yield f"ERROR:  {escape_lines(result.error)}"
        return
    if not result.columns:
        yield result.tag
        return
    rows = [[escape(value or "") for value in row] for row in result.rows]
    widths = [
        max(map(len, column)) for column in zip(result.columns, *rows, strict=True)
    ]
    yield _line(
        [name.center(w) for name, w in zip(result.columns, widths, strict=True)]
    )
    yield "-+-".join("-" * width for width in widths)
    for row in rows:
        yield _line([value.ljust(w) for value, w in zip(row, widths, strict=True)])
    yield f"({len(rows)} row{'' if len(rows) == 1 else 's'})"


def escape_lines(text: str) -> str:
    """Text of several lines, each of them escaped."""
    return "\n".join(map(escape, text.splitlines()))


def _line(cells: Sequence[str]) -> str:
    return " | ".join(cells).rstrip()
