# SPDX-License-Identifier: MIT
"""Whoever comes to a worker that does not serve is served by another. Layer: master.

A slot does not serve while it has no worker, or one that is not ready yet, takes no new
clients any more, or does not turn: it was stopped, or hangs. The kernel goes on to put
its share of the connections into the backlog of its sockets. So the master passes these
to a living worker, which *stands in* until the slot serves again. A worker that does
not turn for ``worker_stuck_timeout`` is killed, and so replaced.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pooler import log
from pooler.ipc.board import Board
from pooler.ipc.bus import Bus
from pooler.master.children import Child, Slot

LOOK_S = 0.25
# A heart beats three times a second (``worker/process``).
STILL_S = 1.0
# Longer than any start: much is read and made before the first beat.
BIRTH_FACTOR = 6


@dataclass(slots=True)
class _Heart:
    """What was seen of a worker's heart."""

    pid: int
    beat_us: int
    seen_s: float


class Cover:
    """Who stands in for whom."""

    def __init__(
        self,
        bus: Bus,
        board: Board,
        slots: Sequence[Slot],
        sockets: Callable[[int], list[int]],
    ) -> None:
        """``sockets``: descriptors where a slot's clients wait, the door last."""
        self._bus = bus
        self._board = board
        self._slots = slots
        self._sockets = sockets
        self._hearts: dict[int, _Heart] = {}
        self._looked_s = 0.0
        # The worker that stands in for a slot.
        self._stands_in: dict[int, Child] = {}
        self.kills = 0

    def due_s(self) -> float:
        """When ``on_time`` is due."""
        return self._looked_s + LOOK_S

    def on_time(self, now_s: float, stuck_s: float, *, cover: bool) -> None:
        """Look at all workers; ``stuck_s``: how long one may stand still, 0: for ever.

        Not ``cover``: the pooler ends, nobody stands in any more.
        """
        gap_s = now_s - self._looked_s
        if gap_s > 2 * STILL_S:
            # It was us who stood still, maybe all of us: begin anew.
            self._hearts.clear()
        self._looked_s = now_s
        for slot in self._slots:
            if slot.child is None:
                self._hearts.pop(slot.index, None)
                continue
            still_s = self._still_s(slot.index, slot.child, now_s)
            limit_s = stuck_s if slot.child.ready else stuck_s * BIRTH_FACTOR
            if stuck_s and still_s >= limit_s:
                self._kill(slot, slot.child, still_s)
        if cover:
            self._arrange(now_s)

    def _still_s(self, index: int, child: Child, now_s: float) -> float:
        """For how long a worker's heart has not beaten, as far as was seen."""
        beat_us = self._board.get(index, "heartbeat_us")
        heart = self._hearts.get(index)
        if heart is None or (heart.pid, heart.beat_us) != (child.pid, beat_us):
            self._hearts[index] = _Heart(child.pid, beat_us, now_s)
            return 0.0
        return now_s - heart.seen_s

    def _kill(self, slot: Slot, child: Child, still_s: float) -> None:
        self.kills += 1
        log.write(
            log.WARNING,
            f"{slot.title} (pid {child.pid}) does not turn for {still_s:.0f} s"
            f" (worker_stuck_timeout), killing it ({self.kills} so far)",
        )
        self._hearts.pop(slot.index)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)

    def _serves(self, slot: Slot, now_s: float) -> bool:
        child = slot.child
        return (
            child is not None
            and child.ready
            and self._board.get(slot.index, "serves") == 1
            and self._still_s(slot.index, child, now_s) < STILL_S
        )

    def _arrange(self, now_s: float) -> None:
        """Have each slot that does not serve covered by one that does."""
        able = [slot for slot in self._slots if self._serves(slot, now_s)]
        for slot in self._slots:
            helper = self._stands_in.get(slot.index)
            if slot in able:
                if helper is not None:
                    self._stand_down(slot, helper)
            elif (
                able
                and not _is_being_born(slot, now_s)
                and not any(one.child is helper for one in able)
            ):
                if helper is not None:
                    self._stand_down(slot, helper)
                # Not all by the first: each next one by its neighbour.
                chosen = able[slot.index % len(able)]
                self._stand_in(slot, chosen)

    def _stand_in(self, slot: Slot, by: Slot) -> None:
        child = by.child
        if child is None:
            return
        said = {"slot": slot.index, "pid": child.pid}
        if self._bus.send(by.index, "stand_in", said, self._sockets(slot.index)):
            self._stands_in[slot.index] = child
            log.write(log.DEBUG, f"{by.title} stands in for {slot.title}")

    def _stand_down(self, slot: Slot, helper: Child) -> None:
        """Said also to one that is stopped: it hears of it when it goes on."""
        for one in self._slots:
            if one.child is helper:
                said = {"slot": slot.index, "pid": helper.pid}
                if not self._bus.send(one.index, "stand_down", said):
                    return  # its inbox is full: at the next look
        del self._stands_in[slot.index]


def _is_being_born(slot: Slot, now_s: float) -> bool:
    """Whether its worker will serve in a moment, as most do: at a start all are so."""
    child = slot.child
    return (
        child is not None
        and not child.ready
        and slot.failures == 0
        and now_s - child.started_s < STILL_S
    )
