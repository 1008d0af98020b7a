# SPDX-License-Identifier: MIT
"""Make the listening sockets. Layer: master.

Every worker slot gets its own SO_REUSEPORT socket per TCP address, so the kernel
spreads new connections without a shared lock; the Unix socket is one, shared by
all. All sockets are bound before the first one listens: a start that fails has
accepted nobody. They are non-blocking and close-on-exec.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import socket
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from pooler import log
from pooler.errors import ConfigError

ANY = "*"
# What `*` stands for. V6ONLY lets both families share a port.
ANY_ADDRESSES = (
    (socket.AF_INET, ("0.0.0.0",)),  # noqa: S104 - the operator asked for all
    (socket.AF_INET6, ("::",)),
)

# This host has no such address or family: the other addresses may still do.
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


@dataclass(frozen=True, slots=True)
class Address:
    """One TCP address to bind: its family and what ``bind`` takes."""

    family: socket.AddressFamily
    # Host and port first; IPv6 has two more.
    sockaddr: tuple[Any, ...]

    def __str__(self) -> str:
        host, port = self.sockaddr[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """The shared Unix socket; ``path`` is None in the abstract namespace."""

    listener: socket.socket
    path: Path | None
    inode: tuple[int, int] | None

    def remove(self) -> None:
        """Remove the file, unless another pooler has put its own in its place."""
        if self.path is None:
            return
        with contextlib.suppress(OSError):
            if _inode(self.path) == self.inode:
                self.path.unlink()


@dataclass(frozen=True, slots=True)
class Listeners:
    """All listening sockets: ``tcp[slot]`` is that slot's, one per address."""

    tcp: tuple[tuple[socket.socket, ...], ...]
    unix: UnixSocket | None
    # Further ones that all workers watch: from a service manager.
    shared: tuple[socket.socket, ...] = ()
    # Not a service manager's, who would give them to the next one as well.
    is_own: bool = True

    @property
    def unix_listener(self) -> socket.socket | None:
        """The shared Unix socket, if there is one."""
        return None if self.unix is None else self.unix.listener

    def close_tcp(self) -> None:
        """Close this process's copies of all TCP sockets."""
        for listener in (one for slot in self.tcp for one in slot):
            listener.close()
        for listener in self.shared:
            if listener.family != socket.AF_UNIX:
                listener.close()

    def close_other_slots(self, slot: int) -> None:
        """Close the TCP sockets of all slots but ``slot``; for a worker."""
        for other, listeners in enumerate(self.tcp):
            if other != slot:
                for listener in listeners:
                    listener.close()

    def close(self) -> None:
        """Close this process's copies of all sockets; files stay."""
        self.close_tcp()
        for listener in self.shared:
            listener.close()
        if self.unix is not None:
            self.unix.listener.close()


class Inherited(Protocol):
    """Sockets of a pooler that runs; what is taken from here is the caller's."""

    def tcp(self, address: Address, workers: int) -> list[list[socket.socket]] | None:
        """Those of an address, for each worker; None: there are none."""

    def unix(self) -> UnixSocket | None:
        """The Unix socket."""


class _Nothing:
    """Nobody runs."""

    def tcp(self, address: Address, workers: int) -> list[list[socket.socket]] | None:
        return None

    def unix(self) -> UnixSocket | None:
        return None


def open_listeners(
    *,
    listen_addr: Sequence[str],
    listen_port: int,
    listen_backlog: int,
    workers: int,
    share_port: bool = False,
    unix_socket_dir: str = "",
    unix_socket_mode: int = 0o777,
    unix_socket_group: str = "",
    inherited: Inherited | None = None,
) -> Listeners:
    """Bind and listen everywhere, or raise ConfigError and leave nothing behind.

    ``share_port``: beside other poolers of the same user (``so_reuseport``). What is
    ``inherited`` is bound already.
    """
    inherited = inherited or _Nothing()
    with contextlib.ExitStack() as undo:
        unix = inherited.unix()
        if unix is None and unix_socket_dir:
            unix = _bind_unix(
                unix_socket_dir, listen_port, unix_socket_mode, unix_socket_group
            )
        if unix is not None:
            undo.callback(unix.listener.close)
            undo.callback(unix.remove)
        rows: list[list[socket.socket]] = [[] for _ in range(workers)]
        bound = []
        missing = []
        for address in _resolve(listen_addr, listen_port):
            try:
                group = inherited.tcp(address, workers)
                group = group or _bind_tcp(address, workers, share_port)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    _refuse(address, error)
                missing.append(f"{address}: {error.strerror}")
                continue
            for row, own in zip(rows, group, strict=True):
                for listener in own:
                    undo.callback(listener.close)
                row += own
            bound.append(address)
        for text in missing:
            log.write(log.WARNING, f"cannot listen on {text}")
        if listen_addr and not bound:
            raise ConfigError(
                f"no address can be bound: {'; '.join(missing)}", setting="listen_addr"
            )
        listeners = Listeners(tuple(map(tuple, rows)), unix)
        _listen(listeners, bound, listen_backlog)
        undo.pop_all()
    return listeners


