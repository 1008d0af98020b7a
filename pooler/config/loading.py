# SPDX-License-Identifier: MIT
"""The configuration, read from its files. Config layer.

``load`` reads the file, the files it includes and the auth_file, and either returns a
whole ``Config`` or raises one ConfigError; it changes nothing, so a bad file leaves the
running configuration as it is.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from pooler.config.checks import (
    at_setting,
    check_auth,
    check_libraries,
    check_tls,
    warn_auth_dbname,
    warn_hosts,
)
from pooler.config.hba import Hba, read_hba
from pooler.config.hbafile import read_words
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
    AuthType,
    Row,
    parse_value,
    printable,
    suggest,
)
from pooler.config.ldap import LdapOptions, read_ldap_options, split_options
from pooler.config.model import (
    DATABASES,
    FALLBACK_DATABASE,
    MAIN,
    MAX_PEER_ID,
    PEERS,
    RESERVED_DATABASE,
    SECTIONS,
    USERS,
    Config,
    Origin,
    empty,
)
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
from pooler.config.userlist import Secret, parse_userlist
from pooler.errors import ConfigError

T = TypeVar("T")

# Authentication that never looks at a stored secret: a missing auth_file is no error.
WITHOUT_AUTH_FILE = frozenset({AuthType.ANY, AuthType.PAM, AuthType.LDAP})


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
        userlist=_tried(report, read_users, empty()),
        hba=_tried(report, partial(_read_hba, config, report), None),
        ldap=_tried(report, partial(_read_ldap, config), None),
    )
    _tried(report, partial(check_libraries, config), None)
    warnings = (
        *config.warnings,
        *problems,
        *warn_hosts(config),
        *warn_auth_dbname(config),
    )
    return dataclasses.replace(config, warnings=warnings)


def _read_userlist(
    config: Config, harmless: list[str], report: Report
) -> Mapping[str, Secret]:
    """Users; ``harmless`` gets what is wrong and does no harm."""
    path = config.settings.auth_file
    if path is None:
        return empty()
    try:
        text = read_text(path)
    except ConfigError as error:
        problem = at_setting(config, "auth_file", str(error))
        if config.settings.auth_type not in WITHOUT_AUTH_FILE:
            raise problem from None
        harmless.append(str(problem))
        return empty()
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


def _read_hba(config: Config, report: Report) -> Hba | None:
    settings = config.settings
    if settings.auth_type is not AuthType.HBA:
        return None
    if not settings.auth_hba_file:
        raise at_setting(config, "auth_hba_file", "auth_type = hba needs it")
    for name, path in (
        ("auth_hba_file", settings.auth_hba_file),
        ("auth_ident_file", settings.auth_ident_file),
    ):
        if path and ("\0" in path or not os.access(path, os.R_OK)):
            raise at_setting(config, name, f"cannot read {path!r}")
    return read_hba(settings.auth_hba_file, settings.auth_ident_file, report)


def _read_ldap(config: Config) -> LdapOptions | None:
    settings = config.settings
    if settings.auth_type is not AuthType.LDAP:
        return None
    name = "auth_ldap_options"
    if not settings.auth_ldap_options:
        raise at_setting(config, name, "auth_type = ldap needs it")
    try:
        words = read_words(settings.auth_ldap_options)
        return read_ldap_options(split_options(words))
    except (ConfigError, ValueError) as error:
        raise at_setting(config, name, str(error)) from None
