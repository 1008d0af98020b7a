# SPDX-License-Identifier: MIT
"""A reload as a difference of two configurations. Config layer.

``diff`` says what a reload would change, and ``reloaded`` gives the configuration that
runs after it, in which what needs a restart keeps its old value, and
what the operator has changed by hand stays so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pooler.config.kinds import Reload, Row
from pooler.config.loading import WITHOUT_AUTH_FILE
from pooler.config.model import Config, all_databases
from pooler.config.settings import Database, Settings, Table, rows


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryChanges:
    """Names of the entries of one section that differ, sorted."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What differs between two configurations. Names only: values may be secret."""

    live: tuple[str, ...] = ()
    new_connections: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    databases: EntryChanges = EntryChanges()
    # Those of databases.changed whose servers must close: they lead elsewhere now.
    # ``*`` stands for every database that came from the fallback entry.
    reconnect: tuple[str, ...] = ()
    users: EntryChanges = EntryChanges()
    peers: EntryChanges = EntryChanges()
    secrets: EntryChanges = EntryChanges()

    def __bool__(self) -> bool:
        return any(getattr(self, changed.name) for changed in dataclasses.fields(self))


def _changed_rows(table: Table, old: object, new: object) -> list[Row]:
    return [
        row for row in rows(table) if getattr(old, row.name) != getattr(new, row.name)
    ]


def _entry_changes(
    old: Mapping[Any, object], new: Mapping[Any, object]
) -> EntryChanges:
    kept = old.keys() & new.keys()
    return EntryChanges(
        added=tuple(str(name) for name in sorted(new.keys() - kept)),
        removed=tuple(str(name) for name in sorted(old.keys() - kept)),
        changed=tuple(str(name) for name in sorted(kept) if old[name] != new[name]),
    )


def diff(old: Config, new: Config) -> Changes:
    """What a reload from ``old`` to ``new`` changes; the ``*`` entry is named ``*``."""
    by_class: dict[Reload, list[str]] = {reload: [] for reload in Reload}
    changed = _changed_rows(Settings, old.settings, new.settings)
    for row in changed:
        by_class[row.reload].append(row.name)
    all_anew = any(row.reconnect for row in changed)
    before, after = all_databases(old), all_databases(new)
    databases = _entry_changes(before, after)
    return Changes(
        live=tuple(by_class[Reload.LIVE]),
        new_connections=tuple(by_class[Reload.NEW_CONNECTIONS]),
        restart=tuple(by_class[Reload.RESTART]),
        databases=databases,
        reconnect=tuple(
            name
            for name in sorted(after.keys() & before.keys())
            if all_anew
            or any(
                row.reconnect
                for row in _changed_rows(Database, before[name], after[name])
            )
        ),
        users=_entry_changes(old.users, new.users),
        peers=_entry_changes(old.peers, new.peers),
        secrets=_entry_changes(old.userlist, new.userlist),
    )


def is_moved(before: Database, after: Database) -> bool:
    """Whether the servers of a database lead elsewhere than they did.

    A name may be that of an entry now, and was of ``*`` before, or the other way round.
    """
    return any(row.reconnect for row in _changed_rows(Database, before, after))


def removed_users(old: Config, new: Config) -> frozenset[str]:
    """Who was known by auth_file and is not any more, where that matters."""
    if not new.settings.auth_file or new.settings.auth_type in WITHOUT_AUTH_FILE:
        return frozenset()
    return frozenset(old.userlist.keys() - new.userlist.keys())


def reloaded(old: Config, new: Config) -> Config:
    """``new`` as far as it can run without a restart: the rest stays as in ``old``."""
    kept = {
        row.name: getattr(old.settings, row.name)
        for row in rows(Settings)
        if row.reload is Reload.RESTART
    }
    settings = dataclasses.replace(new.settings, **kept)
    return dataclasses.replace(new, settings=settings, state=old.state)
