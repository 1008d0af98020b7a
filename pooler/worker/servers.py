# SPDX-License-Identifier: MIT
"""Open a connection to a PostgreSQL server and log in. Process layer, cold.

Everything here is plain asyncio; a server that is ready leaves this module as a
socket and its greeting, and is handed to the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pooler import log
from pooler.config.loading import Config
from pooler.config.settings import Database
from pooler.errors import (
    SQLCLIENT_UNABLE_TO_CONNECT,
    LocalResourceError,
    LoginError,
)
from pooler.login import packets
from pooler.login.scram import ScramKeys
from pooler.login.server import ServerGreeting, ServerLogin, ServerLoginError

READ_BYTES = 16_384
MAX_ANSWER_BYTES = 1_048_576
LOCAL_SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
)
NO_PARAMETERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens, as ``socket`` and ``connect`` take it."""

    family: int
    sockaddr: Any

    def __str__(self) -> str:
        if self.family == socket.AF_UNIX:
            return f"unix:{os.fsdecode(self.sockaddr)}"
        host, port = self.sockaddr[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class ReadyServer:
    """A server that has logged in; whoever gets it owns ``sock``."""

    sock: socket.socket
    address: Address
    greeting: ServerGreeting
    early: bytes  # what came behind its ReadyForQuery


async def addresses(host: str, port: int) -> list[Address]:
    """Return where ``host`` of a database entry leads; LoginError if nowhere."""
    if host.startswith(("/", "@")):
        path = f"{host}/.s.PGSQL.{port}"
        return [Address(socket.AF_UNIX, "\0" + path[1:] if host[0] == "@" else path)]
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise LoginError(
            f"server DNS lookup failed: {host}: {error.strerror or error}",
            SQLCLIENT_UNABLE_TO_CONNECT,
        ) from None
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]


