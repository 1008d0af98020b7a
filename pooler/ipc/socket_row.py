# SPDX-License-Identifier: MIT
"""What a worker tells of one connection. Layer: ipc; pure data.

It travels as a JSON array in this order. Names that are no text have lone surrogates.
"""

from __future__ import annotations

from typing import NamedTuple


class SocketRow(NamedTuple):
    """A client ("C") or a server ("S")."""

    type: str
    user: str
    database: str
    replication: str  # none, logical, physical
    state: str
    addr: str
    port: int
    local_addr: str
    local_port: int
    connect_time_s: float  # of the epoch
    request_time_s: float
    wait_us: int  # how long it has waited for an answer by now
    close_needed: int
    ptr: str
    link: str
    remote_pid: int
    tls: str
    application_name: str
    prepared_statements: int
    id: int
    held_bytes: int
    unsent_bytes: int
    fd: int
