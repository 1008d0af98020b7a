# SPDX-License-Identifier: MIT
"""A run: scenarios from one seed, until a number of exchanges or minutes is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.differential.bed import Bed
from tests.differential.expected import reason_for
from tests.differential.generator import KINDS, LONGEST, Generator
from tests.differential.messages import Scenario
from tests.differential.play import Difference, Ended, NotLegal, Play, replay
from tests.differential.shrink import shrink

SHRINK_S = 25.0


@dataclass
class Found:
    """What a run has come to."""

    scenarios: int = 0
    exchanges: int = 0
    messages: int = 0
    ended: list[str] = field(default_factory=list)  # by PostgreSQL, and at what
    differences: list[Difference] = field(default_factory=list)  # not expected
    counts: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{self.scenarios} scenarios, {self.exchanges} exchanges,"
            f" {self.messages} messages compared, {len(self.differences)} differences"
        )


def one_scenario(bed: Bed, seed: int, kind: str, found: Found) -> Difference | None:
    """Generate a scenario and hold it; its first difference."""
    generator = Generator(seed, kind)
    ended = len(found.ended)
    with Play(bed, generator.scenario) as play:
        for _ in range(LONGEST):
            exchange = generator.next(play.referee)
            if exchange is None or play.difference is not None:
                break
            try:
                generator.played(exchange, play.exchange(exchange))
            except Ended as end:
                found.ended.append(str(end))
                break
        if play.difference is None and not found.ended[ended:]:
            for exchange in generator.end(play.referee):
                if play.difference is None:
                    play.exchange(exchange)
            play.finish()
        found.scenarios += 1
        found.exchanges += len(play.held)
        found.messages += play.comparison.messages
        return play.difference


def minimal(bed: Bed, difference: Difference, seconds: float = SHRINK_S) -> Difference:
    """The same kind of difference, shown by as little as can be found."""
    best = [difference]

    def shows(candidate: Scenario) -> Scenario | None:
        try:
            found = replay(bed, candidate)
        except NotLegal:
            return None
        if found is None or found.kind != difference.kind:
            return None
        best[0] = found
        return found.scenario

    shrink(difference.scenario, shows, time.monotonic() + seconds)
    return best[0]


def run(
    bed: Bed,
    seed: int,
    *,
    kinds: Sequence[str] = tuple(KINDS),
    exchanges: int = 0,
    seconds: float = 0.0,
    keep_going: bool = False,
    also_expected: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Found:
    """Scenarios until ``exchanges`` or ``seconds`` are over, or one differs.

    With ``keep_going`` to the end; each kind of difference is then made small once.
    What is in ``EXPECTED_DIFFERENCES`` is counted only, unless ``also_expected``.
    """
    found = Found()
    deadline = time.monotonic() + seconds
    while (exchanges and found.exchanges < exchanges) or (
        seconds and time.monotonic() < deadline
    ):
        kind = kinds[found.scenarios % len(kinds)]
        number = seed * 1_000_000 + found.scenarios
        difference = one_scenario(bed, number, kind, found)
        if difference is None:
            continue
        expected = reason_for(kind, difference)
        name = f"{kind}: {difference.kind}" + (f" ({expected})" if expected else "")
        found.counts[name] = found.counts.get(name, 0) + 1
        if found.counts[name] > 1 or (expected and not also_expected):
            continue
        tell(f"difference {name} (scenario {number}); it is made smaller")
        small = minimal(bed, difference)
        found.differences.append(small)
        tell(f"### {name}\n{small.report()}\n")
        if not keep_going:
            break
    return found
