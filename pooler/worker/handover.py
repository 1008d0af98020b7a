# SPDX-License-Identifier: MIT
"""Servers go to the worker whose clients wait longest. Worker layer, cold.

All workers see on the page who has idle servers and whose clients wait
(``session/sharing`` reads it). A server that comes free while somebody has waited
longer elsewhere is put aside by the engine and sent there (``offered``). One that is
idle while somebody begins to wait elsewhere is asked for, or sent, if that is still so
a moment later (``uneven``): most waits are over before a server could arrive.

    give    may I have servers of this pool
    none    no: nobody is spared now
    server  here is one, with its descriptor
    got     it has arrived, whatever came of it

Who does not answer is given no more: a worker that hangs would swallow all servers.

A server goes by way of the master, which has it count there and knows from then on
whose it is (``master/wards``), so no death comes in between. What cannot be delivered
comes back. A server on its way to a worker that dies is read by its successor, which
closes it, for the message names the process that it is for.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pooler.ipc.bus import BusMessage

LOOK_AGAIN_S = 0.0045  # behind a fifth of PATIENCE_US of session/sharing
ASK_AGAIN_S = 0.02  # after a question that was answered by none, or not at all
SHUN_S = 1.0
MOST_UNANSWERED = 2  # servers on their way to one worker, which may hang
MOST_AT_ONCE = 4  # that one question brings
STALE_BEAT_S = 1.5  # a worker that has not turned for so long hangs


class Pooled(Protocol):
    """What is needed of a pool."""

    @property
    def pool_id(self) -> int:
        """The engine's."""
        ...

    @property
    def key(self) -> tuple[str, str]:
        """Database and user: how other workers call it."""
        ...


class Rig(Protocol):
    """The engine, as far as it is needed here."""

    def pool_look(self, pool_id: int) -> tuple[int, int, bool]: ...  # noqa: D102
    def pool_even(self, pool_id: int) -> None: ...  # noqa: D102
    def pool_idle_servers(self, pool_id: int) -> list[int]: ...  # noqa: D102
    def pool_stats(self, pool_id: int) -> dict[str, int]: ...  # noqa: D102
    def pool_let_go(self, pool_id: int) -> None: ...  # noqa: D102
    def server_stay(self, handle: int) -> None: ...  # noqa: D102
    def shun(self, rows: int) -> None: ...  # noqa: D102


class Mail(Protocol):
    """The bus, as far as it is needed here."""

    def send(  # noqa: D102
        self, slot: int, kind: str, payload: dict[str, Any], fds: Sequence[int] = ...
    ) -> bool: ...


class Carrier(Protocol):
    """Takes servers out of this worker, and into it."""

    def pool_of(self, key: tuple[str, str]) -> Pooled | None:
        """The pool that another worker calls so; None: there is none here."""
        ...

    def send_off(self, handle: int, row: int) -> tuple[int, dict[str, Any]] | None:
        """Let go of a server for another worker: its descriptor, and what to tell it.

        It counts here until the master has it count there. None: it stays, or was
        closed.
        """
        ...

    def bury(self, fd: int, told: dict[str, Any]) -> None:
        """End one that was sent to a dead worker, whose places it had."""
        ...

    def take_in(self, fd: int, told: dict[str, Any]) -> bool:
        """Use a server of another worker, or close it (False); takes ``fd`` over."""
        ...


