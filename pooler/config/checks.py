# SPDX-License-Identifier: MIT
"""What of a configuration cannot work, and what is doubtful. Config layer."""

from __future__ import annotations

from collections.abc import Iterator

from pooler.config.hosts import host_problem
from pooler.config.kinds import (
    AuthType,
    printable,
)
from pooler.config.libraries import NEEDED, load_library
from pooler.config.model import (
    DATABASES,
    MAIN,
    RESERVED_AUTH_DBNAME,
    RESERVED_DATABASE,
    Config,
    all_databases,
)
from pooler.config.tls import (
    check_client_tls,
    check_server_tls,
    server_tls_of,
)
from pooler.errors import ConfigError


def check_auth(config: Config) -> None:
    """ConfigError for an auth_dbname that cannot be had."""
    if config.settings.auth_dbname == RESERVED_DATABASE:
        raise at_setting(config, "auth_dbname", RESERVED_AUTH_DBNAME)


def warn_auth_dbname(config: Config) -> Iterator[str]:
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
        raise at_setting(config, error.setting or "", error.problem) from None
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


def at_setting(config: Config, name: str, problem: str) -> ConfigError:
    """What is wrong with a setting, and where it is said."""
    where = config.origins.get((MAIN, name))
    return ConfigError(
        problem,
        file=where.file if where else config.path,
        line=where.line if where else None,
        setting=name,
    )


def check_libraries(config: Config) -> None:
    """ConfigError if a method is asked for whose library is not here."""
    for method in NEEDED.keys() & {config.settings.auth_type}:
        _check_library(method, at_setting(config, "auth_type", ""))
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


def warn_hosts(config: Config) -> Iterator[str]:
    """Hosts that can be none, and entries that lead nowhere."""
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
