# SPDX-License-Identifier: MIT
"""What signals ask of the master. Layer: master."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping

from pooler import log
from pooler.config.run_state import StateError, changed
from pooler.master.wishes import DRAINS, Pooler

# What the log says of a signal that is heeded, and of one that is not.
USR1_TEXTS = (
    "got SIGUSR1, pausing all activity",
    "got SIGUSR1, but already paused/suspended",
)
USR2_TEXTS = (
    "got SIGUSR2, continuing from {}",
    "got SIGUSR2, but not paused/suspended",
)


class SignalOrders:
    """Carries them out; ``handlers`` by signal."""

    def __init__(self, master: Pooler) -> None:
        self._master = master
        self.handlers: Mapping[signal.Signals, Callable[[], None]] = {
            signal.SIGTERM: lambda: self._shut_down(signal.SIGTERM),
            signal.SIGINT: lambda: self._shut_down(signal.SIGINT),
            signal.SIGQUIT: self._on_sigquit,
            signal.SIGHUP: self._on_sighup,
            signal.SIGUSR1: self._on_sigusr1,
            signal.SIGUSR2: self._on_sigusr2,
        }

    def _on_sigquit(self) -> None:
        log.write(log.LOG, "got SIGQUIT, fast exit")
        self._master.stop()

    def _on_sighup(self) -> None:
        log.write(log.LOG, "got SIGHUP, re-reading config")
        self._master.reload(_nothing)

    def _on_sigusr1(self) -> None:
        self._change_state("PAUSE", USR1_TEXTS)

    def _on_sigusr2(self) -> None:
        if self._master.is_ending:
            log.write(log.LOG, "got SIGUSR2 while shutting down, ignoring")
        else:
            self._change_state("RESUME", USR2_TEXTS)

    def _change_state(self, verb: str, texts: tuple[str, str]) -> None:
        done, already = texts
        old = self._master.config.state
        try:
            state = changed(old, verb, "")
        except StateError:
            log.write(log.LOG, already)
            return
        log.write(log.LOG, done.format("SUSPEND" if old.suspended else "PAUSE"))
        self._master.change_state(state, _nothing)

    def _shut_down(self, signum: signal.Signals) -> None:
        master = self._master
        if master.is_ending:
            log.write(log.LOG, f"got {signum.name} while shutting down, fast exit")
            master.stop()
            return
        drain = next(one for one in DRAINS.values() if one.signum == signum)
        log.write(log.LOG, f"got {signum.name}, shutting down, {drain.wait}")
        if master.config.state.suspended:
            log.write(log.FATAL, "suspend was in progress, going down immediately")
            master.fail()
            return
        master.drain(drain)


def _nothing() -> None:
    """Nobody waits for it."""
