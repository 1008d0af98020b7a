# SPDX-License-Identifier: MIT
"""What the console wants of the master, each answered by ``done``. Layer: master."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pooler import log
from pooler.config.live import with_setting
from pooler.config.model import Config, RunState
from pooler.config.run_state import StateError, changed, issued
from pooler.errors import ConfigError
from pooler.ipc.bus import Bus, BusMessage


@dataclass(frozen=True, slots=True)
class Drain:
    """A slow end: the workers' signal, and what the log says."""

    signum: signal.Signals
    wait: str
    farewell: str


# By what SHUTDOWN on the console calls them.
DRAINS = {
    "WAIT_FOR_CLIENTS": Drain(
        signal.SIGTERM,
        "waiting for all clients disconnect",
        "client connections dropped, exiting",
    ),
    "WAIT_FOR_SERVERS": Drain(
        signal.SIGINT,
        "waiting for all servers connections to be released",
        "server connections dropped, exiting",
    ),
}


class Pooler(Protocol):
    """What the master can be asked for."""

    @property
    def config(self) -> Config:
        """What runs now."""

    @property
    def is_ending(self) -> bool:
        """Whether the end has begun."""

    def reload(self, done: Callable[[], None]) -> bool:
        """Read the files again; False if they cannot be used."""

    def run_with(self, config: Config, done: Callable[[], None]) -> None:
        """Change over to a configuration, all processes together."""

    def drain(self, drain: Drain) -> None:
        """End when the workers have."""

    def change_state(self, state: RunState, done: Callable[[], None]) -> None:
        """Change what the operator has paused or disabled, in all processes."""

    def stop(self) -> None:
        """End at once."""

    def fail(self) -> None:
        """End at once, with the exit code of a failure."""


class Wishes:
    """Messages of the console, and what is done about them."""

    def __init__(self, pooler: Pooler, bus: Bus) -> None:
        self._pooler = pooler
        self._bus = bus
        self.messages: Mapping[str, Callable[[BusMessage], None]] = {
            "reload": self._reload,
            "set": self._set,
            "shutdown": self._shut_down,
            "state": self._change_state,
            "abandoned": lambda _: self.abandoned(),
        }

    def _reload(self, message: BusMessage) -> None:
        log.write(log.LOG, "RELOAD command issued")
        if not self._pooler.reload(lambda: self._done(message)):
            self._done(message, "the files cannot be used")

    def _set(self, message: BusMessage) -> None:
        name, value = (str(message.payload.get(key)) for key in ("name", "value"))
        try:
            config = with_setting(self._pooler.config, name, value)
        except ConfigError as error:
            self._done(message, str(error))
            return
        log.write(log.LOG, f"SET {name} command issued")
        for warning in config.warnings:
            log.write(log.WARNING, warning)
        self._pooler.run_with(config, lambda: self._done(message))

    def _change_state(self, message: BusMessage) -> None:
        verb, name = (str(message.payload.get(key)) for key in ("verb", "database"))
        log.write(log.LOG, issued(verb, name))
        try:
            if verb in ("RESUME", "SUSPEND") and self._pooler.is_ending:
                raise StateError("pooler is shutting down")
            state = changed(self._pooler.config.state, verb, name)
        except StateError as error:
            self._done(message, str(error))
            return
        self._pooler.change_state(state, lambda: self._done(message))

    def abandoned(self) -> None:
        """Nobody is at the console any more, who could say RESUME behind SUSPEND."""
        if self._pooler.config.state.suspended:
            log.write(log.LOG, "admin disappeared when suspended, doing RESUME")
            self._resume()

    def _resume(self) -> None:
        state = changed(self._pooler.config.state, "RESUME", "")
        self._pooler.change_state(state, lambda: None)

    def _shut_down(self, message: BusMessage) -> None:
        log.write(log.LOG, "SHUTDOWN command issued")
        how = str(message.payload.get("how"))
        if how not in DRAINS:
            self._pooler.stop()
        elif self._pooler.is_ending:
            self._done(message, "pooler is shutting down")
        else:
            if self._pooler.config.state.suspended:
                self._resume()  # who is not read never leaves
            self._pooler.drain(DRAINS[how])
            self._done(message)

    def _done(self, message: BusMessage, problem: str = "") -> None:
        number = message.payload.get("number")
        self._bus.send(message.sender, "done", {"number": number, "problem": problem})
