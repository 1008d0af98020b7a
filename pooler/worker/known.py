# SPDX-License-Identifier: MIT
"""Logins that the engine leads alone, because one like them was let in. Worker, cold.

What a login has come to depends on its packet, where it comes from, the configuration,
and what servers say at their login and make of values. The first two are what the
engine looks up (``io/logins``); when anything else changes, all is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable

from pooler import log
from pooler.config.settings import Settings
from pooler.io.engine import Engine
from pooler.io.tls_context import TlsContext
from pooler.ipc.board import Board
from pooler.login.client import ClientLogin
from pooler.login.outcomes import LedElsewhere, LoggedIn
from pooler.worker.cancel import KEY_BYTES, LONG_KEY_BYTES
from pooler.worker.client_places import ClientLimits
from pooler.worker.pool import Greeting, Pool
from pooler.worker.refusals import client_tag

MOST_PACKET_BYTES = 2048
MOST_NAMED = 4096


class KnownLogins:
    """What the engine of one worker knows of logins, and how the log calls them."""

    def __init__(
        self, engine: Engine, board: Board, slot: int, limits: ClientLimits
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._board = board
        self._slot = slot
        self._remembers = True
        self._stopped = False
        self._names: dict[int, tuple[str, str]] = {}  # by number: database and user
        self._found: dict[str, list[int]] = {}  # numbers by user that was asked for
        self._found_count = 0

    def configure(self, settings: Settings, context: TlsContext | None) -> None:
        """Forget all; from now on logins follow this configuration.

        Python has to be asked each time where an address may not fail too often, and
        where each client is told a name of its own.
        """
        self._remembers = not (
            settings.max_failed_logins
            or settings.application_name_add_host
            or self._stopped
        )
        self._found.clear()
        self._engine.logins_configure(
            client_cells=self._board.column("clients"),
            slot=self._slot,
            full=settings.max_client_conn == 0,
            peer_id=settings.peer_id,
            context=context,
            tell_logins=settings.log_connections,
            tell_closes=settings.log_disconnections,
        )
        self._limits.let_go()

    def stop(self) -> None:
        """Nobody is let in any more without being looked at."""
        self._stopped = True
        self._remembers = False
        self._engine.logins_forget()

    def remember(
        self,
        handle: int,
        login: ClientLogin,
        accepted: LoggedIn,
        pool: Pool,
        greeting: Greeting,
        notice: bytes,
        kept_for_s: Callable[[str, str], float],
        user: bytes = b"",
    ) -> None:
        """A client is about to be admitted; the next one like it needs no Python.

        ``kept_for_s``: how long the secret that was found of a user counts. ``user``:
        as whom it logs in, if that is not the user of its pool.
        """
        if self._limits.held >= MOST_NAMED:
            self._engine.logins_forget()
            self._limits.let_go()
        known = login.remembered() if self._remembers else None
        if known is None or len(known.packet) > MOST_PACKET_BYTES:
            return
        valid_us = 0
        if known.found:
            valid_us = int(1e6 * kept_for_s(accepted.user, accepted.database))
            if not valid_us:
                return
        places = self._limits.hold(accepted.database, accepted.user)
        number = self._engine.login_remember(
            handle,
            known.packet,
            pool.pool_id,
            greeting.values,
            greeting.messages + notice,
            before=known.before,
            question=known.question,
            secret=known.secret,
            valid_us=valid_us,
            key_bytes=LONG_KEY_BYTES if accepted.minor_protocol else KEY_BYTES,
            user=user,
            places=places.accounts,
            limits=places.limits,
        )
        if number:
            # those of rows that are gone are not asked for any more, but for a moment
            while len(self._names) >= MOST_NAMED:
                del self._names[next(iter(self._names))]
            self._names[number] = (accepted.database, accepted.user)
            if known.found:
                self._note_found(accepted.user, number)

    def _note_found(self, user: str, number: int) -> None:
        """Rows run out and come again, so once in a while all begin anew."""
        self._found_count += 1
        if self._found_count > MOST_NAMED:
            self._engine.logins_forget()
            self._found.clear()
            self._found_count = 0
        self._found.setdefault(user, []).append(number)

    def forget(self, user: str) -> None:
        """A login of a user has failed whose secret was found: it may have changed."""
        for number in self._found.pop(user, ()):
            self._engine.login_forget(number)

    def led(self, handle: int, login: ClientLogin) -> LedElsewhere | None:
        """What the engine has done of a login that is Python's from here on."""
        asked_tls, secured, proof = self._engine.login_state(handle)
        login.resumed(asked_tls=asked_tls, secured=secured)
        return None if proof is None else LedElsewhere(*proof)

    def log_login(self, handle: int, number: int, peer: object) -> None:
        """The engine has let a client in."""
        database, user = self._names.get(number, ("?", "?"))
        where = peer if isinstance(peer, tuple) else ("?", 0)
        log_login(self._engine, handle, database, user, where, later=True)


def log_login(
    engine: Engine,
    handle: int,
    database: str,
    user: str,
    peer: tuple[str, int],
    replication: str = "",
    *,
    later: bool = False,
) -> None:
    """The line of ``log_connections``, as PgBouncer has it.

    ``later``: the client is in already, so the line may wait for others.
    """
    try:
        facts = engine.client_tls(handle)
        tls = "no" if facts is None else f"{facts[0]}/{facts[1]}"
    except LookupError:
        tls = "?"  # it has left meanwhile
    log.write(
        log.LOG,
        f"login attempt: db={database} user={user} tls={tls}"
        f" replication={replication or 'none'}",
        tag=client_tag(handle, f"{database}/{user}", peer),
        later=later,
    )
