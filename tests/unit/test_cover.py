# SPDX-License-Identifier: MIT
"""Who stands in for whom: a slot whose worker does not serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from pooler.ipc.board import Board
from pooler.ipc.bus import Bus
from pooler.master.children import Child, Slot
from pooler.master.cover import STILL_S, Cover


class Inboxes:
    """A bus that takes everything."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, str, int]] = []

    def send(
        self, slot: int, kind: str, payload: dict[str, Any], fds: Sequence[int] = ()
    ) -> bool:
        self.sent.append((slot, kind, payload["slot"]))
        return True


class Pooler:
    """Two slots; the worker of the first one serves."""

    def __init__(self) -> None:
        self.bus = Inboxes()
        self.board = Board.for_slots(2)
        self.slots = [Slot(n, f"worker {n}") for n in range(2)]
        self.cover = Cover(cast(Bus, self.bus), self.board, self.slots, lambda _: [])
        self.slots[0].child = Child(100, 0.0, None, ready=True)
        self.board.set(0, "serves", 1)

    def look(self, now_s: float) -> list[tuple[int, str, int]]:
        """One look of the master: what is said then."""
        self.bus.sent.clear()
        self.board.add(0, "heartbeat_us", 1)
        self.cover.on_time(now_s, 10.0, cover=True)
        return list(self.bus.sent)


def test_a_slot_without_a_worker_is_covered_until_it_has_one() -> None:
    pooler = Pooler()
    assert pooler.look(1.0) == [(0, "stand_in", 1)]
    assert pooler.look(1.2) == []
    pooler.slots[1].child = Child(101, 1.3, None, ready=True)
    pooler.board.set(1, "serves", 1)
    assert pooler.look(1.4) == [(0, "stand_down", 1)]


@pytest.mark.parametrize("failures", [0, 1])
def test_who_is_being_born_is_waited_for_a_moment(failures: int) -> None:
    """But not where the one before has died at its birth."""
    pooler = Pooler()
    pooler.slots[1].child = Child(101, 1.0, 5)
    pooler.slots[1].failures = failures
    covered = [(0, "stand_in", 1)]
    assert pooler.look(1.1) == (covered if failures else [])
    assert pooler.look(1.0 + STILL_S + 0.1) == ([] if failures else covered)
