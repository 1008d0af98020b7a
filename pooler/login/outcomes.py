# SPDX-License-Identifier: MIT
"""What a client's login comes to, and what it waits for. Login layer, sans-IO."""

from __future__ import annotations

from dataclasses import dataclass, field

from pooler.auth.secrets import StoredSecret
from pooler.login.policy import AuthMethod
from pooler.login.scram import KeyRequest, ScramKeys
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


@dataclass(frozen=True, slots=True)
class NeedKeys:
    """Pending: keys that cost many hashes. ``ClientLogin.keys_found`` is due.

    ``is_ours``: they are those of a secret of ours, so that who asks for the same may
    share them. What clients say is hashed for each, or a refusal would tell of others.
    """

    request: KeyRequest
    is_ours: bool


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a login was, for those who send the same packet from the same place.

    ``before``: what was sent in front of the question. Without ``secret`` nothing was
    asked. ``found``: the secret is an answer to NeedSecret.
    """

    packet: bytes
    before: bytes
    question: int
    secret: StoredSecret | None
    found: bool


@dataclass(frozen=True, slots=True)
class LedElsewhere:
    """A login that the engine has led so far, by what was remembered.

    ``code``: what the proof came to (ProofCode). ``answer``: what is to be sent if it
    was given. ``kind`` and ``length``: of the message that has ended it.
    """

    packet: bytes
    code: int
    question: int
    kind: int
    length: int
    secret: StoredSecret
    client_key: bytes = field(repr=False)
    answer: bytes


Pending = NeedSecret | NeedVerdict | NeedKeys
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
