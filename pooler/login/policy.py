# SPDX-License-Identifier: MIT
"""What every login of a client is measured by. Login layer."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pooler.login.scram import DEFAULT_ITERATIONS, VerifierCache
from pooler.parameters import TRACKED_PARAMETERS


class AuthMethod(enum.Enum):
    """How clients prove who they are; the value is that of ``auth_type``."""

    TRUST = "trust"
    ANY = "any"
    PLAIN = "plain"
    MD5 = "md5"
    SCRAM = "scram-sha-256"


class ClientTls(enum.Enum):
    """Whether a client may or must speak TLS."""

    REFUSED = enum.auto()
    OFFERED = enum.auto()
    REQUIRED = enum.auto()


@dataclass(frozen=True, slots=True)
class ClientPolicy:
    """What the worker gives to every login; made anew by a reload.

    ``secrets``: user to secret as in auth_file, ``None`` if unknown.
    ``forced_user``: database to its ``user=`` setting.
    ``known_users_only``: whether ``trust`` refuses users that ``secrets`` does
    not know; false when there is no auth_file to be listed in.
    ``mock_key``: random, the same in every worker, else users can be told apart.
    ``tracked``: lower-case to canonical name of the parameters kept per client.
    ``certificate_hash``: of our certificate, to which SCRAM is bound over TLS.
    """

    method: AuthMethod
    secrets: Callable[[str], str | None] = field(repr=False)
    database_exists: Callable[[str], bool]
    forced_user: Callable[[str], str | None]
    ignore_startup_parameters: frozenset[str]
    mock_key: bytes = field(repr=False)
    scram_iterations: int = DEFAULT_ITERATIONS
    known_users_only: bool = True
    tracked: Mapping[str, str] = field(default_factory=lambda: TRACKED_PARAMETERS)
    verifiers: VerifierCache = field(default_factory=VerifierCache, repr=False)
    tls: ClientTls = ClientTls.REFUSED
    certificate_hash: bytes = b""
