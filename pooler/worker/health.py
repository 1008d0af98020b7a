# SPDX-License-Identifier: MIT
"""Which addresses of servers have failed lately. Worker layer, cold.

An address that has failed is *ill*: it is tried only where no other one is left. When
its pause is over somebody knocks at it, once, and no login waits for that; if it
answers it is as good as the others, and well when a login has succeeded. Who is ill is
never refused: with one host all is as if nobody counted.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
MOST_KEPT = 1024


@dataclass(slots=True)
class Illness:
    """``failures``: in a row, those at the same time being one."""

    failures: int = 0
    due_s: float = 0.0
    is_probed: bool = False
    has_answered: bool = False


class Health:
    """The addresses that have failed, of one worker."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = lambda: random.uniform(0.5, 1.0),  # noqa: S311
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._ill: dict[Hashable, Illness] = {}
        # Who hears of what was found out here: ``failed``, ``answered`` or ``worked``.
        self.tell: Callable[[Hashable, str], None] = lambda *_: None

    def is_well(self, place: Hashable) -> bool:
        """Whether it may be tried as one of the first."""
        illness = self._ill.get(place)
        return illness is None or illness.has_answered

    def due_s(self, place: Hashable) -> float:
        """When its pause is over; 0.0: it has none."""
        illness = self._ill.get(place)
        return 0.0 if illness is None else illness.due_s

    def heard(self, place: Hashable, what: str) -> None:
        """Another worker has found something out."""
        if what == "failed":
            self._fails(place)
        elif what == "answered":
            self._answers(place)
        else:
            self._ill.pop(place, None)

    def failed(self, place: Hashable) -> None:
        """It could not be reached, or did not let us in for a reason of its own."""
        if self._fails(place):
            self.tell(place, "failed")

    def _fails(self, place: Hashable) -> bool:
        """False: that was known, and its pause goes on."""
        if len(self._ill) >= MOST_KEPT:
            self._ill.clear()
        illness = self._ill.setdefault(place, Illness())
        now_s = self._clock()
        is_news = now_s >= illness.due_s or illness.has_answered
        if is_news:
            illness.failures += 1
            # no power of two beyond what is longer than the longest
            pause_s = FIRST_PAUSE_S * 2 ** min(illness.failures - 1, 10)
            illness.due_s = now_s + min(pause_s, LONGEST_PAUSE_S) * self._jitter()
        illness.has_answered = False
        return is_news

    def worked(self, place: Hashable) -> None:
        """A login has succeeded."""
        if self._ill.pop(place, None) is not None:
            self.tell(place, "worked")

    def begin_probe(self, place: Hashable) -> bool:
        """Whether somebody should knock now: its pause is over, and nobody does.

        Who does tells by ``probed``.
        """
        illness = self._ill.get(place)
        if illness is None or illness.is_probed or illness.has_answered:
            return False
        illness.is_probed = self._clock() >= illness.due_s
        return illness.is_probed

    def probed(self, place: Hashable, *, answered: bool) -> None:
        """What came of a knock."""
        illness = self._ill.get(place)
        if illness is None:
            return
        illness.is_probed = False
        if answered:
            self._answers(place)
            self.tell(place, "answered")
        else:
            self.failed(place)

    def _answers(self, place: Hashable) -> None:
        illness = self._ill.get(place)
        if illness is not None:
            illness.has_answered = True

    def forget(self) -> None:
        """What was wrong may be right by now."""
        self._ill.clear()
