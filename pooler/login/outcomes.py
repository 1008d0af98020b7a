# SPDX-License-Identifier: MIT
"""What a client's login comes to, and what it waits for. Login layer, sans-IO."""

from __future__ import annotations

from dataclasses import dataclass, field

from pooler.login.policy import AuthMethod
from pooler.login.scram import ScramKeys
from pooler.login.startup import Replication


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The client is who it says. AuthenticationOk is still to be sent.

    ``user`` is the name it gave, ``server_user`` the one to use towards the
    server (``user=`` of the database, if set). ``parameters`` are as given,
    under their canonical names. ``scram_keys`` log in to a server that stores
    the same verifier; ``secret``, found elsewhere than in auth_file, to one that
    asks for a password. ``minor_protocol`` is the minor version agreed on: 0 or 2.

    ``replication``: the kind of walsender asked for. Such a client has its server
    to itself, so ``startup_parameters`` then holds all it sent but user, database,
    replication and protocol options, for the server to judge; ``parameters`` only
    repeats the tracked ones among them. Empty for everybody else.
    """

    user: str
    server_user: str
    database: str
    parameters: dict[str, str]
    scram_keys: ScramKeys | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)
    minor_protocol: int = 0
    replication: Replication = ""
    startup_parameters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cancel:
    """A cancel request; no answer is due, whatever comes of it.

    ``key`` is the process id (4 bytes) and the secret (4 to 256) together.
    """

    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Closed:
    """Close without an error: direct TLS, or a probe for it."""


@dataclass(frozen=True, slots=True)
class StartTls:
    """TLS begins behind what is to be sent; ``ClientLogin.secured`` is due.

    ``direct``: what was not consumed is its beginning; the client must then agree on
    the protocol ``postgresql`` by ALPN.
    """

    direct: bool


@dataclass(frozen=True, slots=True)
class NeedSecret:
    """Pending: what is this user's secret? ``ClientLogin.secret_found`` is due.

    Nothing was sent since the startup packet.
    """

    user: str
    database: str


@dataclass(frozen=True, slots=True)
class NeedVerdict:
    """Pending: is this password right? ``ClientLogin.judged`` is due."""

    method: AuthMethod
    user: str
    password: str = field(repr=False)


Pending = NeedSecret | NeedVerdict
Outcome = LoggedIn | Cancel | Closed | StartTls | Pending


@dataclass(frozen=True, slots=True)
class Reply:
    """What one call came to: bytes used up, bytes to send, and the end if reached.

    A login that is pending takes no bytes until its answer is there.
    ``wanted``: without an end, how many bytes the packet has that is awaited, or so
    many of it that its length can be told. Less than that is not worth a call.
    """

    consumed: int
    send: bytes
    outcome: Outcome | None = None
    wanted: int = field(default=0, compare=False)
