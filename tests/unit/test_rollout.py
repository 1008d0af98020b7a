# SPDX-License-Identifier: MIT
"""A configuration reaches every child whole, and its sender hears when all run it."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pooler.config import loading, travel
from pooler.config.model import Config
from pooler.ipc.bus import Bus
from pooler.master.children import Child, Slot
from pooler.master.rollout import ANSWER_S, Rollouts


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """One that has something in every field."""
    hba, ident = tmp_path / "hba", tmp_path / "ident"
    hba.write_text(
        "host all /^a.*b$ 10.0.0.0/8 scram-sha-256\nlocal all all peer map=m"
    )
    ident.write_text(r"m /^(.*)@x$ \1")
    users = tmp_path / "users"
    users.write_text('"u" "secret"')
    return loading.load_text(
        "[databases]\na = host=h pool_size=3\n* =\n[users]\nu = pool_size=2\n"
        "[peers]\n1 = host=h\n[pgbouncer]\nauth_type = hba\n"
        f"auth_hba_file = {hba}\nauth_ident_file = {ident}\nauth_file = {users}\n",
        "pooler.ini",
    )


def test_what_is_unpacked_is_what_was_packed(config: Config) -> None:
    fd = travel.pack(config)
    try:
        assert travel.unpack(fd) == config
        assert travel.unpack(fd).origins == config.origins  # and a second reader
        with pytest.raises(PermissionError):
            os.write(fd, b"x")
    finally:
        os.close(fd)


def test_anything_else_is_no_configuration() -> None:
    fd = os.memfd_create("x")
    try:
        os.write(fd, pickle.dumps({"settings": 1}))
        with pytest.raises(TypeError, match="dict"):
            travel.unpack(fd)
    finally:
        os.close(fd)


@pytest.fixture
def bus() -> Iterator[Bus]:
    made = Bus.for_slots(3)
    yield made
    made.close()


def test_done_when_all_have_answered_or_are_gone(bus: Bus, config: Config) -> None:
    slots = [Slot(index, f"worker {index}", Child(1, 0.0, None)) for index in range(2)]
    slots.append(Slot(2, "worker 2"))  # between a death and the next birth
    told: list[str] = []
    rollouts = Rollouts(bus)
    rollouts.send(config, 0, slots, lambda: told.append("first"))
    rollouts.send(config, 0, slots, lambda: told.append("second"))
    rollouts.answered(0, 1)
    rollouts.answered(0, 1)
    rollouts.answered(1, "what?")
    rollouts.answered(1, 99)
    assert told == []
    rollouts.answered(1, 1)
    assert told == ["first"]
    rollouts.answered(1, 2)
    rollouts.gone(0)
    assert told == ["first", "second"]
    assert rollouts.due_s is None
    for slot in slots:
        message = bus.receive(slot.index)
        assert message is not None
        assert travel.unpack(message.fds[0]) == config
        message.close_fds()


def test_nobody_is_waited_for_for_ever(bus: Bus, config: Config) -> None:
    told: list[str] = []
    rollouts = Rollouts(bus)
    child = Slot(0, "worker 0", Child(1, 0.0, None))
    rollouts.send(config, 0, [child], lambda: told.append("done"))
    rollouts.on_time(time.monotonic())
    assert told == []
    assert rollouts.due_s is not None
    rollouts.on_time(time.monotonic() + ANSWER_S)
    assert told == ["done"]


def test_without_children_it_is_done_at_once(bus: Bus, config: Config) -> None:
    told: list[str] = []
    Rollouts(bus).send(config, 0, [], lambda: told.append("done"))
    assert told == ["done"]
