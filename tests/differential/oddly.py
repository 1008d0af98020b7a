# SPDX-License-Identifier: MIT
"""Legal messages where nobody expects them, and cuts at every place."""

from __future__ import annotations

import random

from tests.differential import grammar
from tests.differential.messages import (
    Close,
    CopyData,
    CopyDone,
    CopyFail,
    Describe,
    Execute,
    Flush,
    FunctionCall,
    Message,
    Parse,
    Query,
    Sync,
)

# By object identifier: abs, int4pl, int4div (by 0), and one that nobody has.
FUNCTIONS = (
    FunctionCall(1397, (b"-3",)),
    FunctionCall(177, (b"3", b"4")),
    FunctionCall(154, (b"3", b"0")),
    FunctionCall(1397, (b"x",)),
    FunctionCall(1397),
    FunctionCall(999_999),
)
CURSOR_NAMES = ("tc", "p1", "p2")
EVERYWHERE_BYTES = 150  # cut behind every byte of what is no longer


def has_copy(parts: list[Message]) -> bool:
    """Whether a COPY may be among these."""
    return any(
        "copy" in one.sql.lower() for one in parts if isinstance(one, Query | Parse)
    )


def a_name(pick: random.Random) -> str:
    return pick.choice(("", "nobody", *grammar.NAMES))


def a_portal(pick: random.Random) -> str:
    return pick.choice(("", "", "nobody", *CURSOR_NAMES))


def one_more(pick: random.Random) -> Message:
    """A message that is legal everywhere outside of a COPY."""
    choices: tuple[Message, ...] = (
        Flush(),
        Flush(),
        Sync(),
        Describe("S", a_name(pick)),
        Describe("P", a_portal(pick)),
        Close("S", a_name(pick)),
        Close("S", a_name(pick)),
        Close("P", a_portal(pick)),
        Close("P", a_portal(pick)),
        Execute(a_portal(pick), pick.choice((0, 1, 2))),
        Query(pick.choice(("", "select 8", "select nope", ";", "begin", "rollback"))),
        pick.choice(FUNCTIONS),
        pick.choice((CopyData(b"stray\n"), CopyDone(), CopyFail())),
    )
    return pick.choice(choices)


def make_odd(pick: random.Random, parts: list[Message]) -> list[Message]:
    """The same with something more, twice or less.

    No Parse or Bind is taken away or comes twice: what an unnamed statement stands for
    must stay known (it may be a COPY, which needs its data).
    """
    odd = list(parts)
    for _ in range(pick.choice((1, 1, 2, 3))):
        at = pick.randrange(len(odd) + 1)
        if has_copy(odd):
            if not at or isinstance(odd[at - 1], CopyData | Parse):
                odd.insert(at, Flush())
            continue
        which = pick.random()
        if which < 0.7 or at == len(odd):
            odd.insert(at, one_more(pick))
        elif isinstance(odd[at], Describe | Execute | Close | Sync | Query):
            if which < 0.85:
                odd.insert(at, odd[at])
            elif len(odd) > 1:
                del odd[at]
    return odd


def cuts(pick: random.Random, parts: tuple[Message, ...]) -> tuple[int, ...]:
    """Where the sends of an exchange end; mostly nowhere."""
    way = pick.random()
    sizes = [len(one.raw()) for one in parts]
    size = sum(sizes)
    if way >= 0.34 or size < 2:
        return ()
    if way < 0.02 and size <= EVERYWHERE_BYTES:
        return tuple(range(1, size))
    if way < 0.12:
        # At the end of a message, inside of its header, behind its header.
        at = sum(sizes[: pick.randrange(len(sizes))])
        near = at + pick.choice((0, 0, 1, 4, 5, 6))
        return (near,) if 0 < near < size else ()
    count = pick.choice((1, 1, 2, 4))
    # Early bytes matter most: headers and names are there.
    made = {pick.randrange(1, pick.choice((size, min(size, 60)))) for _ in range(count)}
    return tuple(sorted(made))
