# SPDX-License-Identifier: MIT
"""A door per worker slot: fresh client sockets come in by it. Layer: ipc.

A pair of Unix sockets made before the first fork. Everybody may put a socket into a
door (``io/spread``); who serves the slot takes it out. The master keeps both ends, so
what is in the door of a worker that died waits for its successor, or for the worker
that stands in for it, like the backlog of a listening socket.
"""

from __future__ import annotations

import socket


class Doors:
    """The doors of all slots, as one process sees them."""

    __slots__ = ("_inner", "_outer")

    def __init__(
        self, outer: list[socket.socket], inner: list[socket.socket | None]
    ) -> None:
        self._outer = outer
        self._inner = inner

    @classmethod
    def for_slots(cls, slots: int) -> Doors:
        """Make the doors of ``slots`` workers, as the master's."""
        pairs = [
            socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            for _ in range(slots)
        ]
        for end in (end for pair in pairs for end in pair):
            end.setblocking(False)
        return cls([pair[0] for pair in pairs], [pair[1] for pair in pairs])

    def claim(self, slot: int) -> None:
        """Close the inner ends of all others; for the worker in ``slot``."""
        for other, end in enumerate(self._inner):
            if end is not None and other != slot:
                end.close()
                self._inner[other] = None

    def outer(self) -> list[int]:
        """Return the descriptors to put sockets into, one a slot."""
        return [end.fileno() for end in self._outer]

    def inner(self, slot: int) -> int:
        """Return the descriptor from which the sockets of ``slot`` are taken."""
        end = self._inner[slot]
        if end is None:
            raise ValueError(f"the door of slot {slot} is not ours to open")
        return end.fileno()

    def close(self) -> None:
        """Close every end this process holds."""
        for end in (*self._outer, *self._inner):
            if end is not None:
                end.close()
