# SPDX-License-Identifier: MIT
"""The wheel against a model that looks at every deadline."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

pytestmark = pytest.mark.usefixtures("probe")

TICK_US = 1 << 14
TIMERS = 5
WHO = st.integers(0, TIMERS - 1)
KIND = st.integers(0, 1)
MONTH_US = 30 * 86_400_000_000
# Around the ends of a tick and of each level, and up to beyond the last.
LIMITS = st.one_of(
    st.integers(1, 40 * TICK_US),
    st.integers(0, 5).flatmap(
        lambda level: st.integers(-2, 2).map(
            lambda n: max(1, TICK_US * 64**level + n * TICK_US // 2)
        )
    ),
    st.integers(1, MONTH_US),
)


class DeadlineMachine(RuleBasedStateMachine):
    wheel: Any = None

    @initialize(now_us=st.integers(0, MONTH_US))
    def begin(self, now_us: int) -> None:
        from tests.ext import _probe

        self.wheel = _probe.Deadlines(TIMERS)
        self.now_us = now_us
        self.wheel.set_now(now_us)
        self.due: dict[tuple[int, int], int] = {}

    @rule(i=WHO, kind=KIND, limit_us=LIMITS)
    def start(self, i: int, kind: int, limit_us: int) -> None:
        self.wheel.start(i, kind, limit_us)
        self.due[i, kind] = self.now_us + limit_us

    @rule(i=WHO, kind=KIND)
    def start_without_a_limit(self, i: int, kind: int) -> None:
        self.wheel.start(i, kind, 0)
        self.due.pop((i, kind), None)

    @rule(i=WHO, kind=KIND)
    def stop(self, i: int, kind: int) -> None:
        self.wheel.stop(i, kind)
        self.due.pop((i, kind), None)

    @rule(i=WHO)
    def end(self, i: int) -> None:
        self.wheel.end(i)
        self.due = {key: at for key, at in self.due.items() if key[0] != i}

    @rule(passed_us=st.integers(1, 300 * TICK_US))
    def time_passes(self, passed_us: int) -> None:
        """Everything that is due by then comes, if it is looked at whenever told."""
        until_us = self.now_us + passed_us
        while True:
            wake_us = self.wheel.wake_us()
            assert (wake_us is None) <= (not self.due), "a deadline nobody waits for"
            if wake_us is None or wake_us > until_us:
                break
            self.look(max(wake_us, self.now_us))
        self.look(until_us)

    @rule(passed_us=LIMITS)
    def nobody_looks_for_a_while(self, passed_us: int) -> None:
        self.look(self.now_us + passed_us)

    def look(self, now_us: int) -> None:
        self.now_us = now_us
        self.wheel.set_now(now_us)
        for key in self.wheel.pop():
            assert self.due.pop(key) <= now_us, "too early, or not running"
        late = [key for key, at_us in self.due.items() if at_us + TICK_US < now_us]
        assert not late, "more than a tick late"

    def teardown(self) -> None:
        if self.wheel is not None:
            for i in range(TIMERS):
                self.wheel.end(i)
            assert self.wheel.count == 0


TestDeadlines = DeadlineMachine.TestCase
TestDeadlines.settings = settings(
    max_examples=60, stateful_step_count=30, report_multiple_bugs=False
)


def test_a_timer_that_is_often_started_stays_where_it_is(probe: Any) -> None:
    """A transaction with a time limit costs two stores, and no change of the wheel."""
    wheel = probe.Deadlines(1)
    for turn in range(1000):
        wheel.set_now(turn * 10)
        wheel.start(0, 0, 5_000_000)
        wheel.stop(0, 0)
    assert wheel.count == 1
    wheel.set_now(6_000_000)
    assert wheel.pop() == []
    assert wheel.count == 0
