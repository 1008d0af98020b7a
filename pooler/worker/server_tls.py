# SPDX-License-Identifier: MIT
"""TLS towards servers: what is tried, in which order. Worker layer, cold.

Source: PostgreSQL documentation, "SSL Session Encryption" (Message Flow), "SSL Mode
Descriptions".
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pooler.config.kinds import TlsMode
from pooler.config.tls import ServerTls
from pooler.errors import (
    INVALID_AUTHORIZATION,
    SQLCLIENT_UNABLE_TO_CONNECT,
    LoginError,
    TlsError,
)
from pooler.io.links import Link
from pooler.io.tls_context import TlsContext
from pooler.login import packets


class Attempt(enum.Enum):
    """One way to connect."""

    PLAIN = enum.auto()
    TLS_IF_OFFERED = enum.auto()
    TLS = enum.auto()


# In this order, each on a connection of its own.
ATTEMPTS: Mapping[TlsMode, tuple[Attempt, ...]] = MappingProxyType(
    {
        TlsMode.DISABLE: (Attempt.PLAIN,),
        TlsMode.ALLOW: (Attempt.PLAIN, Attempt.TLS),
        TlsMode.PREFER: (Attempt.TLS_IF_OFFERED, Attempt.PLAIN),
        TlsMode.REQUIRE: (Attempt.TLS,),
        TlsMode.VERIFY_CA: (Attempt.TLS,),
        TlsMode.VERIFY_FULL: (Attempt.TLS,),
    }
)


@dataclass(frozen=True, slots=True)
class Security:
    """TLS towards the servers of a database, and the context of all that have it."""

    tls: ServerTls
    context: TlsContext | None


class TlsStartError(LoginError):
    """TLS with this server cannot be; in the clear it might."""

    def __init__(self, message: str) -> None:
        super().__init__(message, SQLCLIENT_UNABLE_TO_CONNECT)


def is_worth_another(error: LoginError) -> bool:
    """Whether the next attempt may succeed where this one has failed.

    It may if TLS could not be, or pg_hba.conf wants the connection otherwise; a wrong
    password stays wrong.
    """
    return isinstance(error, TlsStartError) or error.sqlstate == INVALID_AUTHORIZATION


async def secure(
    link: Link, context: TlsContext, host: str, attempt: Attempt, *, direct: bool
) -> None:
    """Speak TLS on a fresh link, as far as the attempt wants it.

    ``direct``: without asking first, which PostgreSQL 17 and newer understand. Raises
    TlsStartError, or OSError.
    """
    if attempt is Attempt.PLAIN:
        return
    if not direct and not await _is_agreed(link, attempt):
        return
    try:
        await link.start_tls(context, host, direct=direct)
    except TlsError as error:
        raise TlsStartError(f"TLS handshake failed: {error}") from None
    if direct and link.protocol != "postgresql":
        raise TlsStartError("the server has not agreed on PostgreSQL's protocol (ALPN)")


async def _is_agreed(link: Link, attempt: Attempt) -> bool:
    """Ask for TLS; False: the server has none, and that is all right."""
    link.send(packets.ssl_request())
    answer = await link.receive()
    if answer == b"S":
        return True
    if answer == b"N":
        if attempt is Attempt.TLS_IF_OFFERED:
            return False
        raise TlsStartError("server refused SSL")
    if answer[:1] in (b"S", b"N"):
        # CVE-2021-23222: what stands in front of the handshake is nobody's.
        raise TlsStartError("received unencrypted data after SSL response")
    if not answer:
        raise TlsStartError("server closed the connection when it was asked for TLS")
    raise TlsStartError("server gave no answer that is known when asked for TLS")
