# SPDX-License-Identifier: MIT
"""Host names and their addresses, as one worker knows them. Worker layer, cold.

Nothing here waits for what it does not need: an address asks nobody, and each name has
one question of its own on its way, whoever waits for it. An answer counts for
``dns_max_ttl``, a failure for ``dns_nxdomain_ttl``. When it is over the next who wants
the name asks again and waits for the answer, for the old one may lead to a server that
is not the right one any more; but no longer than ``PATIENCE_S``: then the old one does.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pooler import log
from pooler.config.hosts import host_problem, is_path
from pooler.config.settings import Settings
from pooler.errors import SQLCLIENT_UNABLE_TO_CONNECT, LoginError, NoAddressError
from pooler.worker.resolver import Ip, NameFailure, ask_addresses, ask_serial

PATIENCE_S = 1.0


@dataclass(slots=True)
class Name:
    """What is known of a name.

    ``addresses`` are those of the last good answer, also while it is being asked again
    or cannot be; none once a name server has said that there are none.
    """

    addresses: tuple[Ip, ...] = ()
    failure: str = ""
    expires_s: float = 0.0
    asking: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Zone:
    """A name without its first label; ``serial`` 0: nobody has said it yet."""

    serial: int = 0


def literal(host: str) -> Ip | None:
    """The address that a host is, if it is one; nobody is asked.

    LoginError: a scope (``fe80::1%eth0``) that this machine does not have.
    """
    try:
        found = socket.getaddrinfo(
            host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
    except (OSError, UnicodeError) as error:
        if "%" in host:
            raise _failed(host, str(getattr(error, "strerror", error))) from None
        return None
    family = found[0][0]
    place: tuple[Any, ...] = found[0][4]
    scope = place[3] if family == socket.AF_INET6 else 0
    return Ip(family, str(place[0]), int(scope))


def _failed(host: str, problem: str) -> LoginError:
    return NoAddressError(
        f"server DNS lookup failed: {host}: {problem}", SQLCLIENT_UNABLE_TO_CONNECT
    )


class Names:
    """The names of one worker."""

    def __init__(
        self, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._names: dict[str, Name] = {}
        self._zones: dict[str, Zone] = {}
        self._zone_timer: asyncio.TimerHandle | None = None
        self._zone_task: asyncio.Task[None] | None = None
        # Called when the addresses of a name are others than before.
        self.moved: Callable[[], None] = lambda: None

    def use(self, settings: Settings, hosts: Iterable[str]) -> None:
        """Ask by these settings from now on, and forget all names but ``hosts``."""
        self._settings = settings
        kept = frozenset(hosts)
        for host in [host for host in self._names if host not in kept]:
            if self._names[host].asking is None:
                del self._names[host]
        zones = frozenset(map(_zone_of, self._names))
        self._zones = {k: v for k, v in self._zones.items() if k in zones}
        self._check_zones_later()

    async def find(self, host: str) -> tuple[Ip, ...]:
        """The addresses of a host, at least one; raises LoginError.

        Takes as long as the name servers do: the caller sets the limit, and whoever
        gives up does not end the question.
        """
        number = literal(host)
        if number is not None:
            return (number,)
        if host not in self._names and (problem := host_problem(host)):
            raise _failed(host, problem)
        name = self._names.setdefault(host, Name())
        if self._clock() >= name.expires_s:
            asking = self._ask(host, name)
            patience_s = PATIENCE_S if name.addresses else None
            await asyncio.wait([asking], timeout=patience_s)
        if not name.addresses:
            raise _failed(host, name.failure)
        return name.addresses

    def knows(self, host: str) -> bool:
        """Whether ``find`` answers soon: a number, or a name of which it knows."""
        name = self._names.get(host)
        if is_path(host) or "%" in host or (name is not None and name.addresses):
            return True
        return literal(host) is not None

    def answers_at_once(self, host: str) -> bool:
        """Whether ``find`` has to ask nobody."""
        if is_path(host) or literal(host) is not None:
            return True
        name = self._names.get(host)
        return name is not None and self._clock() < name.expires_s

    def ask_ahead(self, host: str) -> None:
        """Ask about a name that was asked for before; nobody waits."""
        name = self._names.get(host)
        if name is not None and self._clock() >= name.expires_s:
            self._ask(host, name)

    def has(self, host: str, text: str) -> bool:
        """Whether an address may still be used for a host, as far as is known."""
        name = self._names.get(host)
        if name is None or not name.addresses:
            return True
        return any(text == ip.text for ip in name.addresses)

    # ------------------------------------------------------------ asking

    def _ask(self, host: str, name: Name) -> asyncio.Task[None]:
        """The question about a name: the one on its way, or a new one."""
        if name.asking is None:
            self._register_zone(host)
            loop = asyncio.get_running_loop()
            name.asking = loop.create_task(self._learn(host, name))
        return name.asking

    async def _learn(self, host: str, name: Name) -> None:
        settings = self._settings
        try:
            raw = host.encode("idna").decode()
            found = await ask_addresses(raw, settings.resolv_conf)
        except NameFailure as failure:
            if failure.is_final:
                name.addresses = ()
            name.failure = str(failure)
            name.expires_s = self._clock() + settings.dns_nxdomain_ttl
            log.write(log.WARNING, f"DNS lookup failed: {host}: {failure}")
        else:
            self._take(host, name, found)
        finally:
            name.asking = None

    def _take(self, host: str, name: Name, found: tuple[Ip, ...]) -> None:
        before, name.addresses = name.addresses, found
        name.failure = ""
        name.expires_s = self._clock() + self._settings.dns_max_ttl
        if frozenset(before) == frozenset(found):
            return
        if before:
            texts = [", ".join(ip.text for ip in ips) for ips in (before, found)]
            log.write(log.LOG, f"DNS: {host} changed: old={texts[0]} new={texts[1]}")
        self.moved()

    # ------------------------------------------------------------ zones

    def _register_zone(self, host: str) -> None:
        zone = _zone_of(host)
        if zone and zone not in self._zones:
            self._zones[zone] = Zone()
            self._check_zones_later()

    def _check_zones_later(self) -> None:
        """Look at all zones after ``dns_zone_check_period``, if there are any."""
        if self._zone_timer is not None:
            self._zone_timer.cancel()
            self._zone_timer = None
        period_s = self._settings.dns_zone_check_period
        checking = self._zone_task is not None and not self._zone_task.done()
        if period_s and self._zones and not checking:
            loop = asyncio.get_running_loop()
            self._zone_timer = loop.call_later(period_s, self._check_zones)

    def _check_zones(self) -> None:
        self._zone_timer = None
        task = asyncio.get_running_loop().create_task(self._check_each_zone())
        self._zone_task = task
        task.add_done_callback(lambda _: self._check_zones_later())

    async def _check_each_zone(self) -> None:
        await asyncio.gather(
            *(self._check_zone(text, zone) for text, zone in self._zones.items())
        )

    async def _check_zone(self, text: str, zone: Zone) -> None:
        """Ask for a zone's serial number; all its names anew if it is another one."""
        with contextlib.suppress(NameFailure):
            serial = await ask_serial(text, self._settings.resolv_conf)
            before, zone.serial = zone.serial, serial
            if before in (0, serial):
                return
            log.write(log.LOG, f"zone {text} serial changed: old={before} new={serial}")
            for host, name in self._names.items():
                if _zone_of(host) == text:
                    name.expires_s = 0.0
                    self._ask(host, name)

    # ------------------------------------------------------------ telling

    def host_rows(self) -> list[tuple[str, int, str]]:
        """Rows of SHOW DNS_HOSTS: name, seconds it still counts, addresses."""
        now_s = self._clock()
        return [
            (
                host,
                max(0, int(name.expires_s - now_s)),
                ",".join(ip.text for ip in name.addresses),
            )
            for host, name in sorted(self._names.items())
        ]

    def zone_rows(self) -> list[tuple[str, int, int]]:
        """Rows of SHOW DNS_ZONES: zone, serial number, names of it."""
        of = [_zone_of(host) for host in self._names]
        return [
            (text, zone.serial, of.count(text))
            for text, zone in sorted(self._zones.items())
        ]

    def counts(self) -> dict[str, int]:
        """Rows of SHOW LISTS."""
        asking = sum(name.asking is not None for name in self._names.values())
        return {
            "dns_names": len(self._names),
            "dns_zones": len(self._zones),
            "dns_queries": asking,
            "dns_pending": 0,
        }

    def end(self) -> None:
        """Ask nobody any more."""
        if self._zone_timer is not None:
            self._zone_timer.cancel()
        tasks = [name.asking for name in self._names.values()]
        for task in (*tasks, self._zone_task):
            if task is not None:
                task.cancel()


def _zone_of(host: str) -> str:
    return host.rstrip(".").partition(".")[2]
