# SPDX-License-Identifier: MIT
"""Where a server may be opened: the hosts of a database. Worker layer, cold.

A login makes a *trip* over them: from one to the next until one lets it in. Which is
first: ``load_balance_hosts``. The time of ``server_connect_timeout`` is shared by all
that may still be tried, so that one that says nothing leaves time for the others; and
those that have failed lately come last (``health``).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from pooler import log
from pooler.config.hosts import is_path
from pooler.config.kinds import LoadBalance
from pooler.errors import (
    ADMIN_SHUTDOWN,
    CANNOT_CONNECT_NOW,
    SQLCLIENT_UNABLE_TO_CONNECT,
    TOO_MANY_CONNECTIONS,
    LocalResourceError,
    LoginError,
)
from pooler.io.links import Links
from pooler.login import packets
from pooler.login.server import ServerLoginError
from pooler.worker.health import Health
from pooler.worker.names import Names

SHORTEST_TRY_S = 1.0
# Of a host that is not the last one, where server_connect_timeout sets no limit.
LONGEST_TRY_S = 15.0
PROBE_S = 15.0
# What a server says that cannot serve now, where another one may.
_NOT_NOW = frozenset(
    {TOO_MANY_CONNECTIONS, ADMIN_SHUTDOWN, "57P02", CANNOT_CONNECT_NOW}
)


class Address(NamedTuple):
    """Where a server listens, as ``socket`` and ``connect`` take it."""

    family: int
    sockaddr: Any

    def __str__(self) -> str:
        if self.family == socket.AF_UNIX:
            path = os.fsdecode(self.sockaddr)
            return f"unix:@{path[1:]}" if path.startswith("\0") else f"unix:{path}"
        host, port = self.sockaddr[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


def _nowhere() -> LoginError:
    return LoginError("connect failed", SQLCLIENT_UNABLE_TO_CONNECT)


class Place(Protocol):
    """Whatever was reached at an address of a host."""

    @property
    def host(self) -> str:
        """As the configuration names it."""

    @property
    def address(self) -> Address:
        """Where it was."""


@dataclass(frozen=True, slots=True)
class Target:
    """One address of one host."""

    host: str  # as the configuration names it
    address: Address

    def __str__(self) -> str:
        known = self.address.family == socket.AF_UNIX
        if known or self.host == str(self.address.sockaddr[0]):
            return str(self.address)
        return f"{self.host}, {self.address}"


def blames_host(error: LoginError) -> bool:
    """Whether another host may let in whom this one has not.

    Not for what would be the same everywhere, such as a wrong password, nor for what
    this machine lacks.
    """
    if isinstance(error, LocalResourceError):
        return False
    if isinstance(error, ServerLoginError):
        return error.server_message is not None and error.sqlstate in _NOT_NOW
    return error.sqlstate == SQLCLIENT_UNABLE_TO_CONNECT


class Hosts:
    """The hosts of all databases of one worker."""

    def __init__(
        self, links: Links, names: Names, health: Health, first_turn: int = 0
    ) -> None:
        """``first_turn``: workers begin at different hosts."""
        self.names = names
        self.health = health
        self._links = links
        self._first_turn = first_turn
        self._turns: dict[object, int] = {}
        self._slow: set[str] = set()
        self._probes: set[asyncio.Task[None]] = set()

    def forget(self) -> None:
        """A reload: turns begin anew, and nobody has failed yet."""
        self._turns.clear()
        self._slow.clear()
        self.health.forget()

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Where a host leads; LoginError if nowhere."""
        if is_path(host):
            path = f"{host}/.s.PGSQL.{port}"
            abstract = host.startswith("@")
            return [Address(socket.AF_UNIX, "\0" + path[1:] if abstract else path)]
        found = await self.names.find(host)
        return [
            Address(ip.family, (ip.text, port, 0, ip.scope))
            if ip.family == socket.AF_INET6
            else Address(ip.family, (ip.text, port))
            for ip in found
        ]

    async def find_one(self, listed: Sequence[str], limit_s: float) -> None:
        """Wait until it is known where one of these hosts is; LoginError: of none.

        All are asked for at once, for ``limit_s``; 0.0 is no limit.
        """
        asked = {asyncio.ensure_future(self.names.find(host)): host for host in listed}
        error: LoginError | None = None
        try:
            async with asyncio.timeout(limit_s or None):
                for answer in asyncio.as_completed(asked):
                    try:
                        await answer
                    except LoginError as failure:
                        error = failure
                    else:
                        return
        except TimeoutError:
            for question, host in asked.items():
                if not question.done():
                    error = self.was_slow(host)
        finally:
            for question in asked:
                question.cancel()
        raise error or _nowhere()

    def is_current(self, place: Place) -> bool:
        """Whether a host still has this address, as far as is known."""
        if place.address.family == socket.AF_UNIX:
            return True
        return self.names.has(place.host, str(place.address.sockaddr[0]))

    def turn(self, key: object, size: int) -> int:
        """Whose turn it is of ``size``; the next one's from then on."""
        turn = self._turns.get(key, self._first_turn) % size
        self._turns[key] = turn + 1
        return turn

    def stay(self, key: object, turn: int | None = None) -> int:
        """Whose turn it is as long as nobody fails; ``turn``: has worked."""
        if turn is not None:
            self._turns[key] = turn
        return self._turns.get(key, 0)

    def is_slow(self, host: str) -> bool:
        """Whether a name server has kept somebody waiting for it, and still would."""
        if host in self._slow and self.names.answers_at_once(host):
            self._slow.discard(host)
        return host in self._slow

    def was_slow(self, host: str) -> LoginError:
        """A name server has not said in time where a host is."""
        self._slow.add(host)
        error = LoginError(
            f"server DNS lookup failed: {host}: no answer in time",
            SQLCLIENT_UNABLE_TO_CONNECT,
        )
        log.write(log.WARNING, error.message)
        return error

    def probe_if_due(self, address: Address, *, direct: bool) -> None:
        """Look whether a server is there again; nobody waits for it."""
        if self.health.begin_probe(address):
            task = asyncio.get_running_loop().create_task(self._probe(address, direct))
            self._probes.add(task)
            task.add_done_callback(self._probes.discard)

    async def _probe(self, address: Address, direct: bool) -> None:
        """Ask for TLS, which makes no session, and leave.

        A connection alone proves little: the kernel takes it also for a server that
        hangs. Of one that wants no question (``direct``) it has to do.
        """
        answered = False
        try:
            async with asyncio.timeout(PROBE_S):
                link = await self._links.dial(*address)
                try:
                    if not direct:
                        link.send(packets.ssl_request())
                    answered = direct or bool(await link.receive())
                finally:
                    link.close()
        except (OSError, TimeoutError):
            pass
        finally:
            self.health.probed(address, answered=answered)


