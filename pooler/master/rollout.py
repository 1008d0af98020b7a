# SPDX-License-Identifier: MIT
"""Configurations on their way to the children. Layer: master.

Each child is sent the whole configuration and says when it runs it. Whoever has asked
for the change hears when all have: new clients then meet the new one, whichever worker
takes them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pooler import log
from pooler.config import travel
from pooler.config.log_style import log_style
from pooler.config.model import Config
from pooler.ipc.bus import Bus
from pooler.master.children import Slot

# A worker answers between two turns of its loop. Who takes longer does not hold up
# the one who asked.
ANSWER_S = 5.0


@dataclass(slots=True)
class _Rollout:
    waiting: set[int]
    until_s: float
    done: Callable[[], None]


class Rollouts:
    """Those that are under way, by number."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._by_number: dict[int, _Rollout] = {}
        self._next = 1

    def send(
        self,
        config: Config,
        verbose: int,
        slots: Iterable[Slot],
        done: Callable[[], None],
    ) -> None:
        """Send it to the living children; call ``done`` when all of them run it.

        Or when the last that does not is gone, or its time is up.
        """
        number, self._next = self._next, self._next + 1
        settings = config.settings
        logging = log.orders(settings.logfile, log_style(settings), verbose)
        payload = {"number": number, **logging}
        waiting = set()
        fd = travel.pack(config)
        try:
            for slot in slots:
                if not self._bus.send(slot.index, "reload", payload, [fd]):
                    log.write(
                        log.ERROR,
                        f"{slot.title} does not read its inbox: not reloaded",
                    )
                elif slot.child is not None:
                    waiting.add(slot.index)
        finally:
            os.close(fd)
        until_s = time.monotonic() + ANSWER_S
        self._by_number[number] = _Rollout(waiting, until_s, done)
        self._settle()

    def answered(self, index: int, number: object) -> None:
        """A child runs the configuration of that number."""
        rollout = self._by_number.get(number) if isinstance(number, int) else None
        if rollout is not None:
            rollout.waiting.discard(index)
            self._settle()

    def gone(self, index: int) -> None:
        """A child is dead: its successor is born with what runs."""
        for rollout in self._by_number.values():
            rollout.waiting.discard(index)
        self._settle()

    @property
    def due_s(self) -> float | None:
        """When ``on_time`` has something to do."""
        return min((one.until_s for one in self._by_number.values()), default=None)

    def on_time(self, now_s: float) -> None:
        """Give up those whose time is up."""
        for rollout in self._by_number.values():
            if now_s >= rollout.until_s:
                rollout.waiting.clear()
        self._settle()

    def _settle(self) -> None:
        over = [key for key, one in self._by_number.items() if not one.waiting]
        for key in over:
            self._by_number.pop(key).done()