def _listen(listeners: Listeners, addresses: Iterable[Address], backlog: int) -> None:
    # Slot by slot, so that the kernel's SO_REUSEPORT group is in slot order.
    for group in listeners.tcp:
        for listener in group:
            try:
                listener.listen(backlog)
            except OSError as error:
                _refuse(Address(listener.family, listener.getsockname()), error)
    for address in addresses:
        log.write(log.LOG, f"listening on {address}")
    if listeners.unix is not None:
        listeners.unix.listener.listen(backlog)
        log.write(log.LOG, f"listening on {_unix_name(listeners.unix)}")


def _resolve(names: Sequence[str], port: int) -> Iterator[Address]:
    """Yield every address that ``names`` stand for, each once."""
    seen = set()
    for name in names:
        for address in _resolve_one(name, port):
            if address not in seen:
                seen.add(address)
                yield address


def _resolve_one(name: str, port: int) -> list[Address]:
    if name == ANY:
        return [Address(family, (*host, port)) for family, host in ANY_ADDRESSES]
    try:
        found = socket.getaddrinfo(
            name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        problem = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot resolve {name!r}: {problem}", setting="listen_addr"
        ) from error
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]


def _bind_tcp(
    address: Address, workers: int, shared: bool
) -> list[list[socket.socket]]:
    """Return one bound socket for each worker; OSError leaves none open."""
    if not shared:
        # SO_REUSEPORT lets processes of one user share a port in silence, and half the
        # clients would reach an old pooler. Without it the kernel tells of a listener.
        with _tcp_socket(address.family) as probe:
            probe.bind(address.sockaddr)
    with contextlib.ExitStack() as undo:
        group = []
        for _ in range(workers):
            listener = undo.enter_context(_tcp_socket(address.family))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address.sockaddr)
            group.append([listener])
        undo.pop_all()
    return group


def _tcp_socket(family: socket.AddressFamily) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    # Connections of the last run in TIME_WAIT must not keep us from starting.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


def _refuse(address: Address, error: OSError) -> NoReturn:
    host, port = address.sockaddr[:2]
    if error.errno == errno.EADDRINUSE:
        problem = (
            f"address {host} port {port} is in use by another process"
            " (change listen_port or listen_addr, or stop it)"
        )
    else:
        problem = f"cannot listen on address {host} port {port}: {error.strerror}"
    raise ConfigError(problem, setting="listen_port") from error


def _bind_unix(directory: str, port: int, mode: int, group: str) -> UnixSocket:
    name = f"{directory}/.s.PGSQL.{port}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with contextlib.ExitStack() as undo:
        undo.callback(listener.close)
        try:
            if directory.startswith("@"):
                listener.bind(b"\0" + os.fsencode(name[1:]))
                unix = UnixSocket(listener, None, None)
            else:
                path = Path(name)
                _clear_unix_path(path)
                _bind_hidden(listener, path)
                unix = UnixSocket(listener, path, _inode(path))
                undo.callback(unix.remove)
                if group:
                    os.chown(path, -1, _group_id(group))
                path.chmod(mode)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _unix_in_use(name) from error
            # bind() reports a path above 107 bytes without an errno of its own.
            problem = error.strerror or str(error)
            raise ConfigError(
                f"{name}: {problem}", setting="unix_socket_dir"
            ) from error
        undo.pop_all()
    return unix


def _bind_hidden(listener: socket.socket, path: Path) -> None:
    """Bind to ``path`` so that it is at no moment open to more users than wanted."""
    umask = os.umask(0o777)
    try:
        listener.bind(str(path))
    finally:
        os.umask(umask)


def _clear_unix_path(path: Path) -> None:
    """Remove a socket file nobody serves; ConfigError when somebody does."""
    lock = Path(f"{path}.lock")
    if os.path.lexists(lock):
        raise ConfigError(
            f"{lock} exists: a PostgreSQL server uses this socket",
            setting="unix_socket_dir",
        )
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        # Nothing there, or nothing we may see: bind says what is wrong.
        return
    if not is_socket:
        raise ConfigError(
            f"{path} exists and is not a socket", setting="unix_socket_dir"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        # A full backlog or a file that is not ours to open is no proof of death.
        if probe.connect_ex(str(path)) not in (errno.ECONNREFUSED, errno.ENOENT):
            raise _unix_in_use(path)
    log.write(log.LOG, f"stale unix socket {path}, removing")
    with contextlib.suppress(OSError):
        path.unlink()


def _unix_in_use(path: object) -> ConfigError:
    return ConfigError(
        f"unix socket is in use, cannot continue: {path}", setting="unix_socket_dir"
    )


def _group_id(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise ConfigError(
            f"no such group: {group}", setting="unix_socket_group"
        ) from error


def _inode(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _unix_name(unix: UnixSocket) -> str:
    if unix.path is not None:
        return f"unix:{unix.path}"
    name = unix.listener.getsockname()
    if isinstance(name, str):  # of a file that is not ours
        return f"unix:{name}"
    return f"unix:@{os.fsdecode(name[1:])}"
