# SPDX-License-Identifier: MIT
"""A client that is logging in, as its worker knows it. Worker layer, cold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from pooler.errors import (
    LoginError,
    SilentLoginError,
)
from pooler.io.tls_context import TlsContext
from pooler.login import packets
from pooler.login.client import ClientLogin
from pooler.login.outcomes import (
    LoggedIn,
)
from pooler.worker.pool import Pool
from pooler.worker.words import RefusedValueError


def farewell_of(error: LoginError) -> bytes:
    """What a client is sent whose login ends with an error."""
    if isinstance(error, SilentLoginError):
        return b""
    if isinstance(error, RefusedValueError):  # PostgreSQL looks at values last
        return packets.authentication_ok() + error.report
    return packets.error_response("FATAL", error.sqlstate, error.message)


def who(arrival: Arrival | None) -> str:
    """How a log line names a client that is not admitted."""
    database, user = arrival.login.asked if arrival else ("", "")
    return f"{database or '(nodb)'}/{user or '(nouser)'}"


def _nothing() -> None:
    """Nothing is waited for."""


@dataclass(slots=True)
class Arrival:
    """A client that is logging in."""

    login: ClientLogin
    context: TlsContext | None
    direct: bool = False  # its first byte was one of TLS
    # Asks for what the login waits for: what comes meanwhile stays unread.
    pending: asyncio.Task[None] | None = None
    checked: bool = False  # it has a place, and its address may try at all
    asked: bool = False  # a database, for the secret
    accepted: LoggedIn | None = None
    pool: Pool | None = None  # of a replication client, its own
    waits: asyncio.TimerHandle | None = None  # for a server, until it is refused
    unwait: Callable[[], None] = _nothing  # it waits for the welcome of its pool

    def end(self) -> None:
        """It is admitted, or never will be."""
        if self.pending is not None:
            self.pending.cancel()
        self.served()

    def served(self) -> None:
        """It waits for no server any more."""
        self.unwait()
        if self.waits is not None:
            self.waits.cancel()

    def is_bound_for(self, pool: Pool) -> bool:
        """Whether it will be a client of this pool, as soon as it is admitted."""
        accepted = self.accepted
        return accepted is not None and (
            (accepted.database, accepted.server_user) == (pool.database.name, pool.user)
        )
