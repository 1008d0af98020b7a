# SPDX-License-Identifier: MIT
"""The configuration: one frozen value. Config layer.

``load`` reads the file, the files it includes and the auth_file, and either returns a
whole ``Config`` or raises one ConfigError; it changes nothing, so a bad file leaves the
running configuration as it is.

How a value is found: user beats database beats [pgbouncer]; ``None`` is "not said".
A database without ``host`` is looked for in ``unix_socket_dir``, as PgBouncer does, not
in libpq's built-in directory.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from pooler.config.hba import Hba, read_hba
from pooler.config.hbafile import read_words
from pooler.config.hosts import host_problem
from pooler.config.inifile import (
    Entry,
    Report,
    Section,
    parse_connect_string,
    parse_text,
    read_text,
    refuse,
)
from pooler.config.kinds import (
    AUTO_WORKERS,
    AuthType,
    PoolMode,
    Row,
    parse_value,
    printable,
    suggest,
    usable_cores,
)
from pooler.config.ldap import LdapOptions, read_ldap_options, split_options
from pooler.config.libraries import NEEDED, load_library
from pooler.config.settings import (
    MAX_DATABASE_NAME_BYTES,
    MAX_USER_NAME_BYTES,
    Database,
    Peer,
    Settings,
    Table,
    User,
    rows_by_name,
)
from pooler.config.tls import (
    ServerTls,
    check_client_tls,
    check_server_tls,
    server_tls_of,
)
from pooler.config.userlist import Secret, parse_userlist
from pooler.errors import ConfigError

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

# Authentication that never looks at a stored secret: a missing auth_file is no error.
WITHOUT_AUTH_FILE = frozenset({AuthType.ANY, AuthType.PAM, AuthType.LDAP})


def _empty() -> Mapping[Any, Any]:
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
    databases: Mapping[str, Database] = field(default_factory=_empty)
    users: Mapping[str, User] = field(default_factory=_empty)
    peers: Mapping[int, Peer] = field(default_factory=_empty)
    autodb: Database | None = None
    userlist: Mapping[str, Secret] = field(default_factory=_empty)
    hba: Hba | None = None  # None: auth_type is another
    ldap: LdapOptions | None = field(default=None, repr=False)  # of auth_type = ldap
    state: RunState = RunState()
    warnings: tuple[str, ...] = ()
    # (section, key or entry name) -> where it was said last.
    origins: Mapping[tuple[str, str], Origin] = field(
        default_factory=_empty, repr=False, compare=False
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


# ---------------------------------------------------------------------------
# Reading


class _Loader:
    """Collects what the files say; ``config`` freezes it."""

    def __init__(self, path: str, report: Report = refuse) -> None:
        self.path = path
        self.report = report
        self.values: dict[str, Any] = {}
        self.databases: dict[str, Database] = {}
        self.users: dict[str, User] = {}
        self.peers: dict[int, Peer] = {}
        self.autodb: Database | None = None
        self.origins: dict[tuple[str, str], Origin] = {}
        self.main: Origin | None = None
        self.warnings: list[str] = []
        self.take_entry: Mapping[str, Callable[[Entry], None]] = {
            MAIN: self.take_setting,
            DATABASES: self.take_database,
            USERS: self.take_user,
            PEERS: self.take_peer,
        }

    def take(self, item: Section | Entry) -> None:
        try:
            self.take_item(item)
        except ConfigError as error:
            self.report(error)

    def take_item(self, item: Section | Entry) -> None:
        if isinstance(item, Section):
            self.take_section(item)
        elif item.section is None:
            raise ConfigError(
                f"{printable(item.key)} stands before the first section;"
                f" settings belong under [{MAIN}]",
                file=item.file,
                line=item.line,
            )
        elif item.section in self.take_entry:  # else that was told at its header
            self.take_entry[item.section](item)

    def take_section(self, section: Section) -> None:
        if section.name not in self.take_entry:
            shown = printable(section.name)
            raise ConfigError(
                f"unknown section {shown}, not one of {', '.join(SECTIONS)}"
                f"{suggest(section.name, SECTIONS)}",
                file=section.file,
                line=section.line,
            )
        if section.name != MAIN:
            return
        here = Origin(section.file, section.line)
        if self.main is not None:
            self.warnings.append(
                f"{here}: second [{MAIN}] section; what the one at {self.main} set"
                " stays in force (PgBouncer would go back to the defaults)"
            )
        self.main = here

    def take_setting(self, entry: Entry) -> None:
        row = _find_row(Settings, entry.key, entry, owner="")
        self.values[row.name] = parse_value(
            row, entry.value, file=entry.file, line=entry.line
        )
        self.origins[MAIN, row.name] = Origin(entry.file, entry.line)

    def take_database(self, entry: Entry) -> None:
        name = entry.key
        owner = f"[{DATABASES}] {printable(name)}"
        earlier = self.note_origin(entry)
        problem = None
        if name == RESERVED_DATABASE:
            problem = "this name is reserved for the console; choose another"
        elif len(name.encode()) > MAX_DATABASE_NAME_BYTES:
            problem = f"name is longer than {MAX_DATABASE_NAME_BYTES} bytes"
        elif earlier is not None:
            # The last one would win in PgBouncer; queries in the wrong database are
            # worse than a start that is refused.
            problem = f"second entry of this name; the first is at {earlier}"
        if problem:
            raise ConfigError(problem, file=entry.file, line=entry.line, setting=owner)
        values = self.read_pairs(Database, entry, owner)
        if name == FALLBACK_DATABASE:
            self.autodb = Database(name=name, **values)
        else:
            self.databases[name] = Database(name=name, **{"dbname": name, **values})

    def take_user(self, entry: Entry) -> None:
        name = entry.key
        owner = f"[{USERS}] {printable(name)}"
        if len(name.encode()) > MAX_USER_NAME_BYTES:
            raise ConfigError(
                f"name is longer than {MAX_USER_NAME_BYTES} bytes",
                file=entry.file,
                line=entry.line,
                setting=owner,
            )
        self.warn_repeated(entry, owner)
        self.users[name] = User(name=name, **self.read_pairs(User, entry, owner))

    def take_peer(self, entry: Entry) -> None:
        owner = f"[{PEERS}] {printable(entry.key)}"
        number = entry.key if entry.key.isascii() and entry.key.isdigit() else ""
        peer_id = int(number) if 0 < len(number) < 8 else 0
        values = self.read_pairs(Peer, entry, owner)
        problem = None
        if not 1 <= peer_id <= MAX_PEER_ID:
            problem = f"the name must be a peer_id, a number from 1 to {MAX_PEER_ID}"
        elif "host" not in values:
            problem = "host is missing; write host=…"
        if problem:
            raise ConfigError(problem, file=entry.file, line=entry.line, setting=owner)
        self.warn_repeated(dataclasses.replace(entry, key=str(peer_id)), owner)
        self.peers[peer_id] = Peer(peer_id=peer_id, **values)

    def read_pairs(self, table: Table, entry: Entry, owner: str) -> dict[str, Any]:
        """The values of a connect string; of a repeated key the last counts."""
        where: dict[str, Any] = {"file": entry.file, "line": entry.line}
        values = {}
        for key, text in parse_connect_string(entry.value, **where, setting=owner):
            try:
                row = _find_row(table, key, entry, owner)
                values[row.name] = parse_value(row, text, **where, owner=owner)
            except ConfigError as error:
                self.report(error)
        return values

    def note_origin(self, entry: Entry) -> Origin | None:
        """Remember where the entry stands; returns where its name stood before."""
        key = (str(entry.section), entry.key)
        earlier = self.origins.get(key)
        self.origins[key] = Origin(entry.file, entry.line)
        return earlier

    def warn_repeated(self, entry: Entry, owner: str) -> None:
        earlier = self.note_origin(entry)
        if earlier is not None:
            self.warnings.append(
                f"{entry.file}:{entry.line}: {owner}: replaces the entry at {earlier}"
            )

    def config(self) -> Config:
        if self.main is None:
            self.report(ConfigError(f"section [{MAIN}] is missing", file=self.path))
        self.values.setdefault("conffile", self.path)
        return completed(
            Config(
                path=self.path,
                settings=Settings(**self.values),
                databases=MappingProxyType(self.databases),
                users=MappingProxyType(self.users),
                peers=MappingProxyType(self.peers),
                autodb=self.autodb,
                warnings=tuple(self.warnings),
                origins=MappingProxyType(self.origins),
            ),
            self.report,
        )


def completed(config: Config, report: Report = refuse) -> Config:
    """With what its settings name read as well; ``report`` hears what is wrong."""
    for check in (check_auth, check_tls):
        _tried(report, partial(check, config), None)
    return with_files(config, report)


def _tried(report: Report, make: Callable[[], T], otherwise: T) -> T:
    try:
        return make()
    except ConfigError as error:
        report(error)
        return otherwise


def with_files(config: Config, report: Report = refuse) -> Config:
    """With the users and rules in its files, and warnings of what is not honoured."""
    problems: list[str] = []
    read_users = partial(_read_userlist, config, problems, report)
    config = dataclasses.replace(
        config,
        userlist=_tried(report, read_users, _empty()),
        hba=_tried(report, partial(_read_hba, config, report), None),
        ldap=_tried(report, partial(_read_ldap, config), None),
    )
    _tried(report, partial(_check_libraries, config), None)
    warnings = (
        *config.warnings,
        *problems,
        *_check_hosts(config),
        *_warn_auth_dbname(config),
    )
    return dataclasses.replace(config, warnings=warnings)


def _read_userlist(
    config: Config, harmless: list[str], report: Report
) -> Mapping[str, Secret]:
    """Users; ``harmless`` gets what is wrong and does no harm."""
    path = config.settings.auth_file
    if path is None:
        return _empty()
    try:
        text = read_text(path)
    except ConfigError as error:
        problem = _at_setting(config, "auth_file", str(error))
        if config.settings.auth_type not in WITHOUT_AUTH_FILE:
            raise problem from None
        harmless.append(str(problem))
        return _empty()
    return parse_userlist(text, path, report)


def _find_row(table: Table, key: str, entry: Entry, owner: str) -> Row:
    known = rows_by_name(table)
    row = known.get(key)
    if row is None:
        what = "key" if owner else "setting"
        raise ConfigError(
            f"unknown {what} {printable(key)}{suggest(key, known)}",
            file=entry.file,
            line=entry.line,
            setting=owner or None,
        )
    return row


def load_text(text: str, path: str, report: Report = refuse) -> Config:
    """The configuration that ``text`` says, as if it were the file ``path``.

    With a ``report`` that does not raise, it is what is left without what is wrong.
    """
    loader = _Loader(path, report)
    for item in parse_text(text, path, report):
        loader.take(item)
    return loader.config()


def load(path: str | os.PathLike[str]) -> Config:
    """Read the configuration file and all that it names; ConfigError if unusable."""
    name = os.fspath(path)
    return load_text(read_text(name), name)


# ---------------------------------------------------------------------------
# What cannot work, and what is doubtful


def check_auth(config: Config) -> None:
    """ConfigError for an auth_dbname that cannot be had."""
    if config.settings.auth_dbname == RESERVED_DATABASE:
        raise _at_setting(config, "auth_dbname", RESERVED_AUTH_DBNAME)


def _warn_auth_dbname(config: Config) -> Iterator[str]:
    """Who needs a database that cannot be asked is refused at its login."""
    wide = config.settings.auth_dbname
    if wide and config.database(wide) is None:
        where = config.origins.get((MAIN, "auth_dbname"), config.path)
        yield f"{where}: auth_dbname: there is no database {printable(wide)}"
    for entry in all_databases(config).values():
        own = entry.auth_dbname
        if own and config.database(own) is None:
            yield (
                f"{_where(config, DATABASES, entry.name)}: auth_dbname: there is no"
                f" database {printable(own)} to ask"
            )


def check_tls(config: Config) -> None:
    """ConfigError for what TLS cannot have."""
    try:
        check_client_tls(config.settings)
        check_server_tls(server_tls_of(config.settings))
    except ConfigError as error:
        raise _at_setting(config, error.setting or "", error.problem) from None
    checked = {server_tls_of(config.settings)}
    for database in all_databases(config).values():
        tls = config.server_tls(database)
        if tls in checked:
            continue
        checked.add(tls)
        try:
            check_server_tls(tls)
        except ConfigError as error:
            where = config.origins[DATABASES, database.name]
            owner = f"[{DATABASES}] {printable(database.name)}"
            raise ConfigError(
                error.problem,
                file=where.file,
                line=where.line,
                setting=f"{owner}: {error.setting}",
            ) from None


def _at_setting(config: Config, name: str, problem: str) -> ConfigError:
    """What is wrong with a setting, and where it is said."""
    where = config.origins.get((MAIN, name))
    return ConfigError(
        problem,
        file=where.file if where else config.path,
        line=where.line if where else None,
        setting=name,
    )


def _read_hba(config: Config, report: Report) -> Hba | None:
    settings = config.settings
    if settings.auth_type is not AuthType.HBA:
        return None
    if not settings.auth_hba_file:
        raise _at_setting(config, "auth_hba_file", "auth_type = hba needs it")
    for name, path in (
        ("auth_hba_file", settings.auth_hba_file),
        ("auth_ident_file", settings.auth_ident_file),
    ):
        if path and ("\0" in path or not os.access(path, os.R_OK)):
            raise _at_setting(config, name, f"cannot read {path!r}")
    return read_hba(settings.auth_hba_file, settings.auth_ident_file, report)


def _read_ldap(config: Config) -> LdapOptions | None:
    settings = config.settings
    if settings.auth_type is not AuthType.LDAP:
        return None
    name = "auth_ldap_options"
    if not settings.auth_ldap_options:
        raise _at_setting(config, name, "auth_type = ldap needs it")
    try:
        words = read_words(settings.auth_ldap_options)
        return read_ldap_options(split_options(words))
    except (ConfigError, ValueError) as error:
        raise _at_setting(config, name, str(error)) from None


def _check_libraries(config: Config) -> None:
    """ConfigError if a method is asked for whose library is not here."""
    for method in NEEDED.keys() & {config.settings.auth_type}:
        _check_library(method, _at_setting(config, "auth_type", ""))
    for rule in config.hba.rules if config.hba else ():
        if rule.method is not None and rule.method in NEEDED:
            _check_library(rule.method, ConfigError("", file=rule.file, line=rule.line))


def _check_library(method: AuthType, place: ConfigError) -> None:
    try:
        load_library(method)
    except OSError as error:
        raise ConfigError(
            str(error), file=place.file, line=place.line, setting=place.setting
        ) from None


def _check_hosts(config: Config) -> Iterator[str]:
    for database in all_databases(config).values():
        if not config.hosts(database):
            yield (
                f"{_where(config, DATABASES, database.name)}: no host, and"
                " unix_socket_dir is empty: there is nowhere to connect to"
            )
        for host in config.hosts(database):
            if problem := host_problem(host):
                yield (
                    f"{_where(config, DATABASES, database.name)}: {printable(host)}:"
                    f" {problem}"
                )


def _where(config: Config, section: str, name: str) -> str:
    origin = config.origins.get((section, name), config.path)
    return f"{origin}: [{section}] {printable(name)}"


def all_databases(config: Config) -> dict[str, Database]:
    """All entries, the fallback under the name ``*``."""
    fallback = {} if config.autodb is None else {FALLBACK_DATABASE: config.autodb}
    return {**config.databases, **fallback}
