# SPDX-License-Identifier: MIT
"""``-R`` as the new pooler sees it: it takes a running one's place. Layer: master.

What was asked for, and of whom, is in ``succession``. Up to ``enter`` the sockets are
shared, and the Unix socket's file and the pid file are the old pooler's.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable, Collection
from pathlib import Path

from pooler import log
from pooler.config.settings import Settings
from pooler.errors import ConfigError
from pooler.ipc.channel import Channel, ChannelError, Meeting
from pooler.master.listeners import Address, UnixSocket
from pooler.master.pidfile import PidFile

# From the first word to the last socket. The old pooler answers at once.
ANSWER_S = 10.0
REFUSAL_BYTES = 4096


class Inheritance:
    """The listening sockets of a running pooler, and the way to it."""

    def __init__(self, elder: Channel, path: Path | None) -> None:
        """``path``: of the Unix socket; None: it is in the abstract namespace."""
        self.elder = elder
        self._path = path
        self._tcp: dict[Address, list[socket.socket]] = {}
        self._unix: socket.socket | None = None
        self._pidfile: PidFile | None = None
        self.pid = 0  # of the old pooler

    def receive(self, until_s: float) -> None:
        """Take all sockets; ChannelError."""
        while True:
            heard = self.elder.receive(until_s)
            if heard is None:
                raise ChannelError("the running process gives no sockets")
            message, fds = heard
            for fd in fds:
                self._take(socket.socket(fileno=fd))
            if message["kind"] == "all":
                self.pid = int(message["pid"])
                return

    def _take(self, taken: socket.socket) -> None:
        taken.setblocking(False)
        if taken.family == socket.AF_UNIX:
            self._unix = taken
        else:
            address = Address(taken.family, taken.getsockname())
            self._tcp.setdefault(address, []).append(taken)

    def tcp(self, address: Address, workers: int) -> list[list[socket.socket]] | None:
        """The sockets of an address, for each worker; None: the old one has none.

        Every socket is somebody's, for the kernel gives each its share of the clients.
        """
        group = self._tcp.pop(address, None)
        if group is None:
            return None
        rows = [group[slot::workers] for slot in range(workers)]
        return [
            row or [group[slot % len(group)].dup()] for slot, row in enumerate(rows)
        ]

    def unix(self) -> UnixSocket | None:
        """The Unix socket; its file is not ours yet."""
        return None if self._unix is None else UnixSocket(self._unix, None, None)

    def pidfile(self, path: str) -> PidFile:
        """The pid file, which is the old pooler's up to ``enter``."""
        self._pidfile = PidFile(Path(path))
        return self._pidfile

    def enter(self) -> UnixSocket | None:
        """All workers serve: the old pooler may go. The Unix socket, now ours.

        ConfigError: the pid file cannot be written, so the old one stays.
        """
        if self._pidfile is not None:
            self._pidfile.replace()
        try:
            self.elder.send("up", {"pid": os.getpid()})
        except ChannelError as error:
            log.write(log.WARNING, f"process {self.pid}: {error}")
        self._close_unwanted()
        if self._unix is None or self._path is None:
            return self.unix()
        try:
            status = self._path.lstat()
        except OSError:
            return self.unix()
        return UnixSocket(self._unix, self._path, (status.st_dev, status.st_ino))

    def _close_unwanted(self) -> None:
        """Addresses that are not listened on any more end with the old pooler."""
        for one in (one for group in self._tcp.values() for one in group):
            one.close()
        self._tcp.clear()

    def leave(self) -> None:
        """In a child, which has no part in this."""
        self._close_unwanted()
        self.elder.close()


def inherit(
    settings: Settings, uids: Collection[int], ask: Callable[[str], int]
) -> Inheritance | None:
    """Take the sockets of the pooler that runs with these settings.

    None: there is none. ConfigError: there is one, and it does not give them; it has
    lost nothing then. ``ask``: says a command on its console, beside this process; what
    was wrong, or nothing, comes out of the descriptor. ``uids``: as which the old one
    may run.
    """
    name = _console_of(settings)
    if not _is_served(name):
        return None
    meeting = Meeting()
    try:
        return _meet(meeting, name, uids, ask)
    except ChannelError as error:
        raise ConfigError(f"cannot take over: {error}", setting="-R") from None
    finally:
        meeting.close()


def _meet(
    meeting: Meeting,
    name: str,
    uids: Collection[int],
    ask: Callable[[str], int],
) -> Inheritance:
    until_s = time.monotonic() + ANSWER_S
    with open(ask(f'TAKEOVER "{meeting.name}"'), "rb", buffering=0) as answer:
        poll = select.poll()
        poll.register(meeting, select.POLLIN)
        poll.register(answer, select.POLLIN)
        while (elder := meeting.accept(uids)) is None:
            left_s = until_s - time.monotonic()
            ready = [fd for fd, _ in poll.poll(max(0, int(left_s * 1000)))]
            if answer.fileno() in ready and meeting.fileno() not in ready:
                refusal = (answer.read(REFUSAL_BYTES) or b"").decode(errors="replace")
                raise ChannelError(refusal or "the running process did not come")
            if left_s <= 0:
                raise ChannelError("the running process does not answer")
    made = Inheritance(elder, None if name.startswith("@") else Path(name))
    made.receive(until_s)
    return made


def _console_of(settings: Settings) -> str:
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        raise ConfigError("cannot reboot under service manager", setting="-R")
    if not settings.unix_socket_dir:
        raise ConfigError("cannot reboot if unix dir not configured", setting="-R")
    return f"{settings.unix_socket_dir}/.s.PGSQL.{settings.listen_port}"


def _is_served(name: str) -> bool:
    address = b"\0" + os.fsencode(name[1:]) if name.startswith("@") else name
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        found = probe.connect_ex(address)
    return found not in (errno.ECONNREFUSED, errno.ENOENT)
