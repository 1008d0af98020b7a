# SPDX-License-Identifier: MIT
"""Logins that are refused: who hears of it, when, and what the log says.

Worker layer, cold. A wrong proof is answered late (``failed_login_delay``), so that
guessing takes time: the client is held, by a timer and without a thread, and no other
login waits for it. Held clients take places of ``max_client_conn``, so there are few
of them; when there are more, the first one hears of it early.

A flood of refusals costs few lines: what is left out is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from pooler import log
from pooler.config.settings import Settings
from pooler.errors import INVALID_AUTHORIZATION, LoginError
from pooler.io.engine import Engine
from pooler.session.records import CloseReason

HELD_MAX = 256
# The part of max_client_conn that may be held, as a divisor.
HELD_PART = 4
LINES_AT_ONCE = 100
LINES_IN_A_SECOND = 10
COUNT_PERIOD_S = 1.0
MAX_ADDRESSES = 10_000
MINUTE_S = 60.0
IPV6_SITE_BITS = 64
UNIX = "unix"


class TooManyFailuresError(LoginError):
    """Nobody from this address is heard now; that is no failure of its own."""


class FloodLog:
    """Lines of which there may be thousands: so many at once and in a second; of the
    others the count, once a second.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._room = float(LINES_AT_ONCE)
        self._at_s = time.monotonic()
        self._left_out = 0
        self._timer: asyncio.TimerHandle | None = None

    def may_write(self) -> bool:
        """Whether there is room for one more; else it is counted."""
        now_s = time.monotonic()
        more = (now_s - self._at_s) * LINES_IN_A_SECOND
        self._room, self._at_s = min(LINES_AT_ONCE, self._room + more), now_s
        if self._room >= 1:
            self._room -= 1
            return True
        self._left_out += 1
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(COUNT_PERIOD_S, self.flush)
        return False

    def flush(self) -> None:
        """Say how many lines were left out."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._left_out:
            log.write(log.WARNING, f"… and {self._left_out} more {self._what}")
            self._left_out = 0


@dataclass(slots=True)
class _Failures:
    """What an address has left of the failures that it may have in a minute."""

    left: float
    at_s: float


class FailureTable:
    """Failed logins by address: so many in a minute, then nobody from there is heard.

    An IPv6 site (/64) is one address. The table is bounded: the address that failed
    longest ago is forgotten.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._by_address: OrderedDict[str, _Failures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_address)

    def may_try(self, host: str, per_minute: float) -> bool:
        """Whether the address has failures left; 0 a minute is no limit."""
        if not per_minute or host == UNIX:
            return True
        known = self._by_address.get(address_of(host))
        return known is None or self._left(known, per_minute) >= 1

    def failed(self, host: str, per_minute: float) -> None:
        """Count a failure."""
        if not per_minute or host == UNIX:
            return
        address = address_of(host)
        known = self._by_address.get(address)
        left = per_minute if known is None else self._left(known, per_minute)
        self._by_address[address] = _Failures(max(0.0, left - 1), self._clock())
        self._by_address.move_to_end(address)
        if len(self._by_address) > MAX_ADDRESSES:
            self._by_address.popitem(last=False)

    def _left(self, known: _Failures, per_minute: float) -> float:
        age_s = self._clock() - known.at_s
        return min(per_minute, known.left + age_s * per_minute / MINUTE_S)