class Trip:
    """One login's way over the hosts of a database."""

    def __init__(
        self,
        hosts: Hosts,
        listed: Sequence[str],
        port: int,
        *,
        balance: LoadBalance = LoadBalance.ROUND_ROBIN,
        limit_s: float = 0.0,
        direct: bool = False,
    ) -> None:
        """``limit_s``: of all together, 0.0 for none. ``direct``: see Hosts."""
        self._hosts = hosts
        self._port = port
        self._direct = direct
        self._listed = tuple(listed)
        self._key = (self._listed, port)
        self._stays = balance is LoadBalance.DISABLE
        turn = (
            hosts.stay(self._key)
            if self._stays
            else hosts.turn(self._key, len(self._listed))
        )
        self._far = deque(self._listed[turn:] + self._listed[:turn])
        self._near: deque[Target] = deque()
        self._ill: list[Target] = []
        self._slow: list[str] = []
        self._is_last_round = False
        self._end_s = self._now_s() + limit_s if limit_s else None
        self.error = _nowhere()

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()

    async def next(self) -> Target | None:
        """Who is tried next; None: nobody is left, or no time. ``error`` says why."""
        while self._end_s is None or self._now_s() < self._end_s:
            if self._near:
                target = self._near.popleft()
                if self._is_last_round or self._hosts.health.is_well(target.address):
                    self._knock()
                    return target
                self._ill.append(target)
            elif self._far:
                await self._look_up(self._far.popleft())
            elif self._is_last_round or not self._begin_last_round():
                return None
        return None

    def until_s(self) -> float | None:
        """When, by the loop's clock, the one that is tried now has had its share."""
        is_well = self._hosts.health.is_well
        near = sum(
            self._is_last_round or is_well(target.address) for target in self._near
        )
        others = near + len(self._far)
        if self._end_s is None:
            return self._now_s() + LONGEST_TRY_S if others else None
        now_s = self._now_s()
        share_s = max((self._end_s - now_s) / (others + 1), SHORTEST_TRY_S)
        return min(now_s + share_s, self._end_s)

    def failed(self, target: Target, error: LoginError) -> None:
        """It has not let us in, and it is to blame."""
        self.error = error
        self._hosts.health.failed(target.address)
        if len(self._listed) > 1 or self._near or self._ill:
            log.write(log.WARNING, f"host failed: {target}: {error.message}")

    def worked(self, target: Target) -> None:
        """It has let us in."""
        self._hosts.health.worked(target.address)
        if self._stays:
            self._hosts.stay(self._key, self._listed.index(target.host))

    async def _look_up(self, host: str) -> None:
        """Find the addresses of a host, the next one first each time."""
        hosts = self._hosts
        if not self._is_last_round and hosts.is_slow(host):
            hosts.names.ask_ahead(host)
            self._slow.append(host)
            return
        try:
            async with asyncio.timeout_at(self.until_s()):
                found = await hosts.addresses(host, self._port)
        except TimeoutError:
            self.error = hosts.was_slow(host)
        except LoginError as error:
            self.error = error
        else:
            turn = hosts.turn((host, self._port), len(found))
            self._near.extend(Target(host, one) for one in found[turn:] + found[:turn])

    def _begin_last_round(self) -> bool:
        """Try those that have failed lately after all, who may be well first."""
        self._is_last_round = True
        health = self._hosts.health
        self._near.extend(sorted(self._ill, key=lambda one: health.due_s(one.address)))
        self._far.extend(self._slow)
        return bool(self._near or self._far)

    def _knock(self) -> None:
        """Somebody else is tried: see whether those that were passed over are back."""
        if not self._is_last_round:
            for target in self._ill:
                self._hosts.probe_if_due(target.address, direct=self._direct)
