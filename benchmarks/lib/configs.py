# SPDX-License-Identifier: MIT
"""Configuration files of the peers: the same limits in each one's own words. Pure.

Transaction mode, one pool of the same size, trust, TCP only, no logging. A setting
is given even where it is the default, so that the recorded file is the whole truth.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.lib.clients import Address

POOL_SIZE = 20
MAX_CLIENTS = 6_000
BACKLOG = 1_024
MAX_PREPARED = 200
PREPARED_SINCE = (1, 21)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a configuration depends on."""

    address: Address  # where the peer listens; its user and database
    server_host: str
    server_port: int
    workers: int
    version: tuple[int, ...]
    cache_unnamed: bool = False  # of ours only


def pgbouncer_files(layout: Layout) -> dict[str, str]:
    """Return pgbouncer.ini and userlist.txt; the main file comes first."""
    return _ini_files("pgbouncer.ini", layout, _since_prepared(layout.version))


def pooler_files(layout: Layout) -> dict[str, str]:
    """Return our configuration: PgBouncer's, and the number of workers."""
    extra: dict[str, object] = {
        "max_prepared_statements": MAX_PREPARED,
        "workers": layout.workers,
        "cache_unnamed_statements": int(layout.cache_unnamed),
        "core_dumps": 1,  # or only root could measure its memory
    }
    return _ini_files("pooler.ini", layout, extra)


def odyssey_files(layout: Layout) -> dict[str, str]:
    """Return odyssey.conf. ``pool_discard no``: reserved statements must survive."""
    address = layout.address
    return {
        "odyssey.conf": f"""\
daemonize no
log_to_stdout no
log_syslog no
log_debug no
log_config no
log_session no
log_query no
log_stats no
workers {layout.workers}
resolvers 1
client_max {MAX_CLIENTS}
nodelay yes

listen {{
    host "{address.host}"
    port {address.port}
    backlog {BACKLOG}
}}

storage "server" {{
    type "remote"
    host "{layout.server_host}"
    port {layout.server_port}
}}

database "{address.database}" {{
    user "{address.user}" {{
        authentication "none"
        storage "server"
        pool "transaction"
        pool_size {POOL_SIZE}
        pool_discard no
        pool_reserve_prepared_statement yes
    }}
}}
"""
    }


def _since_prepared(version: tuple[int, ...]) -> dict[str, object]:
    """An older PgBouncer only warns about the setting, but prints it each time."""
    if version < PREPARED_SINCE:
        return {}
    return {"max_prepared_statements": MAX_PREPARED}


def _ini_files(name: str, layout: Layout, extra: dict[str, object]) -> dict[str, str]:
    address = layout.address
    settings: dict[str, object] = {
        "listen_addr": address.host,
        "listen_port": address.port,
        "listen_backlog": BACKLOG,
        "unix_socket_dir": "",
        "so_reuseport": 0,
        "auth_type": "trust",
        "auth_file": "userlist.txt",
        "pool_mode": "transaction",
        "default_pool_size": POOL_SIZE,
        "max_client_conn": MAX_CLIENTS,
        "log_connections": 0,
        "log_disconnections": 0,
        "log_pooler_errors": 0,
        "log_stats": 0,
        **extra,
    }
    lines = [
        "[databases]",
        f"{address.database} = host={layout.server_host} port={layout.server_port}"
        f" dbname={address.database}",
        "",
        "[pgbouncer]",
        *(f"{key} = {value}" for key, value in settings.items()),
        "",
    ]
    return {name: "\n".join(lines), "userlist.txt": f'"{address.user}" ""\n'}
