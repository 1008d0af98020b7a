# SPDX-License-Identifier: MIT
"""Who may log in and how, by the configuration that runs. Worker layer, cold."""

from __future__ import annotations

from collections.abc import Callable

from pooler.config.model import RESERVED_DATABASE
from pooler.config.userlist import SecretKind
from pooler.io.tls_context import TlsContext
from pooler.login.policy import AuthMethod, ClientPolicy, kind_by_name
from pooler.worker.identity import demand_by
from pooler.worker.pools import Pools
from pooler.worker.tls import CLIENT_TLS


def make_policy(
    pools: Pools,
    mock_key: bytes,
    context: TlsContext | None,
    can_ask: Callable[[str], bool],
) -> ClientPolicy:
    """What the running configuration says about who may log in and how."""
    config = pools.config

    def secret_of(user: str) -> str | None:
        known = config.userlist.get(user)
        return None if known is None else known.text

    def forced_user(name: str) -> str | None:
        database = pools.database(name)
        return None if database is None else database.user

    settings = config.settings
    kinds = [one.kind for one in config.userlist.values() if not one.is_empty]
    scram_count = kinds.count(SecretKind.SCRAM)
    askers = [settings.auth_user, *(one.auth_user for one in config.databases.values())]
    asks = any(askers)  # what auth_query finds may be SCRAM's
    return ClientPolicy(
        method=(AuthMethod.SCRAM if config.hba else AuthMethod(settings.auth_type)),
        demand=demand_by(config.hba) if config.hba else None,
        secrets=secret_of,
        database_exists=lambda name: (
            name == RESERVED_DATABASE or pools.database(name) is not None
        ),
        console=RESERVED_DATABASE,
        forced_user=forced_user,
        tracked=pools.tracked,
        ignore_startup_parameters=frozenset(settings.ignore_startup_parameters),
        mock_key=mock_key,
        mock_kind=kind_by_name(scram_count, len(kinds), mock_key),
        hashes_passwords=scram_count > 0 or asks,
        known_users_only=bool(settings.auth_file),
        tls=CLIENT_TLS[settings.client_tls_sslmode],
        can_secure=context is not None,
        certificate_hash=b"" if context is None else context.certificate_hash,
        can_ask=can_ask,
        scram_iterations=settings.scram_iterations,
        find_keys=lambda _: None,  # nobody waits for the hashes of others
    )
