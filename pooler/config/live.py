# SPDX-License-Identifier: MIT
"""One setting changed while the pooler runs, by SET on the console. Config layer.

It lasts until the next reload. Everything else stays as it runs, whatever the files
say by now.
"""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

from pooler.config.checks import check_auth, check_tls
from pooler.config.kinds import Reload, parse_value
from pooler.config.loading import with_files
from pooler.config.model import MAIN, Config
from pooler.config.settings import Settings, rows_by_name
from pooler.errors import ConfigError

# Those that say which users and rules there are, and who judges passwords.
_OF_FILES = frozenset(
    {
        "auth_type",
        "auth_file",
        "auth_hba_file",
        "auth_ident_file",
        "auth_ldap_options",
    }
)


def with_setting(config: Config, name: str, text: str) -> Config:
    """The configuration with one other value; ConfigError if it cannot be had.

    What would need a restart is ignored, as by PgBouncer. TLS is the exception to
    the rule that nothing is half done: key and certificate are set one after the other,
    so what does not fit together only warns; the TLS of before stays in use until it
    does.
    """
    row = rows_by_name(Settings).get(name)
    if row is None:
        raise ConfigError("unknown setting", setting=name)
    value = parse_value(row, text)
    if row.reload is Reload.RESTART:
        return config
    origins = dict(config.origins)
    origins.pop((MAIN, row.name), None)  # no line of a file says it
    new = dataclasses.replace(
        config,
        settings=dataclasses.replace(config.settings, **{row.name: value}),
        origins=MappingProxyType(origins),
        warnings=(),
    )
    check_auth(new)
    if row.name in _OF_FILES:
        new = with_files(new)
    if "_tls" in row.name:
        try:
            check_tls(new)
        except ConfigError as error:
            warning = f"TLS settings could not be applied, the old stay: {error}"
            new = dataclasses.replace(new, warnings=(*new.warnings, warning))
    return new
