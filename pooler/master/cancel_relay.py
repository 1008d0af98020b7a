# SPDX-License-Identifier: MIT
"""Cancel requests for clients that a pooler before us still has. Layer: master.

Behind ``-R`` whoever wants to cancel comes to the new pooler, and the old one has no
socket any more. So what no worker knows goes to the old master, which asks its workers,
and, if it has itself taken a pooler's place that still lives, that one. A request is
answered when all have answered that were asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pooler.ipc.bus import Bus, BusMessage
from pooler.ipc.channel import Channel, ChannelError, close_all
from pooler.master.children import Slot

ELDER = -1
SLOT_BITS = 0x7F  # of the first byte of a key, as in ``worker.cancel``
MOST = 1000  # at once; further ones are answered as if nobody knew them


@dataclass(slots=True)
class _Request:
    waiting: set[int]  # slots, and ELDER
    done: Callable[[], None]


class CancelRelay:
    """Requests on their way through the master."""

    def __init__(self, bus: Bus, slots: Iterable[Slot]) -> None:
        self._bus = bus
        self._slots = slots
        self._elder: Channel | None = None
        self._requests: dict[int, _Request] = {}
        self._next = 0
        self.messages: Mapping[str, Callable[[BusMessage], None]] = {
            "cancel": self._from_worker,
            "cancelled": self._from_asked_worker,
        }

    def fileno(self) -> int | None:
        """What to wait on: the pooler before us, for as long as it lives."""
        return None if self._elder is None else self._elder.fileno()

    def follow(self, elder: Channel) -> None:
        """There is a pooler before us; its channel is ours from now on."""
        self._elder = elder

    def _from_worker(self, message: BusMessage) -> None:
        """A worker of ours has got a request for nobody here."""
        sender, number = message.sender, message.payload.get("id")
        key = str(message.payload.get("key", ""))

        def done() -> None:
            self._bus.send(sender, "cancelled", {"id": number})

        self._ask(key, [], done)

    def from_heir(self, heir: Channel, message: Mapping[str, Any]) -> None:
        """The pooler behind us has got one that may be for a client of ours."""
        key, number = str(message.get("key", "")), message.get("id")

        def done() -> None:
            try:
                heir.send("cancelled", {"id": number})
            except (ChannelError, OSError):
                return  # it has gone

        first = int(key[:2] or "0", 16)
        slots = [
            slot.index
            for slot in self._slots
            if slot.child is not None and slot.index & SLOT_BITS == first & SLOT_BITS
        ]
        self._ask(key, slots, done)

    def _ask(self, key: str, slots: list[int], done: Callable[[], None]) -> None:
        number, self._next = self._next, self._next + 1
        waiting = set()
        told = {"id": number, "key": key}
        if len(self._requests) < MOST:
            waiting = {one for one in slots if self._bus.send(one, "cancel", told)}
            if self._elder is not None:
                try:
                    self._elder.send("cancel", told)
                    waiting.add(ELDER)
                except ChannelError:
                    self._elder_has_gone()
        self._requests[number] = _Request(waiting, done)
        self._settle()

    def _from_asked_worker(self, message: BusMessage) -> None:
        self._answered(message.payload.get("id"), message.sender)

    def _answered(self, number: object, who: int) -> None:
        request = self._requests.get(number) if isinstance(number, int) else None
        if request is not None:
            request.waiting.discard(who)
            self._settle()

    def on_ready(self) -> None:
        """The pooler before us has answered, or has gone."""
        try:
            while self._elder is not None:
                heard = self._elder.receive()
                if heard is None:
                    return
                close_all(heard[1])
                self._answered(heard[0].get("id"), ELDER)
        except ChannelError:
            self._elder_has_gone()

    def gone(self, who: int) -> None:
        """A worker, or the pooler before us, will not answer any more."""
        for request in self._requests.values():
            request.waiting.discard(who)
        self._settle()

    def _elder_has_gone(self) -> None:
        self.leave()
        self.gone(ELDER)

    def leave(self) -> None:
        """Close this process's copy of the connection."""
        if self._elder is not None:
            self._elder.close()
            self._elder = None

    def _settle(self) -> None:
        over = [key for key, one in self._requests.items() if not one.waiting]
        for key in over:
            self._requests.pop(key).done()
