# SPDX-License-Identifier: MIT
"""Configuration files of the peers: the same limits in each one's own words. Pure.

Transaction mode, one pool of the same size, TCP only, no logging. A setting is given
even where it is the default, so that the recorded file is the whole truth. There is a
main file for each way to log in; that of trust comes first and has the plain name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from benchmarks.lib.cases import Login
from benchmarks.lib.clients import Address

POOL_SIZE = 20
MAX_CLIENTS = 11_000
BACKLOG = 4_096
MAX_PREPARED = 200
PREPARED_SINCE = (1, 21)
PASSWORD = "benchmark"
# What PostgreSQL stores of it: 4,096 iterations, as by default. No secret.
VERIFIER = (
    "SCRAM-SHA-256$4096:YmVuY2htYXJrIHNhbHQuLg=="
    "$nTsLUHKX2/kIbwNeGIIcgb8+GGQzMog6SeHfqnLdP6A="
    ":1HSjdqfgz3T90XM5/b1e8ByNBA+Vlsv18gGwP2K0BQE="
)
CERTIFICATE, KEY = "server.crt", "server.key"  # beside the configuration


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
    files = {
        config_name(name, login): _ini_text(layout, settings | _login_settings(login))
        for login in Login
    }
    return files | {
        "userlist.txt": f'"{address.user}" ""\n',
        "verifiers.txt": f'"{address.user}" "{VERIFIER}"\n',
    }


def config_name(name: str, login: Login) -> str:
    """Return the main file for a way to log in, given that of trust."""
    if login is Login.TRUST:
        return name
    path = PurePath(name)
    return f"{path.stem}-{login}{path.suffix}"


def _login_settings(login: Login) -> dict[str, object]:
    settings: dict[str, object] = {}
    if login.is_proven:
        settings |= {"auth_type": "scram-sha-256", "auth_file": "verifiers.txt"}
    if login.is_secured:
        settings |= {
            "client_tls_sslmode": "require",
            "client_tls_cert_file": CERTIFICATE,
            "client_tls_key_file": KEY,
            "client_tls_protocols": "tlsv1.3",
        }
    return settings


def _ini_text(layout: Layout, settings: dict[str, object]) -> str:
    database = layout.address.database
    lines = [
        "[databases]",
        f"{database} = host={layout.server_host} port={layout.server_port}"
        f" dbname={database}",
        "",
        "[pgbouncer]",
        *(f"{key} = {value}" for key, value in settings.items()),
        "",
    ]
    return "\n".join(lines)