async def connect(address: Address) -> socket.socket:
    """Open a non-blocking connection; raises OSError."""
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if address.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await asyncio.get_running_loop().sock_connect(sock, address.sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


async def log_in(sock: socket.socket, login: ServerLogin) -> bytes:
    """Run a login over a socket; returns what came behind it. Raises LoginError."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, login.start())
    pending = b""
    while login.greeting is None:
        data = await loop.sock_recv(sock, READ_BYTES)
        if not data:
            raise LoginError(
                "server closed the connection during login",
                SQLCLIENT_UNABLE_TO_CONNECT,
            )
        pending += data
        consumed, answer = login.receive(pending)
        pending = pending[consumed:]
        if answer:
            await loop.sock_sendall(sock, answer)
    return pending


async def run_query(
    sock: socket.socket, pending: bytes, sql: str, parameters: dict[str, str]
) -> bytes:
    """Run ``connect_query`` on a fresh server; returns what came behind its answer.

    ``parameters`` of the greeting take over what the query changes. An error is logged
    and otherwise ignored. LoginError when a transaction stays open.
    """
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, packets.message(b"Q", packets.cstring(sql)))
    while True:
        at = 0
        while message := packets.read_message(pending, at, MAX_ANSWER_BYTES):
            at = message.end
            if message.kind == b"S":
                name, value = packets.read_parameter_status(message.body)
                parameters[name] = value
            elif message.kind == b"E":
                text = packets.read_report(message.body).get("M", "")
                log.write(log.WARNING, f"exec_on_connect query failed: {text}")
            elif message.kind == b"Z":
                if message.body != b"I":
                    raise LoginError("connect_query has left a transaction open")
                return pending[at:]
        pending = pending[at:]
        data = await loop.sock_recv(sock, READ_BYTES)
        if not data:
            raise LoginError("server closed the connection during connect_query")
        pending += data


class ServerOpener:
    """Opens servers of database entries; hosts of one entry take turns."""

    def __init__(self, config: Config, tracked: Mapping[str, str]) -> None:
        self.config = config
        self._tracked = tracked
        self._turn = itertools.count()
        # Addresses whose server knows no minor protocol versions at all.
        self._old: set[Address] = set()

    async def open(
        self,
        database: Database,
        user: str,
        scram_keys: ScramKeys | None,
        parameters: Mapping[str, str] = NO_PARAMETERS,
    ) -> ReadyServer:
        """Connect and log in within ``server_connect_timeout``.

        ``parameters`` go into the startup packet beside those of the entry. Raises
        LoginError with the text that a waiting client should read.
        """
        limit_s = self.config.settings.server_connect_timeout
        try:
            async with asyncio.timeout(limit_s or None):
                try:
                    return await self._open(database, user, scram_keys, parameters)
                except ServerLoginError as error:
                    if not error.unsupported_protocol:
                        raise
                return await self._open(database, user, scram_keys, parameters)
        except TimeoutError:
            raise LoginError("connect timeout", SQLCLIENT_UNABLE_TO_CONNECT) from None
        except OSError as error:
            raise LoginError(
                f"server connection lost during login: {error.strerror or error}",
                SQLCLIENT_UNABLE_TO_CONNECT,
            ) from None

    async def _open(
        self,
        database: Database,
        user: str,
        scram_keys: ScramKeys | None,
        parameters: Mapping[str, str],
    ) -> ReadyServer:
        sock, address = await self._connect(database)
        try:
            login = ServerLogin(
                user,
                database.dbname or database.name,
                self._secret(database, user),
                {**dict(database.startup_parameters), **parameters},
                scram_keys,
                minor=0 if address in self._old else packets.NEWEST_MINOR,
                tracked=self._tracked,
            )
            early = await log_in(sock, login)
            if database.connect_query:
                early = await self._connect_query(sock, early, database, login)
        except BaseException as error:
            sock.close()
            if isinstance(error, ServerLoginError) and error.unsupported_protocol:
                self._old.add(address)
            raise
        assert login.greeting is not None  # noqa: S101 - what log_in waited for
        return ReadyServer(sock, address, login.greeting, early)

    async def _connect(self, database: Database) -> tuple[socket.socket, Address]:
        """Try the hosts of an entry, another one first each time."""
        hosts = self.config.hosts(database)
        if not hosts:
            raise LoginError(
                f"cannot connect: database {database.name} has no host and"
                " unix_socket_dir is empty",
                SQLCLIENT_UNABLE_TO_CONNECT,
            )
        first = next(self._turn) % len(hosts)
        reason = "no address"
        for host in hosts[first:] + hosts[:first]:
            for address in await addresses(host, database.port):
                try:
                    return await connect(address), address
                except OSError as error:
                    if error.errno in LOCAL_SHORTAGES:
                        raise LocalResourceError(
                            f"connect failed: {os.strerror(error.errno)}",
                            SQLCLIENT_UNABLE_TO_CONNECT,
                        ) from None
                    # asyncio puts words of its own into strerror
                    reason = os.strerror(error.errno) if error.errno else str(error)
                    log.write(log.WARNING, f"connect failed: {address}: {reason}")
        raise LoginError(f"connect failed: {reason}", SQLCLIENT_UNABLE_TO_CONNECT)

    async def _connect_query(
        self, sock: socket.socket, early: bytes, database: Database, login: ServerLogin
    ) -> bytes:
        assert login.greeting is not None and database.connect_query  # noqa: S101, PT018
        return await run_query(
            sock, early, database.connect_query, login.greeting.parameters
        )

    def _secret(self, database: Database, user: str) -> str | None:
        if database.password is not None:
            return database.password
        known = self.config.userlist.get(user)
        return None if known is None else known.text


@contextlib.asynccontextmanager
async def cancel_connection(address: Address) -> AsyncIterator[socket.socket]:
    """Open a connection for one cancel request and close it in any case."""
    sock = await connect(address)
    try:
        yield sock
    finally:
        sock.close()


async def send_cancel(address: Address, backend_pid: int, key: bytes) -> None:
    """Ask the server to cancel; returns when it has closed the connection.

    By then PostgreSQL has sent the signal. Raises OSError.
    """
    loop = asyncio.get_running_loop()
    async with cancel_connection(address) as sock:
        await loop.sock_sendall(sock, packets.cancel_request(backend_pid, key))
        with contextlib.suppress(ConnectionResetError):  # as good as an end of file
            while await loop.sock_recv(sock, READ_BYTES):
                pass
