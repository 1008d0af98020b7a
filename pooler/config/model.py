# SPDX-License-Identifier: MIT
"""The configuration: one frozen value. Config layer.

How a value is found: user beats database beats [pgbouncer]; ``None`` is "not said".
A database without ``host`` is looked for in ``unix_socket_dir``, as PgBouncer does, not
in libpq's built-in directory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from pooler.config.hba import Hba
from pooler.config.kinds import (
    AUTO_WORKERS,
    PoolMode,
    usable_cores,
)
from pooler.config.ldap import LdapOptions
from pooler.config.settings import (
    MAX_DATABASE_NAME_BYTES,
    Database,
    Peer,
    Settings,
    User,
)
from pooler.config.tls import (
    ServerTls,
    server_tls_of,
)
from pooler.config.userlist import Secret

T = TypeVar("T")

MAIN = "pgbouncer"
DATABASES = "databases"
USERS = "users"
PEERS = "peers"
SECTIONS = (MAIN, DATABASES, USERS, PEERS)

# The console is reached under this name, so no entry and no `*` may take it.
RESERVED_DATABASE = "pgbouncer"
RESERVED_AUTH_DBNAME = (
    f'cannot use the reserved "{RESERVED_DATABASE}" database as an auth_dbname'
)
FALLBACK_DATABASE = "*"
MAX_PEER_ID = 65535


def empty() -> Mapping[Any, Any]:
    """A mapping that nobody can fill."""
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where something was written."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """What an operator has changed on the console; no file says it.

    ``disabled``: databases that take no new clients. ``paused``: all hand out no
    server; ``paused_databases``: these do not, whatever ``paused`` is. ``suspended``:
    nothing is read, and nobody let in.
    """

    disabled: frozenset[str] = frozenset()
    paused: bool = False
    paused_databases: frozenset[str] = frozenset()
    suspended: bool = False

    def holds(self, database: str) -> bool:
        """Whether a database hands out no server."""
        return self.paused or database in self.paused_databases


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All that the files say, and the operator since.

    ``autodb`` is the ``*`` entry, with its name ``*``.
    """

    path: str
    settings: Settings = field(default_factory=Settings)
    databases: Mapping[str, Database] = field(default_factory=empty)
    users: Mapping[str, User] = field(default_factory=empty)
    peers: Mapping[int, Peer] = field(default_factory=empty)
    autodb: Database | None = None
    userlist: Mapping[str, Secret] = field(default_factory=empty)
    hba: Hba | None = None  # None: auth_type is another
    ldap: LdapOptions | None = field(default=None, repr=False)  # of auth_type = ldap
    state: RunState = RunState()
    warnings: tuple[str, ...] = ()
    # (section, key or entry name) -> where it was said last.
    origins: Mapping[tuple[str, str], Origin] = field(
        default_factory=empty, repr=False, compare=False
    )

    def database(self, name: str) -> Database | None:
        """The entry of that name, or the ``*`` entry filled in for it.

        Never the console's database, and nothing for a name that PostgreSQL could not
        have either (empty, or over 63 bytes).
        """
        if name == RESERVED_DATABASE:
            return None
        exact = self.databases.get(name)
        if exact is not None or self.autodb is None:
            return exact
        # A client may send bytes that are no text; they arrive as surrogates.
        length = len(name.encode(errors="surrogateescape"))
        if not 1 <= length <= MAX_DATABASE_NAME_BYTES:
            return None
        dbname = self.autodb.dbname or name
        return dataclasses.replace(self.autodb, name=name, dbname=dbname)

    def hosts(self, database: Database) -> tuple[str, ...]:
        """Where the database's servers are; empty when there is nowhere to look."""
        listed = database.host or self.settings.unix_socket_dir
        hosts = (host.strip() for host in listed.split(","))
        return tuple(host for host in hosts if host)

    def all_hosts(self) -> frozenset[str]:
        """Each that a database or a peer has."""
        listed = map(self.hosts, all_databases(self).values())
        peers = (peer.host for peer in self.peers.values())
        return frozenset((*(host for hosts in listed for host in hosts), *peers))

    def server_tls(self, database: Database) -> ServerTls:
        """TLS towards the servers of the database."""
        return server_tls_of(self.settings, database)

    def all_server_tls(self) -> frozenset[ServerTls]:
        """Each that some database has."""
        return frozenset(map(self.server_tls, all_databases(self).values()))

    def server_secrets(self) -> frozenset[str]:
        """All that may be said to servers."""
        passwords = (entry.password for entry in all_databases(self).values())
        listed = (secret.text for secret in self.userlist.values())
        return frozenset((*filter(None, passwords), *listed))

    def pool_size(self, database: Database, user: str) -> int:
        """Server connections of the pool, over all workers; 0 is no limit.

        In: user  the one the pool logs in as: the forced user, if there is one
        """
        return self._narrowest(
            user,
            lambda entry: entry.pool_size,
            database.pool_size,
            self.settings.default_pool_size,
        )

    def peer_pool_size(self, peer: Peer) -> int:
        """Cancel requests on their way to a peer, over all workers; 0 is no limit."""
        own = peer.pool_size
        return self.settings.default_pool_size if own is None else own

    def reserve_pool_size(self, database: Database, user: str) -> int:
        """Servers beyond ``pool_size`` for clients that have waited long; 0: none."""
        return self._narrowest(
            user,
            lambda entry: entry.reserve_pool_size,
            database.reserve_pool_size,
            self.settings.reserve_pool_size,
        )

    def min_pool_size(self, database: Database) -> int:
        """Servers that a pool with clients has at least, over all workers."""
        own = database.min_pool_size
        return self.settings.min_pool_size if own is None else own

    def max_db_connections(self, database: Database) -> int:
        """Servers of a database, of all its pools; 0 is no limit."""
        return database.max_db_connections or self.settings.max_db_connections

    def max_user_connections(self, user: str) -> int:
        """Servers of a user, in all databases; 0 is no limit."""
        entry = self.users.get(user)
        own = None if entry is None else entry.max_user_connections
        return self.settings.max_user_connections if own is None else own

    def max_db_client_connections(self, database: Database) -> int:
        """Clients of a database; 0 is no limit."""
        return (
            database.max_db_client_connections
            or self.settings.max_db_client_connections
        )

    def max_user_client_connections(self, user: str) -> int:
        """Clients that log in as a user; 0 is no limit."""
        entry = self.users.get(user)
        own = None if entry is None else entry.max_user_client_connections
        return self.settings.max_user_client_connections if own is None else own

    def pool_mode(self, database: Database, user: str) -> PoolMode:
        """The configured mode."""
        return self._narrowest(
            user,
            lambda entry: entry.pool_mode,
            database.pool_mode,
            self.settings.pool_mode,
        )

    def query_wait_timeout(self, database: Database, user: str) -> float:
        """Seconds that a client of the pool waits for a server; 0 is for ever."""
        return self._narrowest(
            user,
            lambda entry: entry.query_wait_timeout,
            database.query_wait_timeout,
            self.settings.query_wait_timeout,
        )

    def server_lifetime(self, database: Database) -> float:
        """Seconds that a server of the database is used; 0 is once."""
        own = database.server_lifetime
        return self.settings.server_lifetime if own is None else own

    def limit_of_user(self, name: str, user: str) -> float:
        """Seconds of a limit that [users] may have instead of [pgbouncer]; 0: none.

        In: name  client_idle_timeout, query_timeout, transaction_timeout,
                  idle_transaction_timeout
        """
        seconds: float = self._narrowest(
            user,
            lambda entry: getattr(entry, name),
            None,
            getattr(self.settings, name),
        )
        return seconds

    @property
    def worker_count(self) -> int:
        """Worker processes to run; ``auto`` is one for each usable core."""
        workers = self.settings.workers
        return usable_cores() if workers == AUTO_WORKERS else workers

    def _narrowest(
        self, user: str, of_user: Callable[[User], T | None], own: T | None, wide: T
    ) -> T:
        entry = self.users.get(user)
        said = None if entry is None else of_user(entry)
        if said is not None:
            return said
        return wide if own is None else own


def all_databases(config: Config) -> dict[str, Database]:
    """All entries, the fallback under the name ``*``."""
    fallback = {} if config.autodb is None else {FALLBACK_DATABASE: config.autodb}
    return {**config.databases, **fallback}
