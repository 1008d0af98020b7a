# SPDX-License-Identifier: MIT
"""What every login of a client is measured by. Login layer."""

from __future__ import annotations

import enum
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pooler.login.packets import encode
from pooler.login.scram import (
    DEFAULT_ITERATIONS,
    FindKeys,
    KeyRequest,
    SecretKind,
    Verifier,
    VerifierCache,
)
from pooler.parameters import TRACKED_PARAMETERS


class AuthMethod(enum.Enum):
    """How clients prove who they are; the value is that of ``auth_type``."""

    TRUST = "trust"
    ANY = "any"
    PLAIN = "plain"
    MD5 = "md5"
    SCRAM = "scram-sha-256"
    PEER = "peer"
    CERT = "cert"
    PAM = "pam"
    LDAP = "ldap"


class ClientTls(enum.Enum):
    """Whether a client may or must speak TLS."""

    REFUSED = enum.auto()
    OFFERED = enum.auto()
    REQUIRED = enum.auto()


class ClientPeer(Protocol):
    """What the connection itself says of a client."""

    @property
    def address(self) -> str | None:
        """Where it came from; None: by a Unix socket."""

    def os_user(self) -> str | None:
        """Who it is on this machine, by a Unix socket; None: nobody knows."""

    def is_own(self) -> bool:
        """Whether it is the user that we run as, by a Unix socket."""

    def certificate_name(self) -> str | None:
        """The common name in its verified certificate, by TLS; None: it has none."""


@dataclass(frozen=True, slots=True)
class Nobody:
    """A client of which nothing is known but where it came from."""

    address: str | None = "127.0.0.1"

    def os_user(self) -> str | None:
        """Not known."""
        return None

    def is_own(self) -> bool:
        """Not known."""
        return False

    def certificate_name(self) -> str | None:
        """There is none."""
        return None


NOBODY = Nobody()


@dataclass(frozen=True, slots=True)
class Asker:
    """A client that has said who it wants to be, before any proof."""

    user: str
    database: str
    address: str | None
    secured: bool
    replication: str


@dataclass(frozen=True, slots=True)
class Demand:
    """How this client has to prove it.

    ``is_mapped``: whether who the system or a certificate names may be this user.
    """

    method: AuthMethod
    is_mapped: Callable[[str, str], bool] = str.__eq__


@dataclass(frozen=True, slots=True)
class ClientPolicy:
    """What the worker gives to every login; made anew by a reload.

    ``secrets``: user to secret as in auth_file, ``None`` if unknown.
    ``can_ask``: whether somebody may know the secret of a user that ``secrets``
    does not know, by the database that it asks for.
    ``forced_user``: database to its ``user=`` setting.
    ``console``: the database, and the user who needs no password there if it is our
    own; empty: there is none.
    ``known_users_only``: whether ``trust`` refuses users that ``secrets`` does
    not know; false when there is no auth_file to be listed in.
    ``mock_kind``: what kind of secret a user that nobody knows might have.
    ``hashes_passwords``: whether a password may be measured by a SCRAM verifier, so
    that every wrong one has to cost as much.
    ``mock_key``: random, the same in every worker, else users can be told apart.
    ``tracked``: lower-case to canonical name of the parameters kept per client.
    ``demand``: chooses for each client instead of ``method``; LoginError: none will do.
    ``can_secure``: whether there is a certificate to speak TLS with.
    ``certificate_hash``: of our certificate, to which SCRAM is bound over TLS.
    ``find_keys``: makes keys, which costs many hashes; None: the login has to wait.
    """

    method: AuthMethod
    secrets: Callable[[str], str | None] = field(repr=False)
    database_exists: Callable[[str], bool]
    forced_user: Callable[[str], str | None]
    ignore_startup_parameters: frozenset[str]
    mock_key: bytes = field(repr=False)
    console: str = ""
    scram_iterations: int = DEFAULT_ITERATIONS
    known_users_only: bool = True
    tracked: Mapping[str, str] = field(default_factory=lambda: TRACKED_PARAMETERS)
    verifiers: VerifierCache = field(default_factory=VerifierCache, repr=False)
    mock_kind: Callable[[str], SecretKind] = lambda user: SecretKind.PLAIN
    hashes_passwords: bool = False
    mock_verifier: Verifier = field(
        default_factory=lambda: Verifier.mock("", b""), repr=False
    )
    tls: ClientTls = ClientTls.REFUSED
    can_secure: bool = True
    certificate_hash: bytes = b""
    can_ask: Callable[[str], bool] = lambda database: False
    demand: Callable[[Asker], Demand] | None = None
    find_keys: FindKeys = KeyRequest.derive


def kind_by_name(
    scram_count: int, count: int, mock_key: bytes
) -> Callable[[str], SecretKind]:
    """Of a user that nobody knows: the kind of secret of a user picked by its name.

    ``scram_count`` of the ``count`` users that are known have a SCRAM verifier. So what
    an unknown user is asked is as frequent as it is with known ones, the same each
    time, and tells nothing of that user. Where nobody is listed, it is SCRAM, as
    PostgreSQL does.
    """

    def kind(user: str) -> SecretKind:
        digest = hmac.digest(mock_key, b"kind\0" + encode(user), "sha256")
        picked = int.from_bytes(digest[:8], "big") % max(count, 1)
        is_scram = picked < scram_count or count == 0
        return SecretKind.SCRAM if is_scram else SecretKind.MD5

    return kind
