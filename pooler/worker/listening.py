# SPDX-License-Identifier: MIT
"""The sockets on which a worker takes new clients. Worker layer, cold.

Its own, the shared Unix socket, its door, and those of a slot whose worker does not
serve just now, for which the master has asked it to stand in (``master/cover``).
"""

from __future__ import annotations

import os
import socket

from pooler.config.settings import Settings
from pooler.io.engine import Engine
from pooler.ipc.bus import MASTER, BusMessage
from pooler.ipc.worker_start import WorkerStart

COLUMNS = {
    "connections": "connections",
    "coming": "coming",
    "serves": "serves",
    "heartbeats_us": "heartbeat_us",
}


def tune(listener: socket.socket, settings: Settings) -> None:
    """Set what accepted sockets inherit: it costs no system call per client."""
    if listener.family == socket.AF_UNIX:
        return
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, settings.tcp_keepalive)


class Listening:
    """Where the clients of one worker come from."""

    def __init__(self, engine: Engine, start: WorkerStart) -> None:
        self._engine = engine
        self._start = start
        self._handles: list[int] = []
        self._stopped = False
        # By the slot whose sockets they are.
        self._for_others: dict[int, list[int]] = {}

    def begin(self) -> None:
        """Take clients from now on."""
        start = self._start
        self.configure(start.config.settings)
        for listener in start.tcp_listeners:
            self._handles.append(self._add(listener.fileno(), shared=False))
        for listener in start.shared_listeners:
            self._handles.append(self._add(listener.fileno(), shared=True))
        if start.unix_listener is not None:
            self._handles.append(self._add(start.unix_listener.fileno(), shared=True))
        if start.doors is not None:
            door = os.dup(start.doors.inner(start.slot))
            self._handles.append(self._engine.add_door(door, start.slot))
        start.board.set(start.slot, "serves", 1)

    def configure(self, settings: Settings) -> None:
        """Follow the settings that now count."""
        if self._stopped:
            return
        start = self._start
        for listener in (*start.tcp_listeners, *start.shared_listeners):
            tune(listener, settings)
        if start.doors is not None:
            self._engine.spread_configure(
                on=settings.spread_clients and start.workers > 1,
                slot=start.slot,
                doors=start.doors.outer(),
                **{key: start.board.column(name) for key, name in COLUMNS.items()},
            )

    def stop(self) -> None:
        """Take no new clients; the master finds somebody for those who still come."""
        if self._stopped:
            return
        self._stopped = True
        self._start.board.set(self._start.slot, "serves", 0)
        for handles in (self._handles, *self._for_others.values()):
            self._close(handles)
        for listener in self._start.tcp_listeners:
            listener.close()
        self._for_others.clear()
        self._start.bus.send(MASTER, "leaving", {})

    def only_refuse(self) -> None:
        """Go on at the Unix socket alone: who comes there is told that we end."""
        self.stop()
        if self._handles:
            return
        for listener in (self._start.unix_listener, *self._start.shared_listeners):
            if listener is not None and listener.family == socket.AF_UNIX:
                self._handles.append(self._add(listener.fileno(), shared=True))

    def stand_in(self, message: BusMessage) -> None:
        """Take the clients of a slot whose worker does not; its door comes last."""
        if not self._is_meant(message):
            return
        slot = int(message.payload["slot"])
        *listeners, door = message.fds
        self._close(self._for_others.pop(slot, []))
        handles = [self._add(fd, shared=True) for fd in listeners]
        handles.append(self._engine.add_door(os.dup(door), slot))
        self._for_others[slot] = handles

    def stand_down(self, message: BusMessage) -> None:
        """Leave the clients of a slot to its own worker again."""
        if self._is_meant(message):
            self._close(self._for_others.pop(int(message.payload["slot"]), []))

    def _is_meant(self, message: BusMessage) -> bool:
        """Whether it is not a message to one who died before it was read."""
        return not self._stopped and message.payload.get("pid") == os.getpid()

    def _add(self, fd: int, *, shared: bool) -> int:
        return self._engine.add_listener(os.dup(fd), shared)

    def _close(self, handles: list[int]) -> None:
        for handle in handles:
            self._engine.close_listener(handle)
        handles.clear()
