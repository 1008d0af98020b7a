# SPDX-License-Identifier: MIT
"""Every connection of the workers to PostgreSQL, so that none outlives its worker.

Layer: master. A worker that dies leaves backends at work: PostgreSQL does not look at a
connection before it needs it. So the master has a copy of each socket, and knows how to
cancel what runs there (bus: ``server_opened`` with the socket before the startup packet
leaves, ``server_known``, ``server_gone``). When a worker dies, its wards are shut down
at once and a living worker is asked to bury them (``bury``): it cancels and waits for
the end of file. If that one dies as well, another is asked; with none they wait here.
A server that goes from one worker to another passes by here (``server``), so that whose
it is and in whose row of the page it counts are always the same worker.

Until that end the servers of the dead count in the master's row of the page of
accounts, so nobody opens another one in their place.

The master only keeps and passes on: it reads and writes no byte of a connection.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fcntl import F_DUPFD_CLOEXEC, fcntl
from typing import Any

from pooler import log
from pooler.board.page import Page
from pooler.ipc.bus import Bus, BusMessage

# Descriptors of the master that are no wards: listeners, inboxes, files.
RESERVED_FDS = 128
FDS_OF_ONE_WORKER = 8
BURIED_AT_ONCE = 32  # in one message
FULL_S = 0.01  # until a full inbox is tried again
# A worker that was asked and has neither finished nor died may not have been able to.
ASK_AGAIN_S = 10.0


@dataclass(slots=True, eq=False)
class Ward:
    """One connection to PostgreSQL."""

    number: int
    worker: int | None  # whose it is; None: it has died
    socket: socket.socket  # own
    database: str
    user: str
    # Accounts of its pool, database and user; None: it counts nowhere.
    places: tuple[int, int, int] | None
    # pid, key and way (worker/servers); empty before it has logged in.
    known: dict[str, Any]
    digger: int | None = None  # who buries it
    asked_s: float = 0.0
    times_asked: int = 0

    def row(self) -> dict[str, Any]:
        """What its digger is told."""
        return {
            "number": self.number,
            "database": self.database,
            "user": self.user,
            "pid": self.known.get("pid"),
            "key": self.known.get("key"),
            "way": self.known.get("way"),
        }


class Wards:
    """All connections of all workers."""

    def __init__(
        self,
        bus: Bus,
        page: Page,
        serving: Callable[[], Sequence[int]],
        process_of: Callable[[int], int],
    ) -> None:
        """``serving``: the slots of workers that can be asked.

        ``process_of`` a slot: 0 if it has none now.
        """
        self._bus = bus
        self._page = page
        self._serving = serving
        self._process_of = process_of
        self._reserved = RESERVED_FDS + FDS_OF_ONE_WORKER * bus.slots
        self._by_number: dict[int, Ward] = {}
        self._orphans: dict[int, Ward] = {}
        self._is_full = False
        self.due_s: float | None = None
        self.messages: dict[str, Callable[[BusMessage], None]] = {
            "server_opened": self._on_opened,
            "server_known": self._on_known,
            "server": self._on_move,
            "server_gone": self._on_gone,
        }

    def forget(self) -> None:
        """In a fork, and at the end: they are not ours, or nobody is left to care."""
        for ward in self._by_number.values():
            ward.socket.close()
        self._by_number.clear()
        self._orphans.clear()
        self.due_s = None

    # ------------------------------------------------------------ what workers say

    def _on_opened(self, message: BusMessage) -> None:
        payload = message.payload
        (fd,) = message.fds
        try:
            own = self._copy(fd)
        except OSError as error:
            if not self._is_full:
                log.write(
                    log.WARNING,
                    f"no copies of server connections any more ({error.strerror}): if a"
                    " worker dies, nobody clears away what it leaves in PostgreSQL",
                )
            self._is_full = True
            return
        self._is_full = False
        number = int(payload["number"])
        self._by_number[number] = Ward(
            number,
            message.sender,
            # of whatever family: only shutdown and close are called
            socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, own),
            str(payload["database"]),
            str(payload["user"]),
            None if payload["places"] is None else tuple(payload["places"]),
            {},
        )

    def _copy(self, fd: int) -> int:
        """Duplicate a descriptor, unless too few would be left for ourselves."""
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit == resource.RLIM_INFINITY:
            return fcntl(fd, F_DUPFD_CLOEXEC, 0)
        if len(self._by_number) + self._reserved >= limit:
            raise OSError(0, f"limit of {limit} open files")
        return fcntl(fd, F_DUPFD_CLOEXEC, 0)

    def _on_known(self, message: BusMessage) -> None:
        ward = self._by_number.get(message.payload["number"])
        if ward is not None:
            ward.known = message.payload

    # A server goes to another worker by us: whose it is and where it counts changes in
    # one step, between two deaths.

    def _on_move(self, message: BusMessage) -> None:
        told, giver = message.payload, message.sender
        to, places = int(told["to"]), tuple(told["places"])
        told["giver"] = giver
        if self._process_of(to) != told["process"] or not self._pass_on(
            to, told, message.fds, giver, places
        ):
            told["undelivered"] = to
            if not self._send(giver, told, message.fds):
                self._orphan(told["number"], giver, places)

    def _send(self, to: int, told: dict[str, Any], fds: Sequence[int]) -> bool:
        try:
            return self._bus.send(to, "server", told, fds)
        except ValueError:  # more than a message may have
            return False

    def _pass_on(
        self,
        to: int,
        told: dict[str, Any],
        fds: Sequence[int],
        giver: int,
        places: tuple[int, ...],
    ) -> bool:
        """Have it count there, and send it; False: nothing has changed."""
        try:
            self._page.move_server(giver, to, *places)
        except ValueError:  # it does not count there: a fault of the giver's
            return False
        if not self._send(to, told, fds):
            self._page.move_server(to, giver, *places)
            return False
        ward = self._by_number.get(told["number"])
        if ward is not None:
            ward.worker = to
        return True

    def _orphan(self, number: int, giver: int, places: tuple[int, ...]) -> None:
        """Nobody takes it: it is left like those of a dead worker."""
        ward = self._by_number.get(number)
        if ward is None:  # no copy of it could be made: it ends with the message
            with contextlib.suppress(ValueError):
                self._page.give_server(giver, *places)
            return
        try:
            self._page.move_server(giver, self._page.left_row, *places)
        except ValueError:
            ward.places = None  # it counts nowhere
        self._leave(ward)
        self.due_s = time.monotonic()

    def _on_gone(self, message: BusMessage) -> None:
        ward = self._by_number.pop(message.payload["number"], None)
        if ward is not None:
            ward.socket.close()
            if self._orphans.pop(ward.number, None) is not None and ward.places:
                self._free(ward.places)

    def _free(self, places: tuple[int, int, int]) -> None:
        """PostgreSQL is rid of what a dead worker has left: there is room."""
        self._page.give_server(self._page.left_row, *places)
        for account in places:
            for row in self._page.wanting(account):
                if row < self._bus.slots:
                    self._bus.send(row, "room", {"account": account})

    # ------------------------------------------------------------ what dies

    def died(self, worker: int, *, expected: bool) -> None:
        """A worker is dead, and all that it had to say has been heard.

        Its row of the page is cleared, but for what PostgreSQL still has. ``expected``:
        it was to end, and has closed what it had.
        """
        left = [one for one in self._by_number.values() if one.worker == worker]
        self._page.clear_row(worker, [one.places for one in left if one.places])
        for ward in left:
            self._leave(ward)
        for ward in self._orphans.values():
            if ward.digger == worker:
                ward.digger = None
        if left:
            log.write(
                log.DEBUG if expected else log.LOG,
                f"a dead worker has left {len(left)} servers, which are being closed",
            )
            self.due_s = time.monotonic()

    def _leave(self, ward: Ward) -> None:
        ward.worker = None
        self._orphans[ward.number] = ward
        with contextlib.suppress(OSError):  # it has ended already
            ward.socket.shutdown(socket.SHUT_WR)

    def on_time(self, now_s: float) -> None:
        """Ask for what is still to be buried."""
        if not self._orphans:
            self.due_s = None
            return
        serving = self._serving()
        waiting = [one for one in self._orphans.values() if _is_due(one, now_s)]
        if not serving:  # who comes next is asked: the loop turns then
            self.due_s = None
            return
        self.due_s = now_s + ASK_AGAIN_S
        for digger, wards in _by_digger(waiting, serving).items():
            for first in range(0, len(wards), BURIED_AT_ONCE):
                if not self._ask(digger, wards[first : first + BURIED_AT_ONCE], now_s):
                    self.due_s = now_s + FULL_S
                    break

    def _ask(self, digger: int, wards: Sequence[Ward], now_s: float) -> bool:
        payload = {"servers": [one.row() for one in wards]}
        fds = [one.socket.fileno() for one in wards]
        try:
            if not self._bus.send(digger, "bury", payload, fds):
                return False
        except ValueError:  # names may be long
            half = len(wards) // 2
            return bool(half) and (
                self._ask(digger, wards[:half], now_s)
                and self._ask(digger, wards[half:], now_s)
            )
        for ward in wards:
            ward.digger, ward.asked_s = digger, now_s
            ward.times_asked += 1
        return True


def _is_due(ward: Ward, now_s: float) -> bool:
    return ward.digger is None or now_s - ward.asked_s >= ASK_AGAIN_S


def _by_digger(wards: Iterable[Ward], serving: Sequence[int]) -> dict[int, list[Ward]]:
    """Who buries whom; one that was asked in vain is not asked again at once."""
    found: dict[int, list[Ward]] = {}
    for ward in wards:
        digger = serving[ward.times_asked % len(serving)]
        found.setdefault(digger, []).append(ward)
    return found
