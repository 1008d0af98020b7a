# SPDX-License-Identifier: MIT
"""Threads for what blocks: checks of passwords by PAM and LDAP. Worker layer, cold.

The loop asks and goes on; a check holds one thread for as long as it takes. A library
that hangs cannot be ended, so a client that gives up leaves its thread behind: the
number of threads bounds what that costs, and whoever finds all of them taken and the
queue full is refused at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pooler import log
from pooler.errors import TOO_MANY_CONNECTIONS, LoginError

SLOW_S = 5.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check has come to. Empty ``why_not``: the password is right.

    ``delay_s``: how long a wrong one is to wait for its answer.
    """

    why_not: str = ""
    delay_s: float = 0.0


def _let_go() -> None:
    """What cannot be ended."""


@dataclass(slots=True, eq=False)
class _Case:
    """One check: waiting, under way, or given up by its client."""

    work: Callable[[], Verdict]
    cut: Callable[[], None]
    done: asyncio.Future[Verdict]
    loop: asyncio.AbstractEventLoop
    begun_s: float = 0.0  # 0: it waits
    given_up: bool = False


class Judges:
    """A bounded pool of threads with a bounded queue; used from one loop.

    Threads are made when they are first needed. They are daemons: one that hangs in a
    library does not keep the process from ending.
    """

    def __init__(self, threads: int, room: int) -> None:
        """``room``: how many checks may wait."""
        self._limit = threads
        self._room = room
        self._changed = threading.Condition()
        self._queue: deque[_Case] = deque()
        self._threads = 0
        self._free = 0  # of them, those that will take what comes next
        self._given_up = 0
        self._closed = False

    @property
    def given_up(self) -> int:
        """Threads that still work for a client that is gone."""
        return self._given_up

    @property
    def waiting(self) -> int:
        """Checks that no thread has begun."""
        return len(self._queue)

    def resize(self, threads: int, room: int) -> None:
        """Other limits from now on; a thread too many ends with its check."""
        with self._changed:
            self._limit, self._room = threads, room
            self._changed.notify_all()

    def close(self) -> None:
        """End the threads; one that is in a check ends behind it."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()

    async def ask(
        self, work: Callable[[], Verdict], cut: Callable[[], None] = _let_go
    ) -> Verdict:
        """Run ``work`` in a thread and wait for what it says.

        LoginError at once if too many wait. Whoever is cancelled gives its check up:
        ``cut`` is called to end one that has begun, as far as that can be done.
        """
        loop = asyncio.get_running_loop()
        case = _Case(work, cut, loop.create_future(), loop)
        self._admit(case)
        try:
            return await case.done
        except asyncio.CancelledError:
            self._give_up(case)
            raise

    def _admit(self, case: _Case) -> None:
        with self._changed:
            ahead = len(self._queue) - self._free
            wants_thread = ahead >= 0 and self._threads < self._limit
            if not (wants_thread and self._start_thread()) and ahead >= self._room:
                raise LoginError(
                    "too many logins wait for an answer",
                    TOO_MANY_CONNECTIONS,
                    why=f"{ahead} wait for {self._threads} threads, of which"
                    f" {self._given_up} work for clients that are gone"
                    " (external_auth_queue, external_auth_threads)",
                )
            self._queue.append(case)
            self._changed.notify()

    def _start_thread(self) -> bool:
        """One more; false if the system gives none and there are others."""
        try:
            threading.Thread(target=self._work, daemon=True, name="judge").start()
        except RuntimeError as error:
            if self._threads:
                return False
            raise LoginError("out of threads", TOO_MANY_CONNECTIONS) from error
        self._threads += 1
        self._free += 1
        return True

    def _give_up(self, case: _Case) -> None:
        with self._changed:
            if case in self._queue:
                self._queue.remove(case)
                return
            if case.done.done() and not case.done.cancelled():
                return
            case.given_up = True
            self._given_up += 1
        case.cut()
        took_s = time.monotonic() - case.begun_s
        if took_s >= SLOW_S:
            log.write(
                log.WARNING,
                f"the check of a password has not ended after {took_s:.0f} s;"
                f" nobody waits for it, it holds one of {self._threads} threads"
                f" ({self._given_up} are held so)",
            )

    # In the threads.

    def _work(self) -> None:
        while True:
            case = self._next()
            if case is None:
                return
            try:
                verdict = case.work()
            except Exception as error:
                # of ours: what a library says is a verdict
                # (its text might have the password)
                verdict = Verdict(f"internal error: {type(error).__name__}")
            with self._changed:
                self._free += 1
            # the loop may be closed, when the worker ends
            with contextlib.suppress(RuntimeError):
                case.loop.call_soon_threadsafe(self._ended, case, verdict)

    def _next(self) -> _Case | None:
        """Wait for a case; None ends this thread."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._queue or self._closed or self._threads > self._limit
            )
            self._free -= 1
            if not self._queue or self._threads > self._limit:
                self._threads -= 1
                return None
            case = self._queue.popleft()
            case.begun_s = time.monotonic()
            return case

    # Back in the loop.

    def _ended(self, case: _Case, verdict: Verdict) -> None:
        if case.given_up:
            self._given_up -= 1
        elif not case.done.done():
            case.done.set_result(verdict)
