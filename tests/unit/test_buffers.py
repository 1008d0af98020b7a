# SPDX-License-Identifier: MIT
"""Queues and outputs: what they take, and that they give their memory back."""

from __future__ import annotations

from types import ModuleType

from hypothesis import given
from hypothesis import strategies as st

MIB = 1 << 20
MOST = 64 * MIB


def test_queue_takes_one_long_message(probe: ModuleType) -> None:
    """On top of what it may hold, but then nothing more."""
    queue = probe.ByteQueue()
    assert queue.add(b"a" * 1000)
    assert queue.add(b"b" * (MOST + MIB))
    assert not queue.add(b"c")
    queue.drop(MIB + 1000)
    assert queue.add(b"c")
    assert queue.content() == b"b" * MOST + b"c"


def test_queue_that_fills_slowly_is_bounded(probe: ModuleType) -> None:
    queue = probe.ByteQueue()
    piece = b"x" * MIB
    count = 0
    while queue.add(piece):
        count += 1
    assert count == MOST // MIB + 1
    assert queue.cap() == MOST + MIB


def test_long_queue_shrinks_while_it_drains(probe: ModuleType) -> None:
    queue = probe.ByteQueue()
    assert queue.add(b"".join(bytes([i]) * MIB for i in range(100)))
    assert queue.cap() == 100 * MIB
    for i in range(99):
        queue.drop(MIB)
        left = 99 - i
        assert queue.cap() <= max(2 * left, 1) * MIB
        assert queue.content()[:: MIB // 2] == bytes(
            k for k in range(i + 1, 100) for _ in range(2)
        )
    queue.drop(MIB)
    assert queue.cap() == 0


def test_short_queue_keeps_its_memory_until_it_is_empty(probe: ModuleType) -> None:
    queue = probe.ByteQueue()
    queue.add(b"x" * MIB)
    queue.drop(MIB - 1)
    assert queue.cap() == MIB
    queue.drop(1)
    assert queue.cap() == 0


@given(st.lists(st.integers(-3 * MIB, 3 * MIB), max_size=12))
def test_queue_is_a_queue(probe: ModuleType, steps: list[int]) -> None:
    """Positive: add so many bytes; negative: drop so many."""
    queue = probe.ByteQueue()
    model = b""
    for count, step in enumerate(steps):
        if step >= 0:
            data = bytes([count]) * step
            assert queue.add(data)
            model += data
        else:
            n = min(-step, len(model))
            queue.drop(n)
            model = model[n:]
        assert queue.content() == model
        assert queue.cap() >= len(model)


def test_output_gives_back_what_it_does_not_need(probe: ModuleType) -> None:
    out = probe.Outlet()
    small, big = b"a" * 100, b"b" * (3 * MIB)
    out.add(small)
    out.add(big)
    assert out.content() == small + big
    assert out.cap() > 3 * MIB
    out.end_turn()
    assert (out.cap(), out.content()) == (0, b"")
    out.add(small)
    out.add(small[::-1] + b"c")
    assert 0 < out.cap() <= MIB
    out.end_turn()
    assert 0 < out.cap() <= MIB


def test_output_is_bounded(probe: ModuleType) -> None:
    out = probe.Outlet()
    assert out.room(1)
    assert not out.room(2048 * MIB)


def test_what_all_queues_have_is_known(probe: ModuleType) -> None:
    before = probe.queues_memory()
    one, two = probe.ByteQueue(), probe.ByteQueue()
    one.add(b"a" * 1000)
    two.add(b"b" * 4 * MIB)
    two.add(b"c")
    assert probe.queues_memory() == before + one.cap() + two.cap()
    two.drop(3 * MIB)  # it has given some back
    assert probe.queues_memory() == before + one.cap() + two.cap()
    two.drop(MIB + 1)
    assert probe.queues_memory() == before + 1000
    del one
    assert probe.queues_memory() == before
