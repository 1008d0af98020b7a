# SPDX-License-Identifier: MIT
"""We log in to a PostgreSQL server. Login layer, sans-IO.

Send ``start()``, give ``receive`` all bytes not consumed yet, send what it
returns; the login is over when ``greeting`` is set. Bytes behind ReadyForQuery
are never consumed.

The server may be an impostor. It gets a SCRAM proof only for a challenge within
bounds, and in SCRAM it is believed only after its own proof; what it may make us
store or compute before it is done is limited.

Source: PostgreSQL documentation, "Message Flow", "Start-up"; "SASL
Authentication"; "Error and Notice Message Fields".
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import final

from pooler.errors import (
    CONNECTION_FAILURE,
    FEATURE_NOT_SUPPORTED,
    INVALID_PASSWORD,
    PROTOCOL_VIOLATION,
    LoginError,
)
from pooler.login import packets
from pooler.login.md5 import md5_response, md5_secret
from pooler.login.scram import (
    MAX_ITERATIONS,
    ClientExchange,
    FindKeys,
    KeyRequest,
    ScramKeys,
    SecretKind,
    SecureRandom,
    secret_kind,
)
from pooler.parameters import TRACKED_PARAMETERS

MAX_MESSAGE_BYTES = 65_536
# All messages of one login together: parameters and notices have no other bound.
MAX_LOGIN_BYTES = 1_048_576
MAX_LOGIN_MESSAGES = 4_096
# Parameters are kept, and told to every client.
MAX_PARAMETER_BYTES = 65_536
MAX_NOTICES = 16
MAX_ERROR_CHARACTERS = 1_024

_SQLSTATE = re.compile(r"[0-9A-Z]{5}")
_QUOTED_BYTES = 200

# How servers from before NegotiateProtocolVersion refuse a minor version. The
# first is PostgreSQL's text (whose translations keep the version itself), the
# second that of poolers and look-alikes, the third PgBouncer's before 1.23.
_PROTOCOL_REFUSAL_CODES = frozenset({FEATURE_NOT_SUPPORTED, PROTOCOL_VIOLATION})
_PROTOCOL_REFUSAL = re.compile(
    r"unsupported frontend protocol|protocol version|\Abad packet header",
    re.IGNORECASE,
)


def _cut(text: str) -> str:
    if len(text) <= MAX_ERROR_CHARACTERS:
        return text
    return text[:MAX_ERROR_CHARACTERS] + "…"


class ServerLoginError(LoginError):
    """The server refused us, or we refuse it.

    ``server_message`` is what the server itself said, and then the whole message: who
    waits for a server hears its words, as behind PgBouncer. Texts are
    cut at ``MAX_ERROR_CHARACTERS``: they go to every client that waits.
    ``unsupported_protocol``: it stumbled over the minor version we asked for; a
    new connection with ``minor=0`` may succeed. Never true when that was asked.
    """

    def __init__(
        self,
        message: str,
        sqlstate: str = CONNECTION_FAILURE,
        server_message: str | None = None,
        *,
        unsupported_protocol: bool = False,
    ) -> None:
        super().__init__(_cut(message), sqlstate)
        self.server_message = None if server_message is None else _cut(server_message)
        self.unsupported_protocol = unsupported_protocol


@dataclass(frozen=True, slots=True)
class ServerGreeting:
    """What a server told us about itself by the time it was ready.

    ``parameters``: canonical name to value, in the order of arrival.
    ``cancel_key``: without the process id; empty if there was none. More than
    four bytes belong to 3.2, but are taken from any server.
    ``scram_keys``: those that were used. They spare the next login to the same
    server the cost of salting the password.
    ``minor_protocol``: the minor version agreed on.
    """

    parameters: dict[str, str]
    backend_pid: int
    cancel_key: bytes = field(repr=False)
    notices: tuple[str, ...] = ()
    scram_keys: ScramKeys | None = field(default=None, repr=False)
    minor_protocol: int = 0


class _State(enum.Enum):
    """How far the server has come."""

    ASKED = enum.auto()
    PASSWORD_SENT = enum.auto()
    SASL_STARTED = enum.auto()
    SASL_CHALLENGED = enum.auto()
    SASL_PROVEN_BY_US = enum.auto()
    SASL_PROVEN_BY_BOTH = enum.auto()
    AUTHENTICATED = enum.auto()
    READY = enum.auto()


_BEFORE_OK = frozenset(_State) - {_State.AUTHENTICATED, _State.READY}
_MAY_SAY_OK = frozenset(
    {_State.ASKED, _State.PASSWORD_SENT, _State.SASL_PROVEN_BY_BOTH}
)
_BEFORE_READY = frozenset(_State) - {_State.READY}
# Where nothing is read, whatever has come.
_STOPS = frozenset({_State.SASL_CHALLENGED, _State.READY})


@final
class ServerLogin:
    """One login to one server.

    ``secret`` as in auth_file: a password, a md5 hash or a SCRAM verifier. The
    last opens a server only together with ``scram_keys`` that a client proved
    to own. Keys for another salt are ignored if there is a password.

    ``parameters`` go into the startup packet as they are, ``replication`` too.
    ``minor``: the minor protocol version to ask for. ``tracked``: lower-case to
    canonical name of parameters; reported ones appear under the latter.

    ``binding``: the hash of the server's certificate, over TLS; SCRAM is bound to it
    if the server offers that, and a removed offer is noticed by the server.

    ``find_keys``: makes or finds the keys of a password for a server's salt. If it has
    none, ``wanted`` is set and nothing is consumed until ``proceed`` brings them.
    ``max_iterations``: the most that a server may make us compute.
    """

    __slots__ = (
        "_asked_minor",
        "_backend_pid",
        "_binding",
        "_cancel_key",
        "_database",
        "_exchange",
        "_find_keys",
        "_max_iterations",
        "_negotiated_minor",
        "_notices",
        "_parameter_bytes",
        "_parameters",
        "_random",
        "_reported",
        "_scram_keys",
        "_secret",
        "_secret_kind",
        "_state",
        "_total_bytes",
        "_total_messages",
        "_tracked",
        "_user",
        "greeting",
    )

    def __init__(
        self,
        user: str,
        database: str,
        secret: str | None,
        parameters: Mapping[str, str],
        scram_keys: ScramKeys | None = None,
        *,
        minor: int = packets.NEWEST_MINOR,
        tracked: Mapping[str, str] = TRACKED_PARAMETERS,
        binding: bytes = b"",
        max_iterations: int = MAX_ITERATIONS,
        find_keys: FindKeys = KeyRequest.derive,
        secure_random: SecureRandom = os.urandom,
    ) -> None:
        self._user = user
        self._database = database
        self._secret = secret or None
        self._secret_kind = None if self._secret is None else secret_kind(self._secret)
        self._parameters = parameters
        self._scram_keys = scram_keys
        self._asked_minor = minor
        self._negotiated_minor: int | None = None
        self._tracked = tracked
        self._binding = binding
        self._max_iterations = max_iterations
        self._find_keys = find_keys
        self._random = secure_random
        self._state = _State.ASKED
        self._exchange: ClientExchange | None = None
        self._reported: dict[str, str] = {}
        self._notices: list[str] = []
        self._backend_pid = 0
        self._cancel_key = b""
        self._total_bytes = 0
        self._total_messages = 0
        self._parameter_bytes = 0
        self.greeting: ServerGreeting | None = None

    @property
    def wanted(self) -> KeyRequest | None:
        """What ``proceed`` waits for."""
        return None if self._exchange is None else self._exchange.wanted

    def start(self) -> bytes:
        """Return the StartupMessage."""
        try:
            packet = packets.startup_message(
                {**self._parameters, "user": self._user, "database": self._database},
                packets.PROTOCOL_3_0 + self._asked_minor,
            )
        except LoginError as error:
            raise ServerLoginError(f"server login failed: {error.message}") from error
        if len(packet) > packets.MAX_STARTUP_BYTES:
            raise ServerLoginError("startup packet for the server is too long")
        return packet

    def receive(self, data: bytes) -> tuple[int, bytes]:
        """Take whole messages; stop behind ReadyForQuery.

        In:      data = all bytes received and not yet consumed
        Out:     bytes consumed, bytes to send
        Errors:  ServerLoginError; the connection must be closed
        Cost:    some hashes, and what ``find_keys`` costs
        """
        try:
            return self._receive(data)
        except ServerLoginError:
            raise
        except LoginError as error:
            raise ServerLoginError(
                f"server login failed: {error.message}", error.sqlstate
            ) from error

    def _receive(self, data: bytes) -> tuple[int, bytes]:
        consumed = 0
        sent: list[bytes] = []
        while self._state not in _STOPS:
            message = self._read(data, consumed)
            if message is None:
                break
            self._total_bytes += message.end - consumed
            self._total_messages += 1
            if (
                self._total_bytes > MAX_LOGIN_BYTES
                or self._total_messages > MAX_LOGIN_MESSAGES
            ):
                raise LoginError("the server's answer is too long")
            consumed = message.end
            sent.append(self._take(message))
        return consumed, b"".join(sent)

    def _read(self, data: bytes, start: int) -> packets.Message | None:
        """Read one message; quote what is none.

        A server that cannot even fork complains in the form of protocol 2,
        whose text then stands where the length should.
        """
        try:
            return packets.read_message(data, start, MAX_MESSAGE_BYTES)
        except LoginError as error:
            quoted = data[start : start + _QUOTED_BYTES]
            raise LoginError(f"{error.message}; the server sent {quoted!r}") from None

    def _take(self, message: packets.Message) -> bytes:
        allowed, handler = _HANDLERS.get(message.kind, (frozenset(), None))
        if handler is None or self._state not in allowed:
            raise LoginError(f"unexpected message of type {message.kind!r} from server")
        return handler(self, message.body)

    # Messages.

    def _take_authentication(self, body: bytes) -> bytes:
        reader = packets.Reader(body, "Authentication")
        code = reader.int32()
        allowed, handler = _AUTHENTICATION.get(code, (frozenset(), None))
        if handler is None:
            name = _UNSUPPORTED.get(code, "unknown")
            raise LoginError(f"unsupported authentication request {code} ({name})")
        if self._state not in allowed:
            raise LoginError(
                f"unexpected authentication request {code} ({_NAMES[code]}) from server"
            )
        return handler(self, reader.rest())

    def _take_ok(self, body: bytes) -> bytes:
        packets.Reader(body, "AuthenticationOk").finish()
        self._state = _State.AUTHENTICATED
        return b""

    def _take_cleartext(self, body: bytes) -> bytes:
        packets.Reader(body, "AuthenticationCleartextPassword").finish()
        password = self._secret_of("a password", SecretKind.PLAIN)
        self._state = _State.PASSWORD_SENT
        return packets.password_message(password)

    def _take_md5(self, body: bytes) -> bytes:
        reader = packets.Reader(body, "AuthenticationMD5Password")
        salt = reader.raw(4)
        reader.finish()
        secret = self._secret_of("a md5 password", SecretKind.PLAIN, SecretKind.MD5)
        if self._secret_kind is SecretKind.PLAIN:
            secret = md5_secret(secret, self._user)
        self._state = _State.PASSWORD_SENT
        return packets.password_message(md5_response(secret, salt))

    def _take_sasl(self, body: bytes) -> bytes:
        # The list is read to its end: over TLS a PLUS mechanism stands first.
        mechanisms = packets.read_sasl_mechanisms(body)
        if packets.SCRAM_SHA_256 not in mechanisms:
            raise LoginError(
                "the server offers no supported SASL mechanism: "
                + ", ".join(mechanisms[:8])
            )
        if self._secret_kind is SecretKind.PLAIN:
            password = self._secret
        elif self._scram_keys is not None:
            password = None
        else:
            password = self._secret_of("SCRAM-SHA-256", SecretKind.PLAIN)
        self._exchange = ClientExchange(
            password,
            self._scram_keys,
            binding=self._binding,
            plus_offered=packets.SCRAM_SHA_256_PLUS in mechanisms,
            max_iterations=self._max_iterations,
            find_keys=self._find_keys,
            secure_random=self._random,
        )
        self._state = _State.SASL_STARTED
        return packets.sasl_initial_response(
            self._exchange.mechanism, self._exchange.first()
        )

    def _take_sasl_continue(self, body: bytes) -> bytes:
        answer = self._scram().final(body)
        if self.wanted is not None:
            self._state = _State.SASL_CHALLENGED
            return b""
        return self._prove(answer)

    def proceed(self, keys: ScramKeys) -> bytes:
        """Go on with the keys that were ``wanted``; returns what to send.

        ``receive`` is due behind it, for what has come meanwhile.
        """
        return self._prove(self._scram().proceed(keys))

    def _prove(self, answer: bytes) -> bytes:
        self._state = _State.SASL_PROVEN_BY_US
        return packets.sasl_response(answer)

    def _take_sasl_final(self, body: bytes) -> bytes:
        self._scram().verify(body)
        self._state = _State.SASL_PROVEN_BY_BOTH
        return b""

    def _take_error(self, body: bytes) -> bytes:
        fields = packets.read_report(body)
        text = fields.get("M") or "the server gave no reason"
        code = fields.get("C", "")
        raise ServerLoginError(
            text,
            code if _SQLSTATE.fullmatch(code) else CONNECTION_FAILURE,
            text,
            unsupported_protocol=self._refuses_protocol(code, text),
        )

    def _refuses_protocol(self, code: str, text: str) -> bool:
        """Whether an error is about our minor version: only a first answer is."""
        return (
            self._asked_minor > 0
            and self._state is _State.ASKED
            and self._negotiated_minor is None
            and code in _PROTOCOL_REFUSAL_CODES
            and (
                f"3.{self._asked_minor}" in text or bool(_PROTOCOL_REFUSAL.search(text))
            )
        )

    def _take_notice(self, body: bytes) -> bytes:
        if len(self._notices) < MAX_NOTICES:
            self._notices.append(packets.read_report(body).get("M", ""))
        return b""

    def _take_negotiation(self, body: bytes) -> bytes:
        """Go down to the server's version; a repetition (PgBouncer's) is harmless."""
        try:
            major, minor = packets.read_negotiate_protocol_version(body)
            # 3.1 is reserved: it is not a version that anybody can speak.
            if major != 3 or minor > self._asked_minor or minor == 1:
                raise LoginError(
                    f"the server answers protocol 3.{self._asked_minor} with"
                    f" {major}.{minor}"
                )
            if self._negotiated_minor not in (None, minor):
                raise LoginError("the server negotiates the protocol twice")
        except LoginError as error:
            raise ServerLoginError(
                f"server login failed: {error.message}",
                error.sqlstate,
                unsupported_protocol=self._asked_minor > 0,
            ) from None
        self._negotiated_minor = minor
        return b""

    def _take_parameter(self, body: bytes) -> bytes:
        name, value = packets.read_parameter_status(body)
        self._parameter_bytes += len(body)
        if self._parameter_bytes > MAX_PARAMETER_BYTES:
            raise LoginError("the server reports too many parameters")
        self._reported[self._tracked.get(name.lower(), name)] = value
        return b""

    def _take_key(self, body: bytes) -> bytes:
        self._backend_pid, self._cancel_key = packets.read_backend_key_data(body)
        return b""

    def _take_ready(self, body: bytes) -> bytes:
        if body != b"I":
            raise LoginError("malformed ReadyForQuery message")
        self._state = _State.READY
        self.greeting = ServerGreeting(
            parameters=self._reported,
            backend_pid=self._backend_pid,
            cancel_key=self._cancel_key,
            notices=tuple(self._notices),
            scram_keys=None if self._exchange is None else self._exchange.keys,
            minor_protocol=self._minor(),
        )
        return b""

    def _minor(self) -> int:
        """Return the agreed version: a server that says nothing takes the asked one."""
        negotiated = self._negotiated_minor
        return self._asked_minor if negotiated is None else negotiated

    def _secret_of(self, wanted: str, *kinds: SecretKind) -> str:
        """Return the secret if it is of a kind that answers this request."""
        if self._secret is None:
            raise LoginError(
                f'the server asks user "{self._user}" for {wanted}, but auth_file'
                " and password= give none",
                INVALID_PASSWORD,
            )
        if self._secret_kind not in kinds:
            raise LoginError(
                f'wrong password type: the server asks user "{self._user}" for'
                f" {wanted}, but its secret is a hash that cannot answer this",
                INVALID_PASSWORD,
            )
        return self._secret

    def _scram(self) -> ClientExchange:
        assert self._exchange is not None  # noqa: S101 - set with the SASL states
        return self._exchange


_Handler = Callable[[ServerLogin, bytes], bytes]
_Table = Mapping[int, tuple[frozenset[_State], _Handler]]

# Type byte to the states in which the message may come, and what takes it.
_HANDLERS: Mapping[bytes, tuple[frozenset[_State], _Handler]] = MappingProxyType(
    {
        b"R": (_BEFORE_OK, ServerLogin._take_authentication),
        b"E": (_BEFORE_READY, ServerLogin._take_error),
        b"N": (_BEFORE_READY, ServerLogin._take_notice),
        b"v": (_BEFORE_OK, ServerLogin._take_negotiation),
        b"S": (frozenset({_State.AUTHENTICATED}), ServerLogin._take_parameter),
        b"K": (frozenset({_State.AUTHENTICATED}), ServerLogin._take_key),
        b"Z": (frozenset({_State.AUTHENTICATED}), ServerLogin._take_ready),
    }
)

_AUTHENTICATION: _Table = MappingProxyType(
    {
        packets.AUTH_OK: (_MAY_SAY_OK, ServerLogin._take_ok),
        packets.AUTH_CLEARTEXT: (
            frozenset({_State.ASKED}),
            ServerLogin._take_cleartext,
        ),
        packets.AUTH_MD5: (frozenset({_State.ASKED}), ServerLogin._take_md5),
        packets.AUTH_SASL: (frozenset({_State.ASKED}), ServerLogin._take_sasl),
        packets.AUTH_SASL_CONTINUE: (
            frozenset({_State.SASL_STARTED}),
            ServerLogin._take_sasl_continue,
        ),
        packets.AUTH_SASL_FINAL: (
            frozenset({_State.SASL_PROVEN_BY_US}),
            ServerLogin._take_sasl_final,
        ),
    }
)

_UNSUPPORTED: Mapping[int, str] = MappingProxyType(
    {
        1: "Kerberos V4",
        2: "Kerberos V5",
        4: "crypt",
        6: "SCM",
        7: "GSSAPI",
        8: "GSSAPI",
        9: "SSPI",
    }
)
_NAMES: Mapping[int, str] = MappingProxyType(
    {
        packets.AUTH_OK: "AuthenticationOk",
        packets.AUTH_CLEARTEXT: "password in the clear",
        packets.AUTH_MD5: "md5",
        packets.AUTH_SASL: "SASL",
        packets.AUTH_SASL_CONTINUE: "SASL challenge",
        packets.AUTH_SASL_FINAL: "SASL outcome",
    }
)
