# SPDX-License-Identifier: MIT
"""SHOW: connections of all workers. Console layer.

Their ids are unique in the pooler, and no other connection gets one again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from pooler.console.answers import Answer, Value, columns
from pooler.console.grammar import Command
from pooler.console.rows import Console, Row, Run
from pooler.console.shows import shown
from pooler.ipc.socket_row import SocketRow

SOCKET_COLUMNS = (
    "type, user, database, replication, state, addr, port i, local_addr, local_port i,"
    " connect_time, request_time, wait i, wait_us i, close_needed i, ptr, link,"
    " remote_pid i, tls, application_name, prepared_statements i, id i"
)
BUFFER_COLUMNS = (
    "recv_pos i, pkt_pos i, pkt_remain i, send_pos i, send_remain i, pkt_avail i,"
    " send_avail i"
)
_OF_LISTS = {
    "idle": "active",
    "active_cancel_req": "login",
    "waiting_cancel_req": "login",
}


def when(seconds: float) -> str:
    """A time of the epoch as PgBouncer writes it."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))


def _values(row: SocketRow, state: str) -> list[Value]:
    wait_s, rest_us = divmod(row.wait_us, 1_000_000)
    return [
        row.type,
        row.user,
        row.database,
        row.replication,
        state,
        row.addr,
        row.port,
        row.local_addr,
        row.local_port,
        when(row.connect_time_s),
        when(row.request_time_s),
        wait_s,
        rest_us,
        row.close_needed,
        row.ptr,
        row.link,
        row.remote_pid,
        row.tls,
        row.application_name,
        row.prepared_statements,
        row.id,
    ]


async def _clients(console: Console) -> list[SocketRow]:
    return _sorted(await console.list_workers("clients"))


async def _servers(console: Console) -> list[SocketRow]:
    return _sorted(await console.list_workers("servers"))


def _sorted(found: Iterable[list[Any]]) -> list[SocketRow]:
    rows = [SocketRow(*row) for row in found]
    return sorted(rows, key=lambda row: (row.database, row.user, row.id))


async def _show_clients(console: Console, command: Command) -> Answer:
    rows = await _clients(console)
    return shown(_values(row, row.state) for row in rows if row.state != "login")


async def _show_servers(console: Console, command: Command) -> Answer:
    return shown(_values(row, row.state) for row in await _servers(console))


def _list_state(row: SocketRow) -> str:
    """The state with the name of PgBouncer's list, in which it stands."""
    if row.type == "C":
        return f"cl_{_OF_LISTS.get(row.state, row.state)}"
    return f"sv_{'idle' if row.state == 'being_canceled' else row.state}"


def _sockets(wanted: Callable[[SocketRow], bool]) -> Run:
    async def show(console: Console, command: Command) -> Answer:
        rows = [*await _clients(console), *await _servers(console)]
        return shown(
            [
                *_values(row, _list_state(row)),
                *(
                    0,
                    0,
                    0,
                    0,
                    0,
                ),  # where a buffer is read and written: ours have no ends
                row.held_bytes,
                row.unsent_bytes,
            ]
            for row in rows
            if wanted(row)
        )

    return show


async def _show_fds(console: Console, command: Command) -> Answer:
    """Descriptors of the workers; no key and no secret is in it."""
    rows = [*await _clients(console), *await _servers(console)]
    return shown(
        (
            row.fd,
            "client" if row.type == "C" else "server",
            row.user,
            row.database,
            row.addr,
            row.port,
            0,
            0,
            *(None, None, None, None),
            *(None, None, None),
        )
        for row in rows
        if not row.tls
    )


OF_SOCKETS: Mapping[str, Row] = MappingProxyType(
    {
        "CLIENTS": Row(_show_clients, columns(SOCKET_COLUMNS), admin=False),
        "SERVERS": Row(_show_servers, columns(SOCKET_COLUMNS), admin=False),
        "SOCKETS": Row(
            _sockets(lambda row: True),
            columns(f"{SOCKET_COLUMNS}, {BUFFER_COLUMNS}"),
            admin=False,
        ),
        "ACTIVE_SOCKETS": Row(
            _sockets(lambda row: bool(row.held_bytes or row.unsent_bytes)),
            columns(f"{SOCKET_COLUMNS}, {BUFFER_COLUMNS}"),
            admin=False,
        ),
        "FDS": Row(
            _show_fds,
            columns(
                "fd i, task, user, database, addr, port i, cancel q, link i,"
                " client_encoding, std_strings, datestyle, timezone, password,"
                " scram_client_key b, scram_server_key b"
            ),
        ),
    }
)
