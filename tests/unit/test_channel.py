# SPDX-License-Identifier: MIT
"""The two ends of -R, and what may go wrong between them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import pytest

from pooler.ipc.channel import MAX_FDS, Channel, ChannelError, Meeting, meet

US = {os.geteuid()}


@pytest.fixture
def meeting() -> Iterator[Meeting]:
    made = Meeting()
    yield made
    made.close()


@pytest.fixture
def ends(meeting: Meeting) -> Iterator[tuple[Channel, Channel]]:
    guest = meet(meeting.name, US)
    host = meeting.accept(US)
    assert host is not None
    yield host, guest
    host.close()
    guest.close()


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_messages_and_descriptors(ends: tuple[Channel, Channel]) -> None:
    host, guest = ends
    assert host.uid() == guest.uid() == os.geteuid()
    assert host.receive() is None
    started_s = time.monotonic()
    assert host.receive(started_s + 0.05) is None
    assert time.monotonic() >= started_s + 0.04
    read_fd, write_fd = os.pipe()
    guest.send("given", {"more": 1}, [read_fd] * MAX_FDS)
    heard = host.receive(time.monotonic() + 5)
    assert heard is not None
    message, fds = heard
    assert message == {"kind": "given", "more": 1}
    assert len(fds) == MAX_FDS
    assert not any(map(os.get_inheritable, fds))
    os.write(write_fd, b"x")
    assert os.read(fds[-1], 1) == b"x"
    for fd in (*fds, read_fd, write_fd):
        os.close(fd)
    guest.close()
    with pytest.raises(ChannelError, match="has gone"):
        host.receive()
    with pytest.raises(ChannelError):
        host.send("anybody", {})


@pytest.mark.parametrize("raw", [b"{", b"[]", b"7", b"\xff", b"[" * 60_000])
def test_what_cannot_be_understood(raw: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(ours)
    with theirs:
        before = open_fds()
        socket.send_fds(theirs, [raw], [theirs.fileno()])
        with pytest.raises(ChannelError, match="cannot be understood"):
            channel.receive()
        assert open_fds() == before
    channel.close()


def test_only_the_right_user_is_met(meeting: Meeting) -> None:
    stranger = {os.geteuid() + 1}
    with pytest.raises(ChannelError, match="another user"):
        meet(meeting.name, stranger)
    early = meeting.accept(US)  # it had come before it looked
    assert early is not None
    early.close()
    guest = meet(meeting.name, US)
    assert meeting.accept(stranger) is None
    assert meeting.accept(US) is None
    with pytest.raises(ChannelError, match="has gone"):
        guest.receive(time.monotonic() + 5)
    guest.close()


@pytest.mark.parametrize("name", ["nobody", "a" * 200, "\0", "", "\udcff"])
def test_nobody_waits_there(name: str) -> None:
    before = open_fds()
    with pytest.raises(ChannelError, match="nobody waits there"):
        meet(name, US)
    assert open_fds() == before
