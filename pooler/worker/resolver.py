# SPDX-License-Identifier: MIT
"""Ask for the addresses of a name, by c-ares. Worker layer, cold.

c-ares is what PgBouncer asks by default, so both find the same: /etc/hosts, the servers
and the search list of resolv.conf, in the order of nsswitch.conf, as far as that names
files and dns. Its sockets are watched by the loop of the worker: no thread, and one
question waits for no other.

Each question has a channel of its own. One that was kept would answer from c-ares's own
cache for as long as the records say, where ``dns_max_ttl`` is to decide; nor would it
see a change of /etc/resolv.conf. It costs 0.3 ms, once for a name in ``dns_max_ttl``.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, NamedTuple

import pycares

from pooler.errors import PoolerError

# What says that there is no such name; anything else may be another thing next time.
_NO_SUCH_NAME = frozenset(
    {
        pycares.errno.ARES_ENODATA,
        pycares.errno.ARES_ENOTFOUND,
        pycares.errno.ARES_EBADNAME,
    }
)
# Options of resolv.conf with a number, and what pycares calls them.
_NUMBERS = {"ndots": "ndots", "timeout": "timeout", "attempts": "tries"}
SHORTEST_WAIT_S = 0.001
LONGEST_WAIT_S = 1.0


class NameFailure(PoolerError):
    """A name has no address; ``is_final``: by the word of a name server."""

    def __init__(self, problem: str, *, is_final: bool) -> None:
        self.is_final = is_final
        super().__init__(problem)


class Ip(NamedTuple):
    """An address without a port. ``scope``: of a link-local address of IPv6."""

    family: int
    text: str
    scope: int = 0


async def ask_addresses(name: str, resolv_conf: str) -> tuple[Ip, ...]:
    """Ask for all addresses of a name, best first (RFC 6724); raises NameFailure."""
    question = _Question(resolv_conf)
    try:
        found = await question.ask(
            lambda channel, told: channel.getaddrinfo(
                name, None, type=socket.SOCK_STREAM, callback=told
            )
        )
    finally:
        question.close()
    # one address may come twice, from a file that has it twice
    return tuple(
        dict.fromkeys(Ip(node.family, _text(node.addr[0])) for node in found.nodes)
    )


async def ask_serial(zone: str, resolv_conf: str) -> int:
    """Ask for the serial number of a zone, of its SOA record; raises NameFailure."""
    question = _Question(resolv_conf)
    try:
        found = await question.ask(
            lambda channel, told: channel.search(
                zone, pycares.QUERY_TYPE_SOA, callback=told
            )
        )
    finally:
        question.close()
    for record in found.answer:
        if record.type == pycares.QUERY_TYPE_SOA:
            return int(record.data.serial)
    raise NameFailure("no SOA record", is_final=True)


def _text(raw: bytes | str) -> str:
    return raw if isinstance(raw, str) else raw.decode()


def read_resolv_conf(path: str) -> dict[str, Any]:
    """What ``resolv_conf`` names, as arguments of a channel; raises OSError.

    The file is read here, for pycares 5.2 hands c-ares a path that it has freed. A
    port may stand behind an address (``127.0.0.1:5353``, ``[::1]:5353``). What nobody
    knows is passed over (resolv.conf(5)).
    """
    found: dict[str, Any] = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line.split("#")[0].split(";")[0].split() for line in file]
    for words in filter(None, lines):
        if words[0] == "nameserver" and len(words) > 1:
            found.setdefault("servers", []).append(words[1])
        elif words[0] in ("search", "domain"):
            found["domains"] = words[1:]
        elif words[0] == "options":
            for word in words[1:]:
                _read_option(word, found)
    return found


def _read_option(word: str, found: dict[str, Any]) -> None:
    key, _, value = word.partition(":")
    if key == "rotate":
        found["rotate"] = True
    elif key in _NUMBERS and value.isascii() and value.isdecimal():
        found[_NUMBERS[key]] = int(value)


class _Question:
    """One question to c-ares, driven by the running loop; close it at the end."""

    def __init__(self, resolv_conf: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._watched: dict[int, tuple[bool, bool]] = {}
        self._answer: asyncio.Future[Any] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        try:
            options = read_resolv_conf(resolv_conf) if resolv_conf else {}
            self._channel = pycares.Channel(sock_state_cb=self._watch, **options)
        except (pycares.AresError, OSError, UnicodeError) as error:
            problem = f"resolver cannot be set up: {error}"
            raise NameFailure(problem, is_final=False) from None

    async def ask(self, begin: Any) -> Any:
        """``begin(channel, told)`` puts the question; raises NameFailure."""
        try:
            begin(self._channel, self._told)
        except (pycares.AresError, UnicodeError) as error:
            raise NameFailure(str(error.args[-1]), is_final=True) from None
        self._wait()
        return await self._answer

    def _told(self, found: Any, code: int | None) -> None:
        if self._answer.done():
            return
        if code:
            problem = pycares.errno.strerror(code)
            self._answer.set_exception(
                NameFailure(_text(problem), is_final=code in _NO_SUCH_NAME)
            )
        else:
            self._answer.set_result(found)

    def _watch(self, fd: int, readable: bool, writable: bool) -> None:
        """c-ares wants to hear of its socket, or is about to close it (False, False).

        After ``close`` it may say so from another thread: nothing is watched by then.
        """
        if self._closed:
            return
        reads, writes = self._watched.pop(fd, (False, False))
        if readable and not reads:
            self._loop.add_reader(fd, self._turn, fd, pycares.ARES_SOCKET_BAD)
        elif reads and not readable:
            self._loop.remove_reader(fd)
        if writable and not writes:
            self._loop.add_writer(fd, self._turn, pycares.ARES_SOCKET_BAD, fd)
        elif writes and not writable:
            self._loop.remove_writer(fd)
        if readable or writable:
            self._watched[fd] = (readable, writable)

    def _turn(self, readable: int, writable: int) -> None:
        if not self._closed:
            self._channel.process_fd(readable, writable)
            self._wait()

    def _wait(self) -> None:
        """Have c-ares look at its own time limits when they are over."""
        if self._timer is not None:
            self._timer.cancel()
        if self._answer.done():
            return
        pause_s = max(SHORTEST_WAIT_S, self._channel.timeout(LONGEST_WAIT_S))
        nothing = pycares.ARES_SOCKET_BAD
        self._timer = self._loop.call_later(pause_s, self._turn, nothing, nothing)

    def close(self) -> None:
        """Forget the question. c-ares frees what it has in a thread of its own."""
        if not self._answer.done():
            self._answer.cancel()
        self._channel.cancel()  # its sockets leave here, in this thread
        if self._timer is not None:
            self._timer.cancel()
        for fd in list(self._watched):
            self._watch(fd, False, False)
        self._closed = True
        self._channel.close()
