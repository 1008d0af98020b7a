# SPDX-License-Identifier: MIT
"""When servers may be opened again after failures, and who hears of them.

Worker layer, cold, without a clock of its own. A pool that fails is tried by one login
at a time, after pauses that grow to ``server_login_retry``; it is open again when one
has logged in.
"""

from __future__ import annotations

import random

from pooler.errors import (
    SQLCLIENT_UNABLE_TO_CONNECT,
    LocalResourceError,
    LoginError,
    NoAddressError,
)
from pooler.login.server import ServerLoginError
from pooler.worker.server_tls import TlsStartError

# Logins under way at once, per pool: PostgreSQL forks a process for each.
LOGINS_AT_ONCE = 4
LOCAL_RETRY_S = 1.0
SHORTEST_S = 0.1  # between two tries that nobody has asked for
STEPS = 4  # the pause doubles so many times until it is server_login_retry
SPREAD = 0.2  # it is up to a fifth longer, so that not all come at once
# Where a server logged in so long ago, what fails now is another thing.
FORGIVEN_S = 10.0

# PostgreSQL documentation, "PostgreSQL Error Codes": insufficient resources, operator
# intervention (it starts, it stops). They pass by themselves.
PASSING_CLASSES = frozenset({"53", "57"})


def is_hopeless(error: LoginError) -> bool:
    """Whether those who wait for a server should be told now, rather than wait.

    Yes when PostgreSQL refused the login or TLS, or asks for a secret that we have not,
    when what answers is no PostgreSQL, and when a name leads nowhere. A server that
    cannot be reached, is starting up (57P03) or is full (53300) may serve within
    ``query_wait_timeout``.
    """
    if isinstance(error, (TlsStartError, NoAddressError)):
        return True
    if not isinstance(error, ServerLoginError):
        return not isinstance(error, LocalResourceError) and (
            error.sqlstate != SQLCLIENT_UNABLE_TO_CONNECT
        )
    return error.server_message is None or error.sqlstate[:2] not in PASSING_CLASSES


class Backoff:
    """What the logins of one pool have come to."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self.failures = 0  # in a row, one for each pause
        self._retry_at_s = 0.0
        self._failed_at_s = 0.0
        self._opened_at_s: float | None = None
        self.failure: LoginError | None = None
        self._is_hopeless = False
        self.era = 0  # what has begun in another one says nothing of this one

    @property
    def hopeless(self) -> bool:
        """Whether it has failed in a way that waiting does not help."""
        return self.failure is not None and self._is_hopeless

    def pause_s(self, now_s: float) -> float:
        """How long no server is opened; 0: now one may."""
        return 0.0 if self.failure is None else max(0.0, self._retry_at_s - now_s)

    def room(self, connecting: int) -> int:
        """How many logins may begin beside those under way."""
        return max(0, (LOGINS_AT_ONCE if self.failure is None else 1) - connecting)

    def cached(self) -> LoginError:
        """What a client hears that comes during a pause."""
        assert self.failure is not None  # noqa: S101 - there is no pause without
        return LoginError(
            "server login has been failing, cached error: "
            f"{self.failure.message} (server_login_retry)",
            self.failure.sqlstate,
        )

    def failed(self, error: LoginError, now_s: float, retry_s: float) -> bool:
        """A login, or a server before anybody has used it; a pause begins.

        Those that were under way beside it make the pause no longer (False).
        """
        paused = self.pause_s(now_s) > 0
        self.failure = error
        self._is_hopeless = is_hopeless(error)
        self._failed_at_s = now_s
        if paused:
            return False
        if self._opened_at_s is not None and now_s - self._opened_at_s > FORGIVEN_S:
            self.failures = 0
        self.failures += 1
        if isinstance(error, LocalResourceError):
            retry_s = min(retry_s, LOCAL_RETRY_S)
        elif not is_hopeless(error):
            retry_s = max(SHORTEST_S, retry_s / 2 ** max(0, STEPS - self.failures))
        self._retry_at_s = now_s + retry_s * (1 + SPREAD * self._draw.random())
        return True

    def heard(
        self,
        error: LoginError,
        now_s: float,
        *,
        pause_s: float,
        failures: int,
        hopeless: bool,
    ) -> None:
        """It has failed in another worker, which tries again first."""
        if self.failure is None or not self.pause_s(now_s):
            self.failure = error
            self._is_hopeless = hopeless
        self._failed_at_s = now_s
        self.failures = max(self.failures, failures)
        later_s = pause_s * (1 + SPREAD * (1 + self._draw.random()))
        self._retry_at_s = max(self._retry_at_s, now_s + later_s)

    def opened(self, begun_s: float, now_s: float) -> bool:
        """A server has logged in; a failure that came after it had begun counts on.

        True: those before it count no more.
        """
        self._opened_at_s = now_s
        if self.failure is None or begun_s < self._failed_at_s:
            return False
        self.failure = None
        return True

    def forget(self) -> None:
        """What was wrong may be right by now."""
        self.era += 1
        self.failure = None
        self.failures = 0
