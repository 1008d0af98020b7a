# SPDX-License-Identifier: MIT
"""``-R`` as the running pooler sees it: another one takes its place. Layer: master.

The new pooler says TAKEOVER on the console, with the name of the place where it waits.
The master goes there and gives it the listening sockets, which from then on both have:
whoever connects is in the backlog of either, and never refused. Nothing else changes
until the new one says that all its workers serve ("up"). If it goes before, nothing has
happened. Then workers take nobody any more, and when all of them have said so, they
leave behind their clients as at SIGTERM. In the same way ends a pooler whose sockets
are a service manager's: who comes meanwhile waits for the next start.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from pooler import log
from pooler.config.model import Config
from pooler.ipc.bus import Bus, BusMessage
from pooler.ipc.channel import MAX_FDS, Channel, ChannelError, close_all, meet
from pooler.master.cancel_relay import CancelRelay
from pooler.master.children import Slot
from pooler.master.listeners import Listeners

# A worker answers between two turns of its loop.
ANSWER_S = 5.0


class Ruler(Protocol):
    """What the master is asked for."""

    @property
    def config(self) -> Config:
        """What runs now."""

    @property
    def is_ending(self) -> bool:
        """Whether the end has begun."""

    @property
    def listeners(self) -> Listeners:
        """The listening sockets."""

    def abdicate(self) -> None:
        """Another pooler serves: the end begins, and sockets and files are its own."""


class Succession:
    """The pooler that wants to take our place, if there is one."""

    def __init__(
        self, ruler: Ruler, bus: Bus, slots: Iterable[Slot], cancels: CancelRelay
    ) -> None:
        self._ruler = ruler
        self._bus = bus
        self._slots = slots
        self._cancels = cancels
        self._heir: Channel | None = None
        self._is_over = False
        # Slots of workers that may still take clients; None: they all may.
        self._taking: set[int] | None = None
        self._until_s = 0.0
        self._signum = signal.SIGTERM
        self.messages: Mapping[str, Callable[[BusMessage], None]] = {
            "takeover": self._asked,
            "takes_none": lambda message: self.gone(message.sender),
        }

    def fileno(self) -> int | None:
        """What to wait on."""
        return None if self._heir is None else self._heir.fileno()

    @property
    def due_s(self) -> float | None:
        """When ``on_time`` has something to do."""
        return None if self._taking is None else self._until_s

    def _asked(self, message: BusMessage) -> None:
        """TAKEOVER: give the sockets away, to a process of our own user only."""
        log.write(log.LOG, "TAKEOVER command issued")
        problem = self._refusal()
        if not problem:
            try:
                self._heir = meet(
                    str(message.payload.get("name", "")), {0, os.geteuid()}
                )
                self._give(self._heir)
            except ChannelError as error:
                problem = str(error)
                self.leave()
        answer = {"number": message.payload.get("number"), "problem": problem}
        self._bus.send(message.sender, "done", answer)

    def _refusal(self) -> str:
        state = self._ruler.config.state
        if self._ruler.is_ending:
            return "pooler is shutting down"
        if state.paused or state.suspended or state.paused_databases:
            # Who is let in by us would wait for a RESUME that nobody can say.
            return "cannot be taken over while paused"
        if self._heir is not None:
            return "another process is taking over already"
        if not self._ruler.listeners.is_own:
            return "the sockets are the service manager's: restart the service instead"
        return ""

    def _give(self, heir: Channel) -> None:
        listeners = self._ruler.listeners
        given = _unique([one for slot in listeners.tcp for one in slot])
        if listeners.unix is not None:
            given.append(listeners.unix.listener)
        for first in range(0, len(given), MAX_FDS):
            part = given[first : first + MAX_FDS]
            heir.send("sockets", {}, [one.fileno() for one in part])
        heir.send("all", {"pid": os.getpid()})

    def on_ready(self) -> None:
        """The new pooler has said something, or has gone."""
        if self._heir is None:
            return
        try:
            while (heard := self._heir.receive()) is not None:
                close_all(heard[1])
                if heard[0]["kind"] == "up" and not self._ruler.is_ending:
                    self._is_taken_over(heard[0].get("pid"))
                elif heard[0]["kind"] == "cancel":
                    self._cancels.from_heir(self._heir, heard[0])
        except ChannelError as error:
            if not self._is_over:
                log.write(log.WARNING, f"no takeover: {error}; going on as before")
            self.leave()

    def _is_taken_over(self, pid: object) -> None:
        self._is_over = True
        log.write(
            log.LOG,
            f"process {pid} has taken over, waiting for all clients disconnect",
        )
        self._ruler.abdicate()
        self.step_down(signal.SIGTERM, end_consoles=True)

    def step_down(self, signum: signal.Signals, *, end_consoles: bool = False) -> None:
        """End without a loss: somebody else takes, now or later, who comes from now on.

        Workers leave by ``signum`` when none of them takes clients any more. Sessions
        of the console may end at once: who looks after poolers is to look at the other.
        """
        told = {"end_consoles": end_consoles}
        self._signum = signum
        self._until_s = time.monotonic() + ANSWER_S
        self._taking = {
            slot.index
            for slot in self._slots
            if slot.child is not None and self._bus.send(slot.index, "take_none", told)
        }
        self._go_on()

    def gone(self, index: int) -> None:
        """A worker takes no clients any more, or has died."""
        if self._taking is not None:
            self._taking.discard(index)
            self._go_on()

    def on_time(self, now_s: float) -> None:
        """Wait no longer for a worker that does not answer."""
        if self._taking is not None and now_s >= self._until_s:
            self._taking.clear()
            self._go_on()

    def _go_on(self) -> None:
        """When nobody takes clients, nobody passes one on: each may leave."""
        if self._taking:
            return
        self._taking = None
        for slot in self._slots:
            if slot.child is not None:
                os.kill(slot.child.pid, self._signum)

    def leave(self) -> None:
        """Close this process's copy of the connection."""
        if self._heir is not None:
            self._heir.close()
            self._heir = None


def _unique(sockets: Iterable[socket.socket]) -> list[socket.socket]:
    """Each socket once: a slot may have a duplicate of another's."""
    return list({os.fstat(one.fileno()).st_ino: one for one in sockets}.values())