class Handover:
    """What one worker gives and gets."""

    def __init__(
        self,
        rig: Rig,
        mail: Mail,
        carrier: Carrier,
        *,
        later: Callable[[float, Callable[[], None]], object],
        process_of: Callable[[int], int],
        beat_age_s: Callable[[int], float],
    ) -> None:
        """``later``: of the loop. ``process_of`` a slot: 0 if it has none now.

        ``beat_age_s``: how long ago the worker in a slot has last shown that it turns.
        """
        self._rig = rig
        self._mail = mail
        self._carrier = carrier
        self._later = later
        self._process_of = process_of
        self._beat_age_s = beat_age_s
        self._looking: set[int] = set()  # pools that are looked at in a moment
        self._asked: set[int] = set()  # pools with a question under way
        self._unanswered: Counter[int] = Counter()  # servers on their way, by slot
        self._punished = 0  # a bit for each slot
        self._shunned = 0  # and of those that wait for an answer
        self.counts: dict[tuple[str, str], Counter[str]] = {}
        self.messages: dict[str, Callable[[BusMessage], None]] = {
            "give": self.asked,
            "none": self.refused,
            "server": self.got,
            "got": self.answered,
        }

    def count(self, key: tuple[str, str], what: str) -> None:
        """One more of ``given``, ``received``, ``refused``, ``returned``, ``closed``.

        Refused: it came and was closed. Returned: it could not be delivered. Closed: it
        cannot move, and another one is opened there.
        """
        self.counts.setdefault(key, Counter())[what] += 1

    def database_gone(self, name: str) -> None:
        """Nobody uses a database any more: its counts go with it."""
        for key in [key for key in self.counts if key[0] == name]:
            del self.counts[key]

    # ------------------------------------------------------------ what the engine sees

    def uneven(self, pool: Pooled) -> None:
        """Somebody waits on one side and a server is idle on the other: look again."""
        if pool.pool_id not in self._looking:
            self._looking.add(pool.pool_id)
            self._later(LOOK_AGAIN_S, lambda: self._look(pool))

    def offered(self, pool: Pooled, handle: int, row: int) -> None:
        """A server was put aside for another worker; it goes, or stays after all."""
        if not self._send(pool, handle, row):
            self._rig.server_stay(handle)

    def _look(self, pool: Pooled) -> None:
        self._looking.discard(pool.pool_id)
        serve, ask, uneven = self._rig.pool_look(pool.pool_id)
        if uneven:
            self.uneven(pool)
        else:
            self._rig.pool_even(pool.pool_id)
        if serve >= 0:
            if not self._spare(pool, serve, 1):
                self._rig.pool_let_go(pool.pool_id)
        elif ask >= 0 and pool.pool_id not in self._asked:
            self._ask(pool, ask)

    def _ask(self, pool: Pooled, row: int) -> None:
        waiting = self._rig.pool_stats(pool.pool_id)["waiting"]
        question = {"pool": pool.key, "count": min(waiting, MOST_AT_ONCE)}
        if not self._is_well(row) or not self._mail.send(row, "give", question):
            return
        self._asked.add(pool.pool_id)
        self._later(ASK_AGAIN_S, lambda: self._asked.discard(pool.pool_id))

    # ------------------------------------------------------------ giving

    def asked(self, message: BusMessage) -> None:
        """Another worker's clients wait while servers are idle here."""
        pool = self._carrier.pool_of(_key(message.payload["pool"]))
        count = min(int(message.payload["count"]), MOST_AT_ONCE)
        given = 0
        if pool is not None and not self._rig.pool_stats(pool.pool_id)["waiting"]:
            given = self._spare(pool, message.sender, count)
            if not given:  # what a client has left in one goes, for who waits
                self._rig.pool_let_go(pool.pool_id)
        if not given:
            self._mail.send(message.sender, "none", {"pool": message.payload["pool"]})

    def _spare(self, pool: Pooled, row: int, count: int) -> int:
        """Send idle servers, the one that is used least first; how many have gone."""
        given = 0
        for handle in self._rig.pool_idle_servers(pool.pool_id):
            if given == count or not self._is_well(row):
                break
            given += self._send(pool, handle, row)
        return given

    def _send(self, pool: Pooled, handle: int, row: int) -> bool:
        if not self._is_well(row):
            return False
        process = self._process_of(row)
        sent_off = self._carrier.send_off(handle, row)
        if sent_off is None:
            return False
        fd, told = sent_off
        told = {**told, "process": process, "from": os.getpid()}
        try:
            sent = self._mail.send(row, "server", told, [fd])
        except ValueError:  # more than a message may have
            sent = False
        if not sent:
            self._punish(row)
            self._carrier.take_in(fd, told)
            self.count(pool.key, "returned")
            return True
        os.close(fd)
        self._unanswered[row] += 1
        self._shun(row)
        self.count(pool.key, "given")
        return True

    # ------------------------------------------------------------ who is served

    def _is_well(self, row: int) -> bool:
        """Whether the worker in a slot reads its inbox, as far as one can see."""
        if self._shunned >> row & 1:
            return False
        if self._process_of(row) == 0 or self._beat_age_s(row) > STALE_BEAT_S:
            self._punish(row)
            return False
        return True

    def _punish(self, row: int) -> None:
        """Give a worker nothing for a while."""
        self._punished |= 1 << row
        self._shun(row)

    def _forgive(self, row: int) -> None:
        """``SHUN_S`` are over; who has not turned since is given nothing on."""
        self._punished &= ~(1 << row)
        if self._beat_age_s(row) < SHUN_S:
            self._unanswered[row] = 0  # those of a dead one; or they have been lost
        self._shun(row)
        if self._shunned >> row & 1:
            self._later(SHUN_S, lambda: self._forgive(row))

    def _shun(self, row: int) -> None:
        """Tell the engine whether a worker may be given anything now."""
        shunned = self._shunned & ~(1 << row)
        if self._punished >> row & 1 or self._unanswered[row] >= MOST_UNANSWERED:
            shunned |= 1 << row
        if shunned == self._shunned:
            return
        self._shunned = shunned
        self._rig.shun(shunned)
        if shunned >> row & 1:  # also for want of an answer, which may never come
            self._later(SHUN_S, lambda: self._forgive(row))

    def answered(self, message: BusMessage) -> None:
        """A server has arrived."""
        self._answered_by(message.sender)
        self._shun(message.sender)

    def _is_back_from(self, row: int) -> None:
        """A server could not be delivered to a worker."""
        self._answered_by(row)
        self._punish(row)

    def _answered_by(self, row: int) -> None:
        if self._unanswered[row] > 0:
            self._unanswered[row] -= 1

    # ------------------------------------------------------------ getting

    def got(self, message: BusMessage) -> None:
        """A server comes from another worker; the message keeps its descriptor."""
        told = message.payload
        key = _key(told["pool"])
        own = os.dup(message.fds[0])
        pool = self._carrier.pool_of(key)
        if pool is not None:
            self._asked.discard(pool.pool_id)
        is_back = "undelivered" in told
        # one that was sent to a process before this one may have been used by it
        if told["from" if is_back else "process"] != os.getpid():
            self._carrier.bury(own, told)
            self.count(key, "refused")
        elif not self._carrier.take_in(own, told):
            self.count(key, "refused")
        else:
            self.count(key, "returned" if is_back else "received")
        if is_back:
            self._is_back_from(told["undelivered"])
        else:
            self._mail.send(told.get("giver", message.sender), "got", {})

    def refused(self, message: BusMessage) -> None:
        """Nothing is spared there now; the question may be asked again in a moment."""


def _key(pair: Sequence[object]) -> tuple[str, str]:
    """How a message names a pool."""
    database, user = pair
    return str(database), str(user)
