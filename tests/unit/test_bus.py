# SPDX-License-Identifier: MIT
"""Inboxes: order, limits, descriptors, hostile bytes, and surviving a worker."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from pooler.ipc.bus import MASTER, MAX_MESSAGE_BYTES, MAX_MESSAGE_FDS, Bus


@pytest.fixture
def bus() -> Iterator[Bus]:
    made = Bus.for_slots(2)
    yield made
    made.close()


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def raw_send(bus: Bus, slot: int, raw: bytes, fds: list[int] | None = None) -> None:
    socket.send_fds(bus._senders[slot], [raw], fds or [])


def test_messages_arrive_whole_and_in_order(bus: Bus) -> None:
    assert bus.send(1, "reload", {"n": 1})
    assert bus.send(1, "pause", {})
    first, second = bus.receive(1), bus.receive(1)
    assert first is not None
    assert second is not None
    assert (first.kind, first.payload, first.fds, first.sender) == (
        "reload",
        {"n": 1},
        (),
        MASTER,
    )
    assert second.kind == "pause"
    assert bus.receive(1) is None
    assert bus.receive(0) is None


def test_every_inbox_is_its_own(bus: Bus) -> None:
    for slot in (0, 1, MASTER):
        assert bus.send(slot, "to", {"slot": slot})
    assert len({bus.fileno(slot) for slot in (0, 1, MASTER)}) == 3
    for slot in (0, 1, MASTER):
        message = bus.receive(slot)
        assert message is not None
        assert message.payload == {"slot": slot}


@pytest.mark.parametrize("slot", [2, -3])
def test_no_such_slot(bus: Bus, slot: int) -> None:
    with pytest.raises(IndexError):
        bus.send(slot, "x", {})
    with pytest.raises(IndexError):
        bus.receive(slot)


def test_full_inbox_returns_false_and_recovers(bus: Bus) -> None:
    sent = 0
    while bus.send(0, "fill", {"n": sent}):
        sent += 1
        assert sent < 1_000_000
    assert sent > 10
    for number in range(sent):
        message = bus.receive(0)
        assert message is not None
        assert message.payload == {"n": number}
    assert bus.send(0, "again", {})


def test_largest_message_fits_and_a_larger_one_is_a_mistake(bus: Bus) -> None:
    overhead = len(b'{"kind":"k","from":-1,"payload":{"x":""}}')
    text = "x" * (MAX_MESSAGE_BYTES - overhead)
    assert bus.send(0, "k", {"x": text})
    message = bus.receive(0)
    assert message is not None
    assert message.payload == {"x": text}
    with pytest.raises(ValueError, match="65537 bytes"):
        bus.send(0, "k", {"x": text + "x"})


def test_a_socket_travels(bus: Bus) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert bus.send(0, "client", {"id": 5}, [theirs.fileno()])
        message = bus.receive(0)
        assert message is not None
        [fd] = message.fds
        assert not os.get_inheritable(fd)
        with socket.socket(fileno=fd) as moved:
            moved.sendall(b"hello")
            assert ours.recv(5) == b"hello"


def test_too_many_descriptors_is_a_mistake(bus: Bus) -> None:
    with pytest.raises(ValueError, match="descriptors"):
        bus.send(0, "x", {}, [0] * (MAX_MESSAGE_FDS + 1))


def test_unwanted_descriptors_can_be_closed(bus: Bus) -> None:
    before = open_fds()
    assert bus.send(0, "x", {}, [0, 1])
    message = bus.receive(0)
    assert message is not None
    assert open_fds() == before + 2
    message.close_fds()
    assert open_fds() == before


@pytest.mark.parametrize(
    "raw",
    [
        b"not json",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"kind":1,"from":0,"payload":{}}',
        b'{"kind":"x","from":0,"payload":[]}',
        b'{"kind":"x","from":9,"payload":{}}',
        b'{"kind":"x","from":"0","payload":{}}',
        b'{"kind":"x","from":0}',
        b'{"kind":"' + b"x" * MAX_MESSAGE_BYTES + b'","from":0,"payload":{}}',
        b"[" * 10_000,
    ],
)
def test_malformed_is_dropped_with_its_descriptors(bus: Bus, raw: bytes) -> None:
    before = open_fds()
    raw_send(bus, 0, raw, [0, 1])
    assert bus.send(0, "good", {})
    message = bus.receive(0)
    assert message is not None
    assert message.kind == "good"
    assert open_fds() == before


def test_more_descriptors_than_taken_leak_nothing(bus: Bus) -> None:
    before = open_fds()
    raw_send(bus, 0, b'{"kind":"x","from":0,"payload":{}}', [0] * 200)
    assert bus.receive(0) is None
    assert open_fds() == before


def test_a_flood_of_malformed_messages_ends(bus: Bus) -> None:
    for _ in range(20):
        raw_send(bus, 0, b"?")
    bus.send(0, "good", {})
    assert bus.receive(0) is None
    message = bus.receive(0)
    assert message is not None


def test_payload_must_be_json(bus: Bus) -> None:
    with pytest.raises(TypeError):
        bus.send(0, "x", {"raw": b"bytes"})


def test_inbox_survives_its_worker(bus: Bus) -> None:
    def worker(expected: str) -> int:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                own = bus.claim(0)
                message = own.receive(0)
                assert message is not None
                assert message.kind == expected
                assert own.send(MASTER, "seen", {"kind": expected})
                assert own.send(1, "sideways", {})
                try:
                    own.receive(1)
                except ValueError:
                    code = 0
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    bus.send(0, "first", {})
    bus.send(0, "second", {})
    for expected in ("first", "second"):
        assert worker(expected) == 0
        message = bus.receive(MASTER)
        assert message is not None
        assert (message.sender, message.payload) == (0, {"kind": expected})
    assert bus.receive(1) is not None
