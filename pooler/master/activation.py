# SPDX-License-Identifier: MIT
"""Listening sockets that the service manager has made. Layer: master.

They replace all of our own: listen_addr, listen_port and unix_socket_dir are not
looked at for listening, as by PgBouncer. Several of one address (SO_REUSEPORT) are
dealt to the workers; a single one is watched by all of them.

Source: sd_listen_fds(3); systemd.socket(5).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, MutableMapping, Sequence

from pooler import log
from pooler.errors import ConfigError
from pooler.master.listeners import Listeners, UnixSocket

FIRST_FD = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


def passed_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Those that this process was started with; ConfigError if they are of no use.

    The variables go, so that no child takes them for its own.
    """
    pid, count, _ = (environ.pop(name, "") for name in _VARIABLES)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    taken = [_take(fd) for fd in range(FIRST_FD, FIRST_FD + int(count))]
    for one in taken:
        log.write(log.LOG, f"socket passed from service manager (fd {one.fileno()})")
    return taken


def _take(fd: int) -> socket.socket:
    try:
        taken = socket.socket(fileno=fd)
        listens = taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigError(
            f"fd {fd} from the service manager: {error.strerror}", setting="LISTEN_FDS"
        ) from None
    if taken.family not in _FAMILIES or taken.type != socket.SOCK_STREAM or not listens:
        raise ConfigError(
            f"fd {fd} from the service manager is no listening stream socket",
            setting="LISTEN_FDS",
        )
    taken.setblocking(False)
    taken.set_inheritable(False)
    return taken


def share(sockets: Iterable[socket.socket], workers: int) -> Listeners:
    """Give each worker its part, so that every socket is watched by somebody."""
    groups: dict[tuple[int, object], list[socket.socket]] = {}
    for one in sockets:
        groups.setdefault((one.family, one.getsockname()), []).append(one)
    rows: list[list[socket.socket]] = [[] for _ in range(workers)]
    shared: list[socket.socket] = []
    for (family, _), group in groups.items():
        if family == socket.AF_UNIX or len(group) == 1 < workers:
            shared += group
        else:
            _deal(group, rows)
    unix = next((one for one in shared if one.family == socket.AF_UNIX), None)
    return Listeners(
        tuple(map(tuple, rows)),
        # Whoever made it removes it.
        None if unix is None else UnixSocket(unix, None, None),
        tuple(one for one in shared if one is not unix),
        is_own=False,
    )


def _deal(group: Sequence[socket.socket], rows: Sequence[list[socket.socket]]) -> None:
    """Round by round; who would get none watches one of another's."""
    for number, one in enumerate(group):
        rows[number % len(rows)].append(one)
    for number in range(len(group), len(rows)):
        rows[number].append(group[number % len(group)].dup())
