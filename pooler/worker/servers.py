# SPDX-License-Identifier: MIT
"""Open a connection to a PostgreSQL server and log in. Worker layer, cold.

Everything here is plain asyncio; a server that is ready leaves this module as a
socket and its greeting, and is handed to the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pooler import log
from pooler.config.model import Config
from pooler.config.settings import Database
from pooler.config.tcp import tcp_options
from pooler.config.tls import server_tls_from
from pooler.errors import (
    SQLCLIENT_UNABLE_TO_CONNECT,
    ConfigError,
    LocalResourceError,
    LoginError,
)
from pooler.io.links import Link, Links
from pooler.login import packets
from pooler.login.scram import ScramKeys
from pooler.login.server import (
    MAX_PARAMETER_BYTES,
    ServerGreeting,
    ServerLogin,
    ServerLoginError,
)
from pooler.worker.console import DATABASE as CONSOLE_DATABASE
from pooler.worker.console import ConsoleDoor
from pooler.worker.health import Health
from pooler.worker.hosts import Address, Hosts, Target, Trip, blames_host
from pooler.worker.keys import KeyRing
from pooler.worker.names import Names
from pooler.worker.server_tls import (
    ATTEMPTS,
    Attempt,
    Security,
    is_worth_another,
    secure,
)
from pooler.worker.stays import Stay, Stays
from pooler.worker.tls import server_context

MAX_ANSWER_BYTES = 1_048_576
MAX_TOLD_ERRORS = 16
LOCAL_SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
)
NO_PARAMETERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Way:
    """How a server was reached; a cancel request for it goes the same way."""

    address: Address
    host: str  # as the configuration names it
    attempt: Attempt = Attempt.PLAIN
    security: Security | None = None  # None: nothing but the clear

    def packed(self) -> dict[str, Any]:
        """As it travels to other processes; ``ServerOpener.way_of`` reads it."""
        family, sockaddr = self.address
        tls = None if self.security is None else dataclasses.asdict(self.security.tls)
        return {
            "address": [int(family), sockaddr],
            "host": self.host,
            "attempt": self.attempt.name,
            "tls": tls,
        }


TIMED_OUT = "connect failed: timed out"  # nobody has taken the connection
CONSOLE_WAY = Way(Address(socket.AF_UNIX, ""), "console")


@dataclass(frozen=True, slots=True)
class ReadyServer:
    """A server that has logged in; whoever gets it owns ``link``."""

    link: Link
    way: Way
    greeting: ServerGreeting
    early: bytes  # what came behind its ReadyForQuery


LogIn = Callable[[Link, Way, Stay], Awaitable[ReadyServer]]


def _nothing() -> None:
    """Nobody counts it."""


async def log_in(link: Link, login: ServerLogin, keys: KeyRing) -> bytes:
    """Run a login over a link; returns what came behind it. Raises LoginError."""
    link.send(login.start())
    pending = b""
    while login.greeting is None:
        if login.wanted is not None:
            link.send(login.proceed(await keys.get(login.wanted)))
        else:
            pending += await _receive(link)
        consumed, answer = login.receive(pending)
        pending = pending[consumed:]
        if answer:
            link.send(answer)
    return pending


def _cannot_connect(message: str) -> LoginError:
    return LoginError(message, SQLCLIENT_UNABLE_TO_CONNECT)


async def _receive(link: Link) -> bytes:
    data = await link.receive()
    if not data:
        raise LoginError(
            "server closed the connection during login", SQLCLIENT_UNABLE_TO_CONNECT
        )
    return data


async def run_query(
    link: Link, pending: bytes, sql: str, parameters: dict[str, str]
) -> bytes:
    """Run ``connect_query`` on a fresh server; returns what came behind its answer.

    ``parameters`` of the greeting take over what the query changes. An error is logged
    and otherwise ignored. LoginError when a transaction stays open, or a server tells
    more parameters than a login may.
    """
    link.send(packets.message(b"Q", packets.cstring(sql)))
    errors = parameter_bytes = 0
    while True:
        at = 0
        while message := packets.read_message(pending, at, MAX_ANSWER_BYTES):
            at = message.end
            if message.kind == b"S":
                parameter_bytes += len(message.body)
                if parameter_bytes > MAX_PARAMETER_BYTES:
                    raise LoginError("connect_query changes too many parameters")
                name, value = packets.read_parameter_status(message.body)
                parameters[name] = value
            elif message.kind == b"E":
                errors += 1
                if errors <= MAX_TOLD_ERRORS:
                    text = packets.read_report(message.body).get("M", "")
                    log.write(log.WARNING, f"exec_on_connect query failed: {text}")
            elif message.kind == b"Z":
                if message.body != b"I":
                    raise LoginError("connect_query has left a transaction open")
                return pending[at:]
        pending = pending[at:]
        data = await link.receive()
        if not data:
            raise LoginError("server closed the connection during connect_query")
        pending += data


async def _secure(link: Link, way: Way) -> Way:
    """Speak TLS on a fresh link if it is to be; how the server is reached then."""
    security = way.security
    if security is None or security.context is None or way.attempt is Attempt.PLAIN:
        return dataclasses.replace(way, attempt=Attempt.PLAIN)
    await secure(
        link, security.context, way.host, way.attempt, direct=security.tls.is_direct
    )
    attempt = Attempt.TLS if link.is_secure else Attempt.PLAIN
    return dataclasses.replace(way, attempt=attempt)


class ServerOpener:
    """Opens servers of database entries, at the hosts that these name (``hosts``)."""

    def __init__(
        self,
        links: Links,
        config: Config,
        tracked: Mapping[str, str],
        door: ConsoleDoor,
        stays: Stays,
        slot: int = 0,
    ) -> None:
        self._links = links
        self._door = door
        self._stays = stays
        self.keys = KeyRing()
        self.names = Names(config.settings)
        self.hosts = Hosts(links, self.names, Health(), first_turn=slot)
        self.use(config)
        self._tracked = tracked
        # Addresses whose server knows no minor protocol versions at all.
        self._old: set[Address] = set()

    def use(self, config: Config) -> None:
        """Open servers by this configuration from now on.

        ConfigError names what TLS cannot have; then TLS stays as it was.
        """
        self.names.use(config.settings, config.all_hosts())
        self.hosts.forget()
        self._links.tcp_options = tcp_options(config.settings)
        self._security = {
            tls: Security(tls, server_context(tls)) for tls in config.all_server_tls()
        }
        self.config = config
        self.keys.keep(config.server_secrets())

    def close(self) -> None:
        """End what goes on beside logins."""
        self.keys.close()
        self.names.end()

    def knows_a_way(self, database: Database) -> bool:
        """Whether a host of an entry has an address, or there is none to ask for."""
        listed = self.config.hosts(database)
        return not listed or any(map(self.names.knows, listed))

    async def find_way(self, database: Database) -> None:
        """Wait until it is so, for ``server_connect_timeout`` at most; LoginError."""
        if not self.knows_a_way(database):
            limit_s = self.config.settings.server_connect_timeout
            await self.hosts.find_one(self.config.hosts(database), limit_s)

    async def open(
        self,
        database: Database,
        user: str,
        scram_keys: ScramKeys | None,
        parameters: Mapping[str, str] = NO_PARAMETERS,
        *,
        places: tuple[int, int, int] | None = None,
        gone: Callable[[], None] = _nothing,
    ) -> ReadyServer:
        """Connect and log in within ``server_connect_timeout``.

        ``parameters`` go into the startup packet beside those of the entry. Raises
        LoginError with the text that a waiting client should read. ``gone`` is called
        once, whatever happens: when PostgreSQL has nothing of this opening any more,
        and its ``places`` (accounts of the page) are free.
        """

        async def log_in_by(link: Link, way: Way, stay: Stay) -> ReadyServer:
            if database is not CONSOLE_DATABASE:
                await self._enter(link, database, user, stay)
            return await self._log_in(link, way, database, user, scram_keys, parameters)

        stay = Stay(gone, places)
        try:
            if database is CONSOLE_DATABASE:
                return await self._open_console(log_in_by, stay)
            return await self._open_somewhere(database, log_in_by, stay)
        finally:
            stay.release()

    async def _open_somewhere(
        self, database: Database, log_in_by: LogIn, stay: Stay
    ) -> ReadyServer:
        """Log in at one of the hosts of an entry."""
        trip = self._trip(database)
        security = self._security_of(database)
        while (target := await trip.next()) is not None:
            way = Way(target.address, target.host, security=security)
            here = stay.part()
            try:
                async with asyncio.timeout_at(trip.until_s()):
                    ready = await self._open(way, target, log_in_by, here)
            except TimeoutError:
                what = "connect timeout" if here.has_connected else TIMED_OUT
                trip.failed(target, _cannot_connect(f"{what} ({target})"))
            except LoginError as error:
                if not blames_host(error):
                    raise
                trip.failed(target, error)
            else:
                trip.worked(target)
                return ready
            finally:
                here.release()
        raise trip.error

    async def _open_console(self, log_in_by: LogIn, stay: Stay) -> ReadyServer:
        limit_s = self.config.settings.server_connect_timeout
        try:
            async with asyncio.timeout(limit_s or None):
                return await log_in_by(await self._door.connect(), CONSOLE_WAY, stay)
        except (TimeoutError, OSError) as error:
            reason = getattr(error, "strerror", None) or "connect timeout"
            raise _cannot_connect(f"the console cannot be reached: {reason}") from None

    def _trip(self, database: Database) -> Trip:
        """The way of one login over the hosts of an entry."""
        listed = self.config.hosts(database)
        if not listed:
            raise _cannot_connect(
                f"cannot connect: database {database.name} has no host and"
                " unix_socket_dir is empty"
            )
        return Trip(
            self.hosts,
            listed,
            database.port,
            balance=database.load_balance_hosts,
            limit_s=self.config.settings.server_connect_timeout,
            direct=self.config.server_tls(database).is_direct,
        )

    async def _open(
        self, way: Way, target: Target, log_in_by: LogIn, stay: Stay
    ) -> ReadyServer:
        """Log in at one address, in each way that is worth it.

        Before another attempt PostgreSQL has let go of the one before.
        """
        attempts = [*self._attempts(way)]
        while True:
            await stay.left()
            link = await self._dial(target)
            way = dataclasses.replace(way, attempt=attempts[0])
            try:
                return await log_in_by(link, way, stay)
            except OSError as error:
                reason = error.strerror or error
                raise _cannot_connect(
                    f"server connection lost during login: {reason} ({target})"
                ) from None
            except LoginError as error:
                old = isinstance(error, ServerLoginError) and error.unsupported_protocol
                if old:
                    continue  # the same once more, by the protocol that it has
                if len(attempts) == 1 or not is_worth_another(error):
                    raise
                del attempts[0]

    async def _dial(self, target: Target) -> Link:
        try:
            return await self._links.dial(*target.address)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            if error.errno in LOCAL_SHORTAGES:
                raise LocalResourceError(
                    f"connect failed: {reason}", SQLCLIENT_UNABLE_TO_CONNECT
                ) from None
            raise _cannot_connect(f"connect failed: {reason} ({target})") from None

    def _attempts(self, way: Way) -> tuple[Attempt, ...]:
        if way.address.family == socket.AF_UNIX:
            return (Attempt.PLAIN,)
        assert way.security is not None  # noqa: S101 - given by open
        return ATTEMPTS[way.security.tls.sslmode]

    async def _log_in(
        self,
        link: Link,
        way: Way,
        database: Database,
        user: str,
        scram_keys: ScramKeys | None,
        parameters: Mapping[str, str],
    ) -> ReadyServer:
        """Log in on a fresh link, which is closed if that fails."""
        try:
            way = await _secure(link, way)
            login = ServerLogin(
                user,
                database.dbname or database.name,
                self._secret(database, user),
                {**dict(database.startup_parameters), **parameters},
                scram_keys,
                minor=0 if way.address in self._old else packets.NEWEST_MINOR,
                tracked=self._tracked,
                binding=link.certificate_hash,
                max_iterations=self.config.settings.scram_max_iterations,
                find_keys=self.keys.find,
            )
            early = await log_in(link, login, self.keys)
            if link.counts:
                await self._know(link, way, login)
            if database.connect_query:
                early = await self._connect_query(link, early, database, login)
        except BaseException as error:
            link.close()
            if isinstance(error, ServerLoginError) and error.unsupported_protocol:
                self._old.add(way.address)
            raise
        assert login.greeting is not None  # noqa: S101 - what log_in waited for
        return ReadyServer(link, way, login.greeting, early)

    async def _connect_query(
        self, link: Link, early: bytes, database: Database, login: ServerLogin
    ) -> bytes:
        assert login.greeting is not None and database.connect_query  # noqa: S101, PT018
        return await run_query(
            link, early, database.connect_query, login.greeting.parameters
        )

    async def _enter(
        self, link: Link, database: Database, user: str, stay: Stay
    ) -> None:
        """From here on it counts; the link is closed if that fails."""
        try:
            await self._stays.enter(link, database.name, user, stay)
        except BaseException:
            link.close()
            raise

    async def _know(self, link: Link, way: Way, login: ServerLogin) -> None:
        """From here on it can be cancelled, whoever has it."""
        greeting = login.greeting
        assert greeting is not None  # noqa: S101 - what log_in waited for
        await self._stays.know(link, greeting.backend_pid, greeting.cancel_key, way)

    def way_of(self, packed: dict[str, Any]) -> Way:
        """How another worker has reached a server; ConfigError, ValueError."""
        family, sockaddr = packed["address"]
        security = None
        if packed["tls"] is not None:
            tls = server_tls_from(packed["tls"])
            security = self._security.get(tls) or Security(tls, server_context(tls))
        return Way(
            Address(family, sockaddr if isinstance(sockaddr, str) else tuple(sockaddr)),
            packed["host"],
            Attempt[packed["attempt"]],
            security,
        )

    def _security_of(self, database: Database) -> Security:
        tls = self.config.server_tls(database)
        known = self._security.get(tls)
        if known is not None:
            return known
        # Of an entry that a reload has removed, or whose files have gone meanwhile.
        try:
            made = self._security[tls] = Security(tls, server_context(tls))
        except ConfigError as error:
            log.write(log.ERROR, f"TLS for database {database.name}: {error}")
            raise LoginError(
                "TLS towards the server cannot be had", SQLCLIENT_UNABLE_TO_CONNECT
            ) from None
        return made

    def _secret(self, database: Database, user: str) -> str | None:
        if database.password is not None:
            return database.password
        known = self.config.userlist.get(user)
        return None if known is None else known.text


async def send_cancel(
    links: Links,
    way: Way,
    backend_pid: int,
    key: bytes,
) -> None:
    """Ask the server to cancel; returns when it has closed the connection.

    By TLS if the server was reached by it. By then PostgreSQL has sent the signal.
    Raises OSError, LoginError.
    """
    link = await links.dial(*way.address)
    try:
        await _secure(link, way)
        link.send(packets.cancel_request(backend_pid, key))
        with contextlib.suppress(ConnectionResetError):  # as good as an end of file
            while await link.receive():
                pass
    finally:
        link.close()
