# SPDX-License-Identifier: MIT
"""SHOW: what the configuration says. Console layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from pooler import VERSION_TEXT
from pooler.config.kinds import Reload, format_value
from pooler.config.kinds import Row as SettingRow
from pooler.config.settings import Settings, rows
from pooler.console.answers import Answer, Value, columns
from pooler.console.grammar import Command
from pooler.console.rows import Console, Row, Run
from pooler.login import packets

USAGE = """
\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION
\tSHOW PEERS|PEER_POOLS
\tSHOW FDS|SOCKETS|ACTIVE_SOCKETS|LISTS|MEM|STATE
\tSHOW DNS_HOSTS|DNS_ZONES
\tSHOW WORKERS|HANDOVERS|LATENCY|PREPARED_STATEMENTS
\tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
\tSET key = arg
\tRELOAD
\tPAUSE [<db>]
\tRESUME [<db>]
\tDISABLE <db>
\tENABLE <db>
\tRECONNECT [<db>]
\tKILL <db>
\tKILL_CLIENT <client_id>
\tSHUTDOWN
\tSHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS
\tWAIT_CLOSE [<db>]"""


def shown(found: Iterable[Sequence[Value]]) -> Answer:
    """The answer of every SHOW: these rows."""
    return Answer("SHOW", tuple(found))


async def _show_help(console: Console, command: Command) -> Answer:
    notice = packets.notice_response("NOTICE", "00000", "Console usage", detail=USAGE)
    return Answer("SHOW", (), (notice,))


async def _show_version(console: Console, command: Command) -> Answer:
    return shown([(VERSION_TEXT,)])


async def _show_state(console: Console, command: Command) -> Answer:
    state = console.config.state
    rows = {
        "active": not (state.paused or state.suspended),
        "paused": state.paused,
        "suspended": state.suspended,
    }
    return shown([(name, "yes" if is_so else "no") for name, is_so in rows.items()])


async def _show_config(console: Console, command: Command) -> Answer:
    settings, default = console.config.settings, Settings()

    def default_of(row: SettingRow) -> Value:
        value = getattr(default, row.name)
        return None if value is None else format_value(row, value)

    def text_of(row: SettingRow) -> Value:
        value = getattr(settings, row.name)
        if value is None:
            return None
        if row.secret and value:
            return "****"
        # PgBouncer prints every integer in decimal, though it reads octal.
        return str(value) if type(value) is int else format_value(row, value)

    return shown(
        (
            row.name,
            text_of(row),
            default_of(row),
            "no" if row.reload is Reload.RESTART else "yes",
        )
        for row in sorted(rows(Settings), key=lambda row: row.name)
    )


async def _show_peers(console: Console, command: Command) -> Answer:
    return shown(
        (peer.peer_id, peer.host, peer.port, console.config.peer_pool_size(peer))
        for peer in console.config.peers.values()
    )


def _fixed(text: str) -> Run:
    """A parameter that drivers ask a server for."""

    async def show(console: Console, command: Command) -> Answer:
        return shown([(text,)])

    return show


PARAMETERS = {
    "client_encoding": "UTF-8",
    "default_transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
    "datestyle": "ISO",
    "timezone": "GMT",
}

OF_CONFIGURATION: Mapping[str, Row] = MappingProxyType(
    {
        "HELP": Row(_show_help, admin=False),
        "VERSION": Row(_show_version, columns("version"), admin=False),
        "STATE": Row(_show_state, columns("key, value"), admin=False),
        "CONFIG": Row(
            _show_config, columns("key, value, default, changeable"), admin=False
        ),
        "PEERS": Row(
            _show_peers, columns("peer_id i, host, port i, pool_size i"), admin=False
        ),
        **{
            name.upper(): Row(_fixed(text), columns(name), admin=False)
            for name, text in PARAMETERS.items()
        },
    }
)
