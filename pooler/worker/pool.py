# SPDX-License-Identifier: MIT
"""One pool of a worker, seen from Python. Worker layer, cold."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pooler.config.model import Config
from pooler.config.settings import Database
from pooler.errors import LoginError
from pooler.login import packets
from pooler.login.scram import ScramKeys
from pooler.parameters import TRACKED_PARAMETERS
from pooler.worker.accounts import Places
from pooler.worker.backoff import Backoff
from pooler.worker.console import DATABASE as CONSOLE_DATABASE
from pooler.worker.servers import Way
from pooler.worker.words import LABEL, Questions, Words, label

GREETINGS_KEPT = 256


def _nothing() -> None:
    """Nobody waits for room."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What clients that have the same parameter values are told and given."""

    messages: bytes  # AuthenticationOk and every ParameterStatus
    values: list[bytes | None]  # of the tracked parameters, in the engine's order


@dataclass(slots=True)
class Pool:
    """One (database, user) of this worker."""

    database: Database
    user: str
    pool_id: int
    welcome: dict[str, str] | None = None
    greetings: dict[tuple[tuple[str, str], ...], Greeting] = field(default_factory=dict)
    backoff: Backoff = field(default_factory=lambda: Backoff(random.Random()))  # noqa: S311
    retry: asyncio.TimerHandle | None = None
    finding: asyncio.Task[None] | None = None  # where its hosts are
    scram_keys: ScramKeys | None = field(default=None, repr=False)
    # What the login of a client has found: auth_file does not know the user.
    secret: str | None = field(default=None, repr=False)
    is_lent: bool = False  # the secret is a client's password, gone with the last one
    # Who waits for the first welcome, in that order, and since when (us); called with
    # why there is none, if there will not be one.
    on_welcome: dict[Callable[[LoginError | None], None], int] = field(
        default_factory=dict
    )
    # Of a replication client: what its own server is started with.
    startup: Mapping[str, str] | None = None
    abandoned: bool = False
    renewals: int = 0  # how often its servers were to be replaced by new ones
    told_left: int = 0  # of LEFT_TEXTS, what the log has said
    words: Words = field(default_factory=Words)
    questions: Questions | None = None  # None: of a replication client
    guests: int = 0  # clients that are let in once a question is answered
    on_room: Callable[[], None] = _nothing  # there may be room for its servers
    places: Places | None = None  # None: of the console, which counts nowhere

    @property
    def is_console(self) -> bool:
        """Whether its one server is the console."""
        return self.database is CONSOLE_DATABASE

    @property
    def is_awaited(self) -> bool:
        """Whether somebody logs in who will be its client."""
        return bool(self.on_welcome or self.guests)

    @property
    def key(self) -> tuple[str, str]:
        """How other workers call it."""
        return self.database.name, self.user

    @property
    def tag(self) -> str:
        """How log lines name the pool."""
        return f"{self.database.name}/{self.user}"

    @property
    def entry(self) -> Database:
        """The database, with the secret by which its servers are logged in to."""
        if self.secret is None or self.database.password is not None:
            return self.database
        return dataclasses.replace(self.database, password=self.secret)

    def end(self) -> None:
        """It is dropped: who tells it of room does nothing, and nothing leads back.

        So its memory is free at once, and not when cycles are looked for.
        """
        self.abandoned = True
        self.on_room = _nothing
        self.questions = None

    def learn_secret(self, secret: str | None) -> None:
        """Take over what the newest login has found; it has not failed yet."""
        if secret != self.secret:
            self.secret = secret
            self.scram_keys = None  # of another secret
            self.backoff.forget()

    def learn(self, welcome: dict[str, str] | None) -> None:
        """Take over what the newest server said at its login; None forgets it."""
        if welcome != self.welcome:
            self.greetings.clear()
            self.words.forget()
        self.welcome = welcome

    def in_words(self, asked: dict[str, str]) -> tuple[dict[str, str], bytes]:
        """What a client asks for as a server tells it, and the notices it gives.

        LoginError if a value is known to be refused, or cannot be followed.
        """
        welcome = self.welcome or {}
        notice = b""
        if LABEL in asked:
            text, notice = label(packets.encode(asked[LABEL]), welcome)
            asked = {**asked, LABEL: text}
        return self.words.told(asked, welcome), notice

    def greeting(self, values: dict[str, str], tracked: tuple[str, ...]) -> Greeting:
        """The greeting of a client that has these parameter values.

        Made once for all clients that have the same: drivers ask for the same values
        again and again, and this is half of what a login costs. A parameter that the
        server does not report is told to nobody.
        """
        key = tuple(values.items())
        known = self.greetings.get(key)
        if known is None:
            welcome = self.welcome or {}
            told = {name: values.get(name, text) for name, text in welcome.items()}
            messages = [packets.authentication_ok()]
            messages += (packets.parameter_status(*item) for item in told.items())
            known = Greeting(b"".join(messages), tracked_values(told, tracked))
            if len(self.greetings) >= GREETINGS_KEPT:
                self.greetings.clear()
            self.greetings[key] = known
        return known


@dataclass(frozen=True, slots=True)
class Server:
    """What Python knows of a server that the engine runs."""

    pool: Pool
    way: Way
    backend_pid: int
    cancel_key: bytes = field(repr=False)
    id: int = 0  # of all connections of the pooler; as the console calls it
    has_moved: bool = False  # another worker has had it


def tracked_parameters(config: Config) -> dict[str, str]:
    """Lower-case to canonical name of the parameters that follow a client."""
    extra = config.settings.track_extra_parameters
    return {**TRACKED_PARAMETERS} | {
        name.lower(): name for name in extra if name.lower() not in TRACKED_PARAMETERS
    }


def tracked_values(
    parameters: dict[str, str], tracked: tuple[str, ...]
) -> list[bytes | None]:
    """Values in the engine's order; what cannot be put into a SET is not followed.

    Nor is what the server does not report: nobody could say whether it has the value.
    """
    values: list[bytes | None] = []
    for name in tracked:
        text = parameters.get(name)
        values.append(text.encode() if text is not None and text.isascii() else None)
    return values
