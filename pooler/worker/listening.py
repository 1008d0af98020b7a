# SPDX-License-Identifier: MIT
"""The sockets on which a worker takes new clients. Worker layer, cold.

Its own, the shared Unix socket, its door, and those of a slot whose worker does not
serve just now, for which the master has asked it to stand in (``master/cover``).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

from pooler import log
from pooler.config.settings import Settings
from pooler.config.tcp import SocketOption, tcp_options
from pooler.io.engine import Engine
from pooler.ipc.bus import MASTER, BusMessage
from pooler.ipc.worker_start import WorkerStart

COLUMNS = {
    "connections": "connections",
    "coming": "coming",
    "serves": "serves",
    "heartbeats_us": "heartbeat_us",
}


# What a client that has said nothing is kept outside for, at most (tcp(7)).
DEFER_S = 45

# What a reload may leave to the kernel again; buffers that were set once may not be.
ALONE = (
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
)


def options(settings: Settings, own: socket.socket) -> Iterator[SocketOption]:
    """Yield level, option and value, of all that accepted sockets inherit.

    ``own``: a socket that nobody has changed.
    """
    wanted = tcp_options(settings)
    yield from wanted
    for level, option in ALONE:
        if (level, option) not in {one[:2] for one in wanted}:
            yield level, option, own.getsockopt(level, option)
    defer_s = DEFER_S if settings.tcp_defer_accept else 0
    yield socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, defer_s


def tune(listener: socket.socket, settings: Settings) -> None:
    """Set what accepted sockets inherit: it costs no system call per client."""
    if listener.family == socket.AF_UNIX:
        return
    with socket.socket(listener.family, socket.SOCK_STREAM) as own:
        for level, option, value in options(settings, own):
            try:
                listener.setsockopt(level, option, value)
            except OSError as error:
                log.write(
                    log.WARNING,
                    f"socket option {option} of clients cannot be {value}:"
                    f" {error.strerror}",
                )


class Listening:
    """Where the clients of one worker come from."""

    def __init__(self, engine: Engine, start: WorkerStart) -> None:
        self._engine = engine
        self._start = start
        self._handles: list[int] = []
        self._stopped = False
        self._door_is_open = False  # though we take nobody else
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

    def take_none(self) -> None:
        """Take nobody but whom other workers have passed on already.

        Nothing of the sockets is kept: they are another's to close.
        """
        door = self._handles.pop() if self._start.doors is not None else None
        self.stop()
        if door is not None:
            self._handles.append(door)
            self._door_is_open = True
        for listener in (self._start.unix_listener, *self._start.shared_listeners):
            if listener is not None:
                listener.close()

    def is_awaited(self) -> bool:
        """Whether somebody is on the way to us, with nobody else to go to."""
        board, slot = self._start.board, self._start.slot
        return self._door_is_open and board.get(slot, "coming") != 0

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
