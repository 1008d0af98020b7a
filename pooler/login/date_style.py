# SPDX-License-Identifier: MIT
"""A DateStyle on top of another: what it leaves out is that of the earlier one.

Source: PostgreSQL documentation, "Date/Time Output"; the words are those that
PostgreSQL reads in a value of DateStyle, in any case.
"""

from __future__ import annotations

STYLES = {"iso": "ISO", "sql": "SQL", "german": "German"}
ORDERS = {"ymd": "YMD", "dmy": "DMY", "mdy": "MDY", "us": "MDY"}
# Words of which only the beginning counts.
STYLE_STEMS = {"postgres": "Postgres"}
ORDER_STEMS = {"euro": "DMY", "noneuro": "MDY"}
ORDER_OF_GERMAN = "DMY"

Parts = tuple[str | None, str | None]


def parts(value: str) -> Parts | None:
    """Style and order that a value names; None for words that cannot be read.

    ``default`` is one of these: it may stand for anything.
    """
    style: str | None = None
    order: str | None = None
    if not value.strip():
        return style, order
    for word in value.lower().split(","):
        clean = word.strip(" \t\n\r\f\v")
        of_style = _meaning(clean, STYLES, STYLE_STEMS)
        of_order = _meaning(clean, ORDERS, ORDER_STEMS)
        if of_style is not None and style in (None, of_style):
            style = of_style
        elif of_order is not None and order in (None, of_order):
            order = of_order
        else:
            return None
    return style, order


def _meaning(word: str, whole: dict[str, str], stems: dict[str, str]) -> str | None:
    if word in whole:
        return whole[word]
    return next((text for stem, text in stems.items() if word.startswith(stem)), None)


def on_top(later: str, earlier: str) -> str:
    """The value that has the effect of both, one after the other.

    An earlier one that cannot be read is left to PostgreSQL, which refuses it first.
    """
    first, second = parts(earlier), parts(later)
    if first is None:
        return later if _has_default(earlier) else earlier
    if second is None:
        return later
    style = second[0] or first[0]
    order = second[1]
    if order is None:
        order = ORDER_OF_GERMAN if second[0] == "German" else _order(first)
    return ", ".join(part for part in (style, order) if part is not None)


def _order(value: Parts) -> str | None:
    style, order = value
    return ORDER_OF_GERMAN if order is None and style == "German" else order


def _has_default(value: str) -> bool:
    return "default" in value.lower()