def address_of(host: str) -> str:
    """What counts as one address: an IPv4 address, or an IPv6 site."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), IPV6_SITE_BITS), strict=False))


@dataclass(slots=True)
class _Held:
    """A client that does not know yet that it was refused."""

    farewell: bytes
    timer: asyncio.TimerHandle


class Refusals:
    """The refused clients of one worker."""

    def __init__(
        self, engine: Engine, settings: Callable[[], Settings], workers: int
    ) -> None:
        """``settings``: the running ones."""
        self._engine = engine
        self._settings = settings
        self._workers = workers
        self._held: OrderedDict[int, _Held] = OrderedDict()
        # Who was refused and why, of those whose end is still to be logged.
        self._reasons: dict[int, tuple[str, str]] = {}
        self._failures = FailureTable()
        self._lines = FloodLog("refused logins that are not logged")

    def check_address(self, handle: int) -> None:
        """LoginError if too many logins from there have failed.

        To be asked before any proof is looked at, so that it tells nothing about it.
        """
        host, _ = self._engine.client_peer(handle)
        if not self._failures.may_try(host, self._per_minute()):
            raise TooManyFailuresError(
                "too many failed logins from this address",
                INVALID_AUTHORIZATION,
                why="max_failed_logins",
            )

    def holds(self, handle: int) -> bool:
        """Whether the client was refused and waits to hear of it."""
        return handle in self._held

    def refuse(
        self, handle: int, error: LoginError, who: str, farewell: bytes, *, failed: bool
    ) -> None:
        """Send a client away. LookupError: it has gone.

        ``who``: what it has asked for. ``failed``: it could not prove who it is, which
        it hears late.
        """
        host, port = self._engine.client_peer(handle)
        if self._lines.may_write():
            why = f": {error.why}" * bool(error.why)
            self._log_error(error.message + why, handle, who, (host, port))
            self._reasons[handle] = (who, error.message)
        delay_s = self._settings().failed_login_delay
        if not failed or host == UNIX:
            self._close(handle, farewell)
            return
        if not isinstance(error, TooManyFailuresError):
            self._failures.failed(host, self._per_minute())
        if not delay_s:
            self._close(handle, farewell)
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(delay_s, self._tell, handle)
        self._held[handle] = _Held(farewell, timer)
        if len(self._held) > self._room():
            self._tell(next(iter(self._held)))

    def _log_error(
        self, text: str, handle: int, who: str, peer: tuple[str, int]
    ) -> None:
        if self._settings().log_pooler_errors:
            log.write(
                log.WARNING, f"pooler error: {text}", tag=client_tag(handle, who, peer)
            )

    def closed(
        self, handle: int, who: str, peer: tuple[str, int], age_us: int, why: str
    ) -> None:
        """The client has gone, and no pool has had it.

        ``why``: what has ended its login if nobody has refused it; empty: it just left.
        """
        held = self._held.pop(handle, None)
        if held is not None:
            held.timer.cancel()
            why = "client unexpected eof"
        elif why and self._lines.may_write():
            self._log_error(why, handle, who, peer)
            self._reasons[handle] = (who, why)
        self._log_end(handle, peer, age_us, why)

    def end(self) -> None:
        """The worker ends: what is left to say is said."""
        self._lines.flush()
        for handle in list(self._held):
            self._tell(handle)

    def _tell(self, handle: int) -> None:
        held = self._held.pop(handle)
        held.timer.cancel()
        with contextlib.suppress(LookupError):
            self._close(handle, held.farewell)

    def _log_end(
        self, handle: int, peer: tuple[str, int], age_us: int, reason: str = ""
    ) -> None:
        """Once, and before the client hears of it: who reads the log then finds it."""
        who, refused = self._reasons.pop(handle, ("", ""))
        if refused and self._settings().log_disconnections:
            log.write(
                log.LOG,
                f"closing because: {reason or refused} (age={age_us // 1_000_000}s)",
                tag=client_tag(handle, who, peer),
            )

    def _close(self, handle: int, farewell: bytes) -> None:
        peer = self._engine.client_peer(handle)
        self._log_end(handle, peer, self._engine.client_age_us(handle))
        self._engine.client_close(handle, CloseReason.CLOSE_CLIENT_LOGIN, farewell)

    def _room(self) -> int:
        share = self._settings().max_client_conn // HELD_PART // self._workers
        return max(1, min(HELD_MAX, share))

    def _per_minute(self) -> float:
        limit = self._settings().max_failed_logins
        return max(1.0, limit / self._workers) if limit else 0.0


def client_tag(handle: int, who: str, peer: tuple[str, int]) -> str:
    """How log lines name a client; ``who``: ``database/user``."""
    host, port = peer
    return f"C-{handle:#x}: {who}@{host}:{port}"
