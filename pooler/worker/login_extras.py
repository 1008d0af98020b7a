# SPDX-License-Identifier: MIT
"""What an operator adds to the login of a client. Worker layer, cold.

``application_name_add_host``: whoever looks into pg_stat_activity sees the client and
not only the pooler. What a client sets later is left alone, as PgBouncer does it.
``login_notify_message``: a NOTICE in front of the first ReadyForQuery.

Source: PostgreSQL documentation, "Error Reporting and Logging" (application_name),
"Message Flow" (Start-up).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from pooler.config.settings import Settings
from pooler.errors import SUCCESSFUL_COMPLETION
from pooler.io.engine import Engine
from pooler.login import packets
from pooler.worker.words import LABEL, LABEL_BYTES

NAMELESS = "app"
HOST_NAME_BYTES = 32  # of our own host, so that a name of three letters has room
ESCAPED_BYTES = 4  # of a byte that PostgreSQL writes as \xNN


def notify_message(settings: Settings) -> bytes:
    """The notice for each client, if there is one."""
    text = settings.login_notify_message
    if not text:
        return b""
    return packets.notice_response("NOTICE", SUCCESSFUL_COMPLETION, text)


def asked_values(
    settings: Settings, engine: Engine, handle: int, given: Mapping[str, str]
) -> dict[str, str]:
    """The values that a client asks for, its address added if that is wanted.

    LookupError: it has left.
    """
    if not settings.application_name_add_host:
        return dict(given)
    name = with_origin(given.get(LABEL, ""), origin(settings, engine, handle))
    return {**given, LABEL: name}


def origin(settings: Settings, engine: Engine, handle: int) -> str:
    """Address and port of a client, or the process behind its Unix socket."""
    host, port = engine.client_peer(handle)
    if host == "unix":
        here = os.uname().nodename[:HOST_NAME_BYTES]
        return f"unix({engine.client_os_pid(handle)}@{here}):{settings.listen_port}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def with_origin(name: str, where: str) -> str:
    """A name with its origin behind it, no longer than PostgreSQL keeps it.

    PostgreSQL would cut it at the end, so the name gives way.
    """
    room = LABEL_BYTES - len(f" - {where}")
    kept = ""
    for one in name or NAMELESS:
        is_plain = one.isascii() and one.isprintable()
        room -= 1 if is_plain else ESCAPED_BYTES * len(packets.encode(one))
        if room < 0:
            break
        kept += one
    return f"{kept} - {where}"
