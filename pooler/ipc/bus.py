# SPDX-License-Identifier: MIT
"""Messages between the processes: one inbox each. Layer: ipc.

An inbox is an AF_UNIX SOCK_SEQPACKET pair made before the first fork: everybody
holds the sending ends of all inboxes, only the owner and the master hold a
receiving end. Because the master keeps both, an inbox survives its worker and
the successor reads on where the dead one stopped.

A message is a JSON object; sockets travel beside it by SCM_RIGHTS.
Bytes inside a payload are hex, made by the caller. Invariants: nothing blocks
(a full inbox makes ``send`` return False); what cannot be understood is dropped
with a log line and its descriptors are closed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pooler import log

# Inboxes that are no worker's come last, so that these index them.
MASTER = -1
CONSOLE = -2
OTHERS = 2

MAX_MESSAGE_BYTES = 64 * 1024
# unix(7) allows 253 (SCM_MAX_FD); a batch of moved connections needs far fewer.
MAX_MESSAGE_FDS = 64
# One flood of broken messages must not keep its reader from its other work.
MAX_DROPS_PER_RECEIVE = 16
SEND_BUFFER_BYTES = 1024 * 1024

_FULL_OR_GONE = frozenset(
    {
        errno.EAGAIN,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.ETOOMANYREFS,
        errno.EPIPE,
        errno.ECONNRESET,
        errno.ECONNREFUSED,
        errno.ENOTCONN,
    }
)
_CUT = socket.MSG_TRUNC | socket.MSG_CTRUNC


@dataclass(frozen=True, slots=True)
class BusMessage:
    """One message as received; the receiver owns ``fds`` and must close them."""

    kind: str
    payload: dict[str, Any]
    fds: tuple[int, ...]
    sender: int

    def close_fds(self) -> None:
        """Close the descriptors of a message that nobody wants."""
        _close_fds(self.fds)


def pack(value: object) -> bytes:
    """JSON of a value; ``json.loads`` reads it.

    Names that clients send need be no text, and their bytes travel as lone surrogates,
    which orjson refuses. TypeError for what is no JSON.
    """
    return json.dumps(value, separators=(",", ":")).encode("ascii")


class Bus:
    """The inboxes of all processes, as one process (``own_slot``) sees them."""

    __slots__ = ("_receivers", "_senders", "own_slot")

    def __init__(
        self,
        own_slot: int,
        senders: Sequence[socket.socket],
        receivers: Sequence[socket.socket | None],
    ) -> None:
        self.own_slot = own_slot
        self._senders = tuple(senders)
        self._receivers = tuple(receivers)

    @classmethod
    def for_slots(cls, slots: int) -> Bus:
        """Make the inboxes of ``slots`` workers and the others, as the master's."""
        pairs = [
            socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            for _ in range(slots + OTHERS)
        ]
        for sender, receiver in pairs:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            sender.setblocking(False)
            receiver.setblocking(False)
        return cls(MASTER, [pair[0] for pair in pairs], [pair[1] for pair in pairs])

    @property
    def slots(self) -> int:
        """The number of worker slots."""
        return len(self._senders) - OTHERS

    def claim(self, slot: int) -> Bus:
        """Return the bus as the worker in ``slot`` sees it; call after the fork.

        Closes the other processes' receiving ends here: they are not ours to read.
        """
        own = self._receiver(slot)
        for receiver in self._receivers:
            if receiver is not None and receiver is not own:
                receiver.close()
        receivers: list[socket.socket | None] = [None] * len(self._receivers)
        receivers[slot] = own
        return Bus(slot, self._senders, receivers)

    def send(
        self,
        slot: int,
        kind: str,
        payload: dict[str, Any],
        fds: Sequence[int] = (),
    ) -> bool:
        """Put a message into the inbox of ``slot`` (MASTER, CONSOLE); never waits.

        False: the inbox is full or its owner is gone; nothing was sent. The caller
        keeps its own copies of ``fds`` either way. Raises ValueError for a message
        above the limits and TypeError for a payload that is no JSON: both are
        mistakes of the caller.
        """
        self._check(slot)
        raw = pack({"kind": kind, "from": self.own_slot, "payload": payload})
        if len(raw) > MAX_MESSAGE_BYTES:
            raise ValueError(f"bus message {kind!r} has {len(raw)} bytes")
        if len(fds) > MAX_MESSAGE_FDS:
            raise ValueError(f"bus message {kind!r} has {len(fds)} descriptors")
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        try:
            if fds:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))
                self._senders[slot].sendmsg([raw], [rights], flags)
            else:
                self._senders[slot].send(raw, flags)
        except OSError as error:
            if error.errno in _FULL_OR_GONE:
                return False
            raise
        return True

    def is_read(self, slot: int) -> bool:
        """Whether somebody holds the receiving end of ``slot``'s inbox."""
        self._check(slot)
        poll = select.poll()
        poll.register(self._senders[slot], 0)
        return not poll.poll(0)  # POLLHUP comes unasked

    def receive(self, slot: int) -> BusMessage | None:
        """Take the next message from the inbox of ``slot``; None when empty."""
        receiver = self._receiver(slot)
        for _ in range(MAX_DROPS_PER_RECEIVE):
            try:
                raw, fds, cut = _receive_raw(receiver)
            except OSError as error:
                if error.errno in _FULL_OR_GONE:
                    return None
                raise
            message = None if cut else _understand(raw, fds, self.slots)
            if message is not None:
                return message
            _close_fds(fds)
            log.write(
                log.WARNING, f"bus: dropped a malformed message of {len(raw)} bytes"
            )
            if not raw:
                # Empty is also what the end of the stream looks like.
                return None
        return None

    def serve(
        self, slot: int, handlers: Mapping[str, Callable[[BusMessage], None]]
    ) -> None:
        """Hand every message in the inbox of ``slot`` to the handler of its kind.

        Descriptors are closed behind it; one that fails is logged and the next served.
        """
        while (message := self.receive(slot)) is not None:
            handler = handlers.get(message.kind)
            try:
                if handler is None:
                    log.write(log.WARNING, f"bus: no such message: {message.kind}")
                else:
                    handler(message)
            except Exception:
                log.write_exception(f"bus message {message.kind} failed")
            finally:
                message.close_fds()

    def fileno(self, slot: int) -> int:
        """Return the descriptor to wait on for ``slot``'s inbox."""
        return self._receiver(slot).fileno()

    def close(self) -> None:
        """Close every end this process holds."""
        for end in (*self._senders, *self._receivers):
            if end is not None:
                end.close()

    def _receiver(self, slot: int) -> socket.socket:
        self._check(slot)
        receiver = self._receivers[slot]
        if receiver is None:
            raise ValueError(f"the inbox of slot {slot} is not ours to read")
        return receiver

    def _check(self, slot: int) -> None:
        if not -OTHERS <= slot < self.slots:
            raise IndexError(f"no slot {slot} on a bus of {self.slots}")


def _receive_raw(receiver: socket.socket) -> tuple[bytes, tuple[int, ...], bool]:
    """Return bytes, descriptors, and whether the kernel had to cut either."""
    # Not socket.recv_fds: Python 3.11's ignores the flags it is given.
    fds = array("i")
    raw, rights, flags, _ = receiver.recvmsg(
        MAX_MESSAGE_BYTES,
        socket.CMSG_SPACE(MAX_MESSAGE_FDS * fds.itemsize),
        socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC,
    )
    for level, kind, data in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return raw, tuple(fds), bool(flags & _CUT)


def _understand(raw: bytes, fds: tuple[int, ...], slots: int) -> BusMessage | None:
    """Return the message, or None when it is no JSON or of another shape."""
    try:
        outer = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    match outer:
        case {"kind": str(kind), "from": int(sender), "payload": dict(payload)} if (
            -OTHERS <= sender < slots
        ):
            return BusMessage(kind, payload, fds, sender)
    return None


def _close_fds(fds: Sequence[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
