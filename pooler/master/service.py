# SPDX-License-Identifier: MIT
"""What systemd is told: ready, reloading, stopping, alive, and a line of status.

Layer: master. Without NOTIFY_SOCKET nothing happens. The watchdog is fed as long as
every worker that serves turns its loop: one that hangs is not hidden by a master that
is well.

Source: sd_notify(3); systemd.service(5), "Type=", "WatchdogSec=".
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, MutableMapping

from pooler import log
from pooler.board.page import Page
from pooler.ipc.board import Board
from pooler.master.children import Slot

# A worker shows once a second that it turns; a busy machine is no hang.
LEAST_SILENCE_S = 5.0
# The line of status follows what it tells by so much, and is sent no more often.
STATUS_S = 2.0


class Notifier:
    """One datagram a message; a manager that does not read costs nothing."""

    def __init__(self, address: str) -> None:
        self._address: str | bytes = address
        if address.startswith("@"):
            self._address = b"\0" + os.fsencode(address[1:])

    def send(self, *fields: str) -> None:
        """Tell ``NAME=value`` pairs in one message."""
        if not self._address:
            return
        with socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        ) as one:
            try:
                one.sendto("\n".join(fields).encode(), self._address)
            except OSError as error:
                log.write(log.DEBUG, f"NOTIFY_SOCKET: {error.strerror}")


class Service:
    """The state of the pooler, as its manager sees it."""

    def __init__(
        self,
        notifier: Notifier,
        watchdog_s: float,
        board: Board,
        page: Page,
        status_s: float,
    ) -> None:
        """``status_s``: how often to look whether the status has changed; 0: never."""
        self._notifier = notifier
        self._board = board
        self._page = page
        self._silence_s = max(watchdog_s, LEAST_SILENCE_S)
        # Half of it, as sd_watchdog_enabled(3) has it.
        self._ping_s = watchdog_s / 2
        self._status_s = status_s
        self._told = ""
        self._ping_at_s: float | None = None
        self._status_at_s: float | None = None
        self._ending = False
        self._hangs = False

    @classmethod
    def from_environment(
        cls, environ: MutableMapping[str, str], board: Board, page: Page
    ) -> Service:
        """As this process was started; the variables go, for children are no service.

        A watchdog is for the process that it names.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        limit_us = environ.pop("WATCHDOG_USEC", "")
        whose = environ.pop("WATCHDOG_PID", "") or str(os.getpid())
        watched = address and limit_us.isdecimal() and whose == str(os.getpid())
        watchdog_s = int(limit_us) / 1e6 if watched else 0.0
        status_s = STATUS_S if address else 0.0
        return cls(Notifier(address), watchdog_s, board, page, status_s)

    @property
    def due_s(self) -> float | None:
        """When ``on_time`` has something to do."""
        times = (self._ping_at_s, self._status_at_s)
        return min((at for at in times if at is not None), default=None)

    def up(self) -> None:
        """All workers serve."""
        self._notifier.send("READY=1", f"MAINPID={os.getpid()}", self._status())
        now_s = time.monotonic()
        self._ping_at_s = now_s + self._ping_s if self._ping_s else None
        self._status_at_s = now_s + self._status_s if self._status_s else None

    def reloading(self) -> None:
        """The files are being read."""
        if not self._ending:
            now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={now_us}")

    def reloaded(self) -> None:
        """What was read runs, or was refused."""
        if not self._ending:
            self._notifier.send("READY=1", self._status())

    def stopping(self, how: str) -> None:
        """The end has begun; it may be waited for."""
        if not self._ending:
            self._ending = True
            self._notifier.send("STOPPING=1", f"STATUS=shutting down: {how}")

    def on_time(self, now_s: float, slots: Iterable[Slot]) -> None:
        """Feed the watchdog and tell the status, when it is time for them."""
        if self._ping_at_s is not None and now_s >= self._ping_at_s:
            self._ping_at_s = now_s + self._ping_s
            self._ping(now_s, slots)
        if self._status_at_s is not None and now_s >= self._status_at_s:
            self._status_at_s = now_s + self._status_s
            told = self._told
            if not self._ending and self._status() != told:
                self._notifier.send(self._told)

    def _ping(self, now_s: float, slots: Iterable[Slot]) -> None:
        silent = [slot.title for slot in slots if self._is_silent(slot, now_s)]
        if not silent:
            self._notifier.send("WATCHDOG=1")
        elif not self._hangs:
            log.write(
                log.ERROR,
                f"{', '.join(silent)}: silent for {self._silence_s:g} s, so the service"
                " manager's watchdog is not fed",
            )
        self._hangs = bool(silent)

    def _is_silent(self, slot: Slot, now_s: float) -> bool:
        if slot.child is None or not slot.child.ready:
            return False  # the master itself sees to births
        beat_s = self._board.get(slot.index, "heartbeat_us") / 1e6
        return now_s - max(beat_s, slot.child.started_s) > self._silence_s

    def _status(self) -> str:
        """The line of now, which is sent by whoever asks for it."""
        clients = self._board.total("clients")
        waiting, servers, idle = self._page.census()
        self._told = (
            f"STATUS={clients} clients ({waiting} wait), {servers} servers"
            f" ({idle} idle), {self._board.slots} workers"
        )
        return self._told
