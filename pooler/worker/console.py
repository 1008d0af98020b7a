# SPDX-License-Identifier: MIT
"""The way from a worker to the console. Worker layer, cold.

To the worker the console is one more server, which one client has to itself: it is
reached by a socket pair instead of an address.
"""

from __future__ import annotations

import socket

from pooler.config.kinds import AuthType
from pooler.config.model import RESERVED_DATABASE, Config
from pooler.config.settings import Database
from pooler.errors import LoginError
from pooler.io.links import Link, Links
from pooler.ipc.bus import CONSOLE, Bus
from pooler.ipc.worker_start import CONSOLE_ADMIN, CONSOLE_PEER

DATABASE = Database(name=RESERVED_DATABASE, dbname=RESERVED_DATABASE)


def is_operator(config: Config, user: str, *, is_own: bool) -> bool:
    """Whether a client may do everything, once it has proved who it is.

    ``is_own``: by a Unix socket, as the system's user that we run as.
    """
    return user in config.settings.admin_users or (is_own and user == RESERVED_DATABASE)


def startup_of(config: Config, user: str, peer: str, *, is_own: bool) -> dict[str, str]:
    """What the console is told of a client that has proved who it is.

    ``peer``: how log lines name it. LoginError for who may not use the console.
    """
    settings = config.settings
    admin = is_operator(config, user, is_own=is_own)
    known = admin or user in settings.stats_users
    if not known and settings.auth_type is not AuthType.ANY:
        raise LoginError("not allowed", why="not in admin_users nor in stats_users")
    return {CONSOLE_ADMIN: "1" if admin else "0", CONSOLE_PEER: peer}


class ConsoleDoor:
    """Opens connections to the console."""

    def __init__(self, bus: Bus, links: Links) -> None:
        self._bus = bus
        self._links = links

    async def connect(self) -> Link:
        """A fresh connection; LoginError when the console does not take it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            if not self._bus.send(CONSOLE, "session", {}, [theirs.fileno()]):
                ours.close()
                raise LoginError("the console does not answer")
        return await self._links.adopt(ours)

    def cancel(self, backend_pid: int) -> None:
        """Ask the console to give up what a session waits for."""
        self._bus.send(CONSOLE, "cancel", {"pid": backend_pid})
