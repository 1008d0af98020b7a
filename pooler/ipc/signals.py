# SPDX-License-Identifier: MIT
"""Signals as bytes in a pipe, for the loop of a process to read. Layer: ipc.

A handler runs between any two steps of Python, so ours do nothing: the byte that
Python writes for each signal is the queue. asyncio's own handlers will not do: its
loop closes their pipe before it lets go of the signals, and then gives SIGINT back to
Python and the others back to the kernel, while an end is often asked for twice.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from typing import NoReturn

# What asks a process to end, more or less politely.
ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class SignalPipe:
    """The signals that a process has taken over; one per process, main thread only."""

    __slots__ = ("_read_fd", "_signals", "_write_fd")

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._signals: frozenset[signal.Signals] = frozenset()

    def fileno(self) -> int:
        """The descriptor that is readable when signals wait."""
        return self._read_fd

    def take_over(self, signals: Iterable[signal.Signals]) -> None:
        """From here on these signals wait for ``pending``; more may be added later."""
        signals = frozenset(signals)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for signum in signals:
            # Python writes to the wake-up descriptor only for handled signals.
            signal.signal(signum, _no_op)
            # Not every library expects its system calls to be interrupted.
            signal.siginterrupt(signum, False)
        self._signals |= signals

    def pending(self) -> list[signal.Signals]:
        """Take the signals that have arrived.

        Those of children come last, because the kernel tells them first: whether a
        death was asked for must be known when it is looked at.
        """
        try:
            raw = os.read(self._read_fd, 4096)
        except BlockingIOError:
            return []
        arrived = [signal.Signals(number) for number in raw]
        return sorted(arrived, key=lambda signum: signum is signal.SIGCHLD)

    def ignore(self) -> None:
        """The process is about to end: nothing disturbs it any more.

        The pipe stays open, because another thread may be about to write to it.
        """
        for signum in self._signals:
            signal.signal(signum, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)

    def leave_to_parent(self) -> None:
        """In a fork: the pipe is not ours, and the signals do what they always do."""
        signal.set_wakeup_fd(-1)
        for signum in self._signals:
            signal.signal(signum, signal.SIG_DFL)
        for fd in (self._read_fd, self._write_fd):
            with contextlib.suppress(OSError):
                os.close(fd)


def leave_at_once(signum: int, frame: object) -> NoReturn:
    """A handler for a process that has not begun: there is nothing to end."""
    os._exit(0)


def _no_op(signum: int, frame: object) -> None:
    """Do nothing: the byte in the pipe is what counts."""
