# SPDX-License-Identifier: MIT
"""Places of clients: the limits of their number, over all workers. Worker layer, cold.

A client takes a place when it has said where it wants to go, and has it until it has
left. Logins that the engine leads take theirs by the same accounts (``io/logins``),
which are held open as long as such logins are known. One of the console is a client of
its database and of its user, but no part of ``max_client_conn``; an operator counts and
is let in, whatever the limits.

Counted are also databases and users without a limit, so that one which a reload brings
is right at once; but names that clients may have made up only if there is a limit for
them, until the client has proved who it is.

Source: PgBouncer documentation, "max_client_conn", "max_db_client_connections",
"max_user_client_connections".
"""

from __future__ import annotations

from typing import NamedTuple

from pooler.board.page import Kind, PageFull
from pooler.config.model import RESERVED_DATABASE
from pooler.errors import TOO_MANY_CONNECTIONS, LoginError
from pooler.io.engine import Engine
from pooler.worker.pools import Pools

NO_ACCOUNT = 0xFFFFFFFF
TOO_MANY = "no more connections allowed (max_client_conn)"
# By what ``Engine.client_take_place`` returns.
REFUSALS = (
    "",
    TOO_MANY,
    "client connections exceeded (max_db_client_connections)",
    "client connections exceeded (max_user_client_connections)",
)


class ClientPlaces(NamedTuple):
    """The accounts of everybody, of a database, of a user, and their limits."""

    accounts: tuple[int, int, int]
    limits: tuple[int, int, int]


class ClientLimits:
    """Takes places for the clients of one worker."""

    def __init__(self, engine: Engine, pools: Pools) -> None:
        self._engine = engine
        self._pools = pools
        accounts = pools.accounts
        self._page, self._row = accounts.page, accounts.row
        self._everybody = self._page.open(self._row, Kind.EVERYBODY)
        self._held: dict[tuple[str, str], ClientPlaces] = {}
        engine.logins_share(self._page)

    def take(self, handle: int, database: str, user: str, *, is_operator: bool) -> None:
        """Take a place for a client; LoginError if there is none, LookupError.

        ``is_operator``: of the console, and may do everything there.
        """
        is_console = database == RESERVED_DATABASE
        if not is_console and not self._pools.config.settings.max_client_conn:
            raise LoginError(TOO_MANY, TOO_MANY_CONNECTIONS)
        places = self._open(database, user)
        limits = (0, 0, 0) if is_operator else places.limits
        try:
            refused = self._engine.client_take_place(handle, places.accounts, limits)
        finally:
            self._close(places)  # they stay as long as the client counts there
        if refused:
            raise LoginError(REFUSALS[refused], TOO_MANY_CONNECTIONS)

    def proved(self, handle: int, database: str, user: str) -> None:
        """A client has proved its names, and counts for them; errors as above."""
        places = self._open(database, user, proved=True)
        try:
            self._engine.client_count_for(handle, places.accounts)
        finally:
            self._close(places)

    def hold(self, database: str, user: str) -> ClientPlaces:
        """The places of clients that the engine will let in; until ``let_go``."""
        names = (database, user)
        if names not in self._held:
            self._held[names] = self._open(*names, proved=True)
        return self._held[names]

    @property
    def held(self) -> int:
        """How many names are held."""
        return len(self._held)

    def let_go(self) -> None:
        """The engine knows no logins any more."""
        for places in self._held.values():
            self._close(places)
        self._held.clear()

    def let_go_of(self, database: str) -> None:
        """The engine knows no logins to a database any more."""
        for names in [names for names in self._held if names[0] == database]:
            self._close(self._held.pop(names))

    def _open(self, database: str, user: str, *, proved: bool = False) -> ClientPlaces:
        """``proved``: no client has made these names up."""
        config = self._pools.config
        is_console = database == RESERVED_DATABASE
        entry = self._pools.database(database)
        limit = (
            config.settings.max_db_client_connections
            if entry is None
            else config.max_db_client_connections(entry)
        )
        user_limit = config.max_user_client_connections(user)
        is_known = is_console or proved or database in config.databases
        accounts = [
            NO_ACCOUNT if is_console else self._everybody,
            NO_ACCOUNT,
            NO_ACCOUNT,
        ]
        try:
            if is_known or (limit and entry is not None):
                accounts[1] = self._page.open(self._row, Kind.DATABASE, database)
            if proved or user_limit or user in config.userlist:
                accounts[2] = self._page.open(self._row, Kind.USER, user)
        except PageFull as error:
            self._close_all(accounts[1:])
            raise LoginError(str(error), TOO_MANY_CONNECTIONS) from None
        everybody, of_database, of_user = accounts
        return ClientPlaces(
            (everybody, of_database, of_user),
            (config.settings.max_client_conn, limit, user_limit),
        )

    def _close(self, places: ClientPlaces) -> None:
        self._close_all(places.accounts[1:])

    def _close_all(self, accounts: list[int] | tuple[int, ...]) -> None:
        for account in accounts:
            if account != NO_ACCOUNT:
                self._page.close(self._row, account)
