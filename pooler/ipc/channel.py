# SPDX-License-Identifier: MIT
"""Messages between two poolers, the old and the new one of ``-R``. Layer: ipc.

A SOCK_SEQPACKET connection of Unix sockets; a message is a JSON object, descriptors
travel beside it. Who is at the other end is known by its user. Nothing blocks but
``receive`` with a time limit.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import time
from array import array
from collections.abc import Collection, Sequence
from typing import Any

MAX_MESSAGE_BYTES = 64 * 1024
MAX_FDS = 64
_PEER = struct.Struct("=iII")  # pid, uid, gid: unix(7), SO_PEERCRED


class ChannelError(Exception):
    """The other end has gone, or says what cannot be understood."""


class Channel:
    """One end."""

    def __init__(self, own: socket.socket) -> None:
        own.setblocking(False)
        self._socket = own

    def fileno(self) -> int:
        """What to wait on."""
        return self._socket.fileno()

    def uid(self) -> int:
        """As whose process the other end was made."""
        raw = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        _, uid, _ = _PEER.unpack(raw)
        return int(uid)

    def send(self, kind: str, payload: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Tell one thing; ChannelError if that cannot be."""
        raw = json.dumps({"kind": kind, **payload}).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))]
        try:
            self._socket.sendmsg([raw], rights if fds else [], socket.MSG_NOSIGNAL)
        except OSError as error:
            raise ChannelError(error.strerror or str(error)) from None

    def receive(
        self, until_s: float | None = None
    ) -> tuple[dict[str, Any], list[int]] | None:
        """The next message and its descriptors, which are the caller's.

        None: nothing has come, up to the time ``until_s`` of the monotonic clock.
        ChannelError.
        """
        if until_s is not None:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            poll.poll(max(0, int((until_s - time.monotonic()) * 1000)))
        numbers = array("i")
        try:
            raw, rights, flags, _ = self._socket.recvmsg(
                MAX_MESSAGE_BYTES,
                socket.CMSG_SPACE(MAX_FDS * numbers.itemsize),
                socket.MSG_CMSG_CLOEXEC,
            )
        except BlockingIOError:
            return None
        except OSError as error:
            raise ChannelError(error.strerror or str(error)) from None
        for level, kind, data in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
        fds = list(numbers)
        if not raw:
            raise ChannelError("the other process has gone")
        with contextlib.suppress(ValueError, RecursionError):
            message = json.loads(raw)
            cut = flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
            if isinstance(message, dict) and not cut:
                return message, fds
        close_all(fds)
        raise ChannelError("a message cannot be understood")

    def close(self) -> None:
        """Close this process's copy; idempotent."""
        self._socket.close()


class Meeting:
    """Where the new pooler waits for the old one: a name that nobody can guess."""

    def __init__(self) -> None:
        self.name = f"pooler-takeover-{os.urandom(16).hex()}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(b"\0" + self.name.encode())
        self._socket.listen(1)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """What to wait on."""
        return self._socket.fileno()

    def accept(self, uids: Collection[int]) -> Channel | None:
        """Whoever has come, if it is a process of one of these users."""
        try:
            taken, _ = self._socket.accept()
        except OSError:
            return None
        channel = Channel(taken)
        if channel.uid() in uids:
            return channel
        channel.close()
        return None

    def close(self) -> None:
        """Nobody is waited for any more."""
        self._socket.close()


def meet(name: str, uids: Collection[int]) -> Channel:
    """Go where another pooler waits; ChannelError, also if it is another user's."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(made)
    try:
        made.connect(b"\0" + name.encode())
        if channel.uid() not in uids:
            raise ChannelError("a process of another user waits there")
    except (OSError, ValueError) as error:
        channel.close()
        raise ChannelError(f"nobody waits there: {error}") from None
    except ChannelError:
        channel.close()
        raise
    return channel


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
