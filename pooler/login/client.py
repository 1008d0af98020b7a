# SPDX-License-Identifier: MIT
"""One client, from its first byte until it is who it says. Login layer, sans-IO.

Give ``ClientLogin.receive`` all bytes that are not consumed yet, send what it
returns, drop what it consumed; repeat until there is an outcome. Bytes behind
the last message of the login are never consumed: they are the first query.

Who exists is told to nobody: an unknown user goes through the same exchange as
a known one and fails at its end, with the text of a wrong password; a missing
database is named only after that.

Source: PostgreSQL documentation, "Message Flow", "Start-up"; "SASL
Authentication".
"""

from __future__ import annotations

import enum
import hmac
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import final

from pooler.errors import (
    FEATURE_NOT_SUPPORTED,
    INVALID_AUTHORIZATION,
    INVALID_CATALOG_NAME,
    INVALID_PASSWORD,
    LoginError,
    SilentLoginError,
)
from pooler.login import packets
from pooler.login.md5 import md5_response, md5_secret
from pooler.login.outcomes import Cancel as Cancel
from pooler.login.outcomes import Closed as Closed
from pooler.login.outcomes import LoggedIn as LoggedIn
from pooler.login.outcomes import NeedSecret as NeedSecret
from pooler.login.outcomes import NeedVerdict as NeedVerdict
from pooler.login.outcomes import Outcome, Pending
from pooler.login.outcomes import Reply as Reply
from pooler.login.outcomes import StartTls as StartTls
from pooler.login.policy import (
    NOBODY,
    Asker,
    AuthMethod,
    ClientPeer,
    ClientPolicy,
    ClientTls,
    Demand,
)
from pooler.login.scram import (
    ScramKeys,
    SecretKind,
    SecureRandom,
    ServerExchange,
    Verifier,
    WrongProofError,
    salt_of,
    secret_kind,
)
from pooler.login.startup import (
    CancelRequest,
    DirectTLS,
    GSSENCRequest,
    NeedMore,
    SSLRequest,
    StartupMessage,
    parse_startup,
    select_parameters,
)

_MD5_SALT_BYTES = 4
_NOT_ENCRYPTED = b"N"
_ENCRYPTED = b"S"


class _State(enum.Enum):
    """What is awaited from the client; from elsewhere in SECRET and VERDICT."""

    STARTUP = enum.auto()
    SECRET = enum.auto()
    VERDICT = enum.auto()
    PASSWORD = enum.auto()
    MD5 = enum.auto()
    SASL_INITIAL = enum.auto()
    SASL_FIRST = enum.auto()
    SASL_FINAL = enum.auto()
    DONE = enum.auto()


@final
class ClientLogin:
    """One client from its first byte to authenticated."""

    __slots__ = (
        "_demand",
        "_encryption_requests",
        "_exchange",
        "_kind",
        "_known",
        "_negotiation",
        "_parameters",
        "_peer",
        "_policy",
        "_random",
        "_salt",
        "_secret",
        "_secured",
        "_server_secret",
        "_server_user",
        "_startup",
        "_state",
    )

    def __init__(
        self,
        policy: ClientPolicy,
        *,
        peer: ClientPeer = NOBODY,
        secure_random: SecureRandom = os.urandom,
    ) -> None:
        """``peer``: what is asked of the connection when it matters."""
        self._policy = policy
        self._peer = peer
        self._demand = Demand(policy.method)
        self._secured = False
        self._random = secure_random
        self._state = _State.STARTUP
        self._encryption_requests: set[type[SSLRequest | GSSENCRequest]] = set()
        self._startup: StartupMessage | None = None
        self._parameters: dict[str, str] = {}
        self._secret: str | None = None
        self._kind: SecretKind | None = None
        self._known = False
        self._negotiation = b""
        self._server_user = ""
        self._server_secret: str | None = None
        self._salt = b""
        self._exchange: ServerExchange | None = None

    @property
    def asked(self) -> tuple[str, str]:
        """The database and the user that it has asked for; empty before."""
        if self._startup is None:
            return "", ""
        return self._startup.database, self._startup.user

    @property
    def wants_in(self) -> bool:
        """It has said who it is: no cancel request, nor only a call for encryption."""
        return self._startup is not None

    def secured(self) -> None:
        """What comes from now on has come by TLS."""
        self._secured = True

    def receive(self, data: bytes) -> Reply:
        """Go as far as the bytes allow.

        In:      data = all bytes received and not yet consumed
        Out:     see ``Reply``; without an outcome, what is left is one
                 incomplete packet (at most 64 KiB)
        Errors:  LoginError: tell the client, unless it is a SilentLoginError, and
                 close
        Cost:    one salted password (``scram_iterations`` hashes) for a plain
                 secret under SCRAM, once per user; else some hashes
        """
        consumed = 0
        sent: list[bytes] = []
        while self._state in _STEPS:
            step = _STEPS[self._state](self, data[consumed:])
            if step is None:
                break
            consumed += step.consumed
            sent.append(step.send)
            if step.outcome is not None:
                self._come_to(step.outcome)
                return Reply(consumed, b"".join(sent), step.outcome)
        return Reply(consumed, b"".join(sent), wanted=self._wanted(data[consumed:]))

    def _come_to(self, outcome: Outcome) -> None:
        if not isinstance(outcome, StartTls | Pending):
            self._state = _State.DONE

    def secret_found(self, secret: str | None, server_user: str = "") -> Reply:
        """Answer NeedSecret, with None for a user that nobody knows.

        ``server_user``: how servers know the user, if by another name. Out and Errors
        are those of ``receive``, which goes on with the bytes that have come meanwhile.
        """
        assert self._state is _State.SECRET  # noqa: S101 - one answer to one question
        self._server_user = server_user
        self._server_secret = secret
        reply = self._challenge(secret, known=secret is not None)
        if reply.outcome is not None:
            self._come_to(reply.outcome)
        return reply

    def judged(self, why_not: str) -> Reply:
        """Answer NeedVerdict: empty if the password is right, else why it is not.

        LoginError if it is not; the client does not hear why.
        """
        assert self._state is _State.VERDICT  # noqa: S101 - one answer to one question
        if why_not:
            name = self._demand.method.name
            raise LoginError(
                f"{name} authentication failed", INVALID_PASSWORD, why=why_not
            )
        reply = Reply(0, b"", self._logged_in())
        self._state = _State.DONE
        return reply

    def _wanted(self, data: bytes) -> int:
        """How many bytes the packet has that begins here; its length was judged."""
        if self._state is _State.STARTUP:
            return packets.size_of_packet(data)
        return packets.size_of_message(data)

    # Steps: each takes one packet, or returns None while it is incomplete.

    def _take_startup(self, data: bytes) -> Reply | None:
        request = parse_startup(data)
        match request:
            case NeedMore():
                return None
            case DirectTLS():
                if self._may_secure() and not self._encryption_requests:
                    return Reply(0, b"", StartTls(direct=True))
                return Reply(len(data), b"", Closed())
            case CancelRequest(key, consumed):
                return Reply(consumed, b"", Cancel(key))
            case StartupMessage():
                return self._begin(request)
            case SSLRequest() | GSSENCRequest():
                return self._answer_encryption(request)

    @property
    def _is_local(self) -> bool:
        """It came by a Unix socket, where TLS is no matter."""
        return self._peer.address is None

    def _may_secure(self) -> bool:
        return (
            self._policy.tls is not ClientTls.REFUSED
            and self._policy.can_secure
            and not self._is_local
            and not self._secured
        )

    def _answer_encryption(self, request: SSLRequest | GSSENCRequest) -> Reply:
        """Answer S and go on by TLS; or N: the client goes on in the clear, or leaves.

        Each kind once, as PostgreSQL does; either may come first.
        """
        if type(request) in self._encryption_requests:
            raise LoginError(
                f"second {type(request).__name__} on one connection",
                FEATURE_NOT_SUPPORTED,
            )
        self._encryption_requests.add(type(request))
        if isinstance(request, SSLRequest) and self._may_secure():
            return Reply(request.consumed, _ENCRYPTED, StartTls(direct=False))
        return Reply(request.consumed, _NOT_ENCRYPTED)

    def _begin(self, startup: StartupMessage) -> Reply:
        """Check what was asked for and ask for the proof."""
        policy = self._policy
        if policy.tls is ClientTls.REQUIRED and not (self._secured or self._is_local):
            raise LoginError("SSL required")
        ignored = policy.ignore_startup_parameters
        if startup.replication:
            # Its server judges them: nothing is refused here.
            ignored = frozenset(map(str.lower, startup.parameters)) | {"options"}
        self._parameters = select_parameters(
            startup.parameters, ignored, policy.tracked
        )
        self._startup = startup
        self._choose_method(startup)
        if startup.needs_negotiation:
            self._negotiation = packets.negotiate_protocol_version(
                startup.minor_protocol, startup.protocol_options
            )
        method = self._demand.method
        if method in _JUDGED_ELSEWHERE:
            return Reply(startup.consumed, self._negotiation + self._ask_password())
        secret = policy.secrets(startup.user)
        if (
            secret is None
            and method is not AuthMethod.ANY
            and policy.can_ask(startup.database)
        ):
            if method in _UNASKED:
                _UNASKED[method](self, True)  # nobody is asked without a proof
            self._state = _State.SECRET
            return Reply(
                startup.consumed, b"", NeedSecret(startup.user, startup.database)
            )
        known = secret is not None or not policy.known_users_only
        reply = self._challenge(secret, known=known)
        return Reply(startup.consumed, reply.send, reply.outcome)

    def _challenge(self, secret: str | None, *, known: bool) -> Reply:
        """Ask for the proof, or do without."""
        # An empty secret is how a removed user is kept: no password opens it.
        self._known = known
        self._secret = secret or None
        self._kind = None if self._secret is None else secret_kind(self._secret)
        check = _UNASKED.get(self._demand.method)
        if check is not None:
            check(self, known)
            return Reply(0, self._negotiation, self._logged_in())
        challenge = _CHALLENGES[self._demand.method, self._kind](self)
        return Reply(0, self._negotiation + challenge)

    def _choose_method(self, startup: StartupMessage) -> None:
        if startup.database == self._policy.console and self._is_operator(startup):
            self._demand = Demand(AuthMethod.ANY)
        elif self._policy.demand is not None:
            self._demand = self._policy.demand(
                Asker(
                    startup.user,
                    startup.database,
                    self._peer.address,
                    self._secured,
                    startup.replication,
                )
            )

    def _is_operator(self, startup: StartupMessage) -> bool:
        """Whoever runs as our own user may do all to us anyway."""
        return startup.user == self._policy.console and self._peer.is_own()

    # Proofs that need no question: the connection itself has them.

    def _let_in(self, known: bool) -> None:
        """Everybody may be anybody."""

    def _check_known(self, known: bool) -> None:
        if not known:
            raise LoginError(
                '"trust" authentication failed',
                INVALID_AUTHORIZATION,
                why="no such user",
            )

    def _check_os_user(self, known: bool) -> None:
        self._check_system_user(
            self._peer.os_user(), known, "unix socket login rejected", "system user"
        )

    def _check_certificate(self, known: bool) -> None:
        self._check_system_user(
            self._peer.certificate_name() if self._secured else None,
            known,
            "certificate authentication failed",
            "certificate",
        )

    def _check_system_user(
        self, who: str | None, known: bool, message: str, kind: str
    ) -> None:
        if who is None:
            why = f"there is no {kind}"
        elif not self._demand.is_mapped(who, self._name()):
            why = f'{kind} "{who}" may not be this user'
        elif not known:
            why = "no such user"
        else:
            return
        raise LoginError(message, INVALID_AUTHORIZATION, why=why)

    # Challenges: what to ask for, by method and kind of secret.

    def _ask_password(self) -> bytes:
        self._state = _State.PASSWORD
        return packets.authentication_cleartext_password()

    def _ask_md5(self) -> bytes:
        self._state = _State.MD5
        self._salt = self._random(_MD5_SALT_BYTES)
        return packets.authentication_md5_password(self._salt)

    def _ask_scram_stored(self) -> bytes:
        return self._ask_scram(Verifier.parse(self._secret or ""))

    def _ask_scram_plain(self) -> bytes:
        policy, user = self._policy, self._name()
        verifier = policy.verifiers.get(
            user,
            self._secret or "",
            salt_of(user, policy.mock_key),
            policy.scram_iterations,
        )
        return self._ask_scram(verifier)

    def _ask_scram_mock(self) -> bytes:
        return self._ask_scram(None)

    def _ask_scram(self, verifier: Verifier | None) -> bytes:
        """Offer SCRAM; without a verifier the exchange runs and fails at its end."""
        policy = self._policy
        self._exchange = ServerExchange(
            verifier
            or Verifier.mock(self._name(), policy.mock_key, policy.scram_iterations),
            doomed=verifier is None,
            binding=policy.certificate_hash if self._secured else b"",
            secure_random=self._random,
        )
        self._state = _State.SASL_INITIAL
        return packets.authentication_sasl(self._exchange.mechanisms)

    # Answers to challenges.

    def _take_password(self, data: bytes) -> Reply | None:
        message = self._read_answer(data)
        if message is None:
            return None
        password = self._read_password(message)
        if self._demand.method in _JUDGED_ELSEWHERE:
            self._state = _State.VERDICT
            self._server_secret = password
            verdict = NeedVerdict(self._demand.method, self._name(), password)
            return Reply(message.end, b"", verdict)
        check = None if self._kind is None else _PASSWORD_CHECKS[self._kind]
        if check is None or not check(self, password):
            raise self._refused("password authentication failed")
        return Reply(message.end, b"", self._logged_in())

    def _take_md5(self, data: bytes) -> Reply | None:
        message = self._read_answer(data)
        if message is None:
            return None
        answer = self._read_password(message)
        known = self._secret is not None
        secret = self._secret if self._secret is not None else self._random(16).hex()
        if secret_kind(secret) is SecretKind.PLAIN:
            secret = md5_secret(secret, self._name())
        same = _same(answer, md5_response(secret, self._salt))
        if not (same and known):
            raise self._refused("password authentication failed")
        return Reply(message.end, b"", self._logged_in())

    def _take_sasl_initial(self, data: bytes) -> Reply | None:
        message = self._read_answer(data)
        if message is None:
            return None
        mechanism, response = packets.read_sasl_initial_response(message.body)
        self._scram().choose(mechanism)
        if response is None:
            # RFC 4422: an empty challenge asks for what the client held back.
            self._state = _State.SASL_FIRST
            return Reply(message.end, packets.authentication_sasl_continue(b""))
        return self._continue_sasl(message.end, response)

    def _take_sasl_first(self, data: bytes) -> Reply | None:
        message = self._read_answer(data)
        if message is None:
            return None
        return self._continue_sasl(message.end, message.body)

    def _continue_sasl(self, consumed: int, client_first: bytes) -> Reply:
        self._state = _State.SASL_FINAL
        challenge = self._scram().first(client_first)
        return Reply(consumed, packets.authentication_sasl_continue(challenge))

    def _take_sasl_final(self, data: bytes) -> Reply | None:
        message = self._read_answer(data)
        if message is None:
            return None
        exchange = self._scram()
        try:
            answer = exchange.final(message.body)
        except WrongProofError as error:
            raise self._refused(error.message) from None
        proof = packets.authentication_sasl_final(answer)
        # Keys of a verifier we made ourselves open no server.
        stored = self._kind is SecretKind.SCRAM
        return Reply(
            message.end, proof, self._logged_in(exchange.keys if stored else None)
        )

    # Parts of steps.

    def _read_answer(self, data: bytes) -> packets.Message | None:
        """Read a message of type ``p``; its type is judged before its length.

        Terminate is refused like any other: a client that leaves during the
        login closes the connection. A length out of bounds ends the login as in
        PostgreSQL: without a word, or as a failed SASL exchange.
        """
        if data and data[:1] != b"p":
            raise LoginError(
                f"expected password response, got message type 0x{data[0]:02x}"
            )
        sasl = self._exchange is not None
        try:
            return packets.read_message(
                data, 0, packets.MAX_SASL_BYTES if sasl else packets.MAX_PASSWORD_BYTES
            )
        except LoginError as error:
            if sasl:
                raise LoginError(
                    f"SASL authentication failed: {error.message}", INVALID_PASSWORD
                ) from None
            raise SilentLoginError(error.message) from None

    def _read_password(self, message: packets.Message) -> str:
        password = packets.read_password(message.body)
        if not password:
            raise LoginError("empty password returned by client", INVALID_PASSWORD)
        return password

    def _refused(self, message: str) -> LoginError:
        """The client hears what everybody hears; the log, what it was."""
        why = "wrong password"
        if not self._known:
            why = "no such user"
        elif self._secret is None:
            why = "the user has no password"
        return LoginError(message, INVALID_PASSWORD, why=why)

    def _check_plain(self, password: str) -> bool:
        return _same(password, self._secret or "")

    def _check_md5(self, password: str) -> bool:
        return _same(md5_secret(password, self._name()), self._secret or "")

    def _check_scram(self, password: str) -> bool:
        verifier = Verifier.parse(self._secret or "")
        return verifier is not None and verifier.matches(password)

    def _logged_in(self, scram_keys: ScramKeys | None = None) -> LoggedIn:
        """End the login. Only from here on may a client learn what exists."""
        startup, policy = self._startup_message(), self._policy
        if not policy.database_exists(startup.database):
            raise LoginError(
                f"no such database: {startup.database}", INVALID_CATALOG_NAME
            )
        forced_user = policy.forced_user(startup.database)
        return LoggedIn(
            user=startup.user,
            server_user=forced_user or self._server_user or startup.user,
            database=startup.database,
            parameters=self._parameters,
            # The keys are this client's own; a forced user has others.
            scram_keys=None if forced_user else scram_keys,
            secret=None if forced_user else self._server_secret or None,
            minor_protocol=startup.minor_protocol,
            replication=startup.replication,
            startup_parameters=startup.parameters if startup.replication else {},
        )

    def _name(self) -> str:
        return self._startup_message().user

    def _startup_message(self) -> StartupMessage:
        assert self._startup is not None  # noqa: S101 - set before any other state
        return self._startup

    def _scram(self) -> ServerExchange:
        assert self._exchange is not None  # noqa: S101 - set with the SASL states
        return self._exchange


def _same(left: str, right: str) -> bool:
    """Compare two secrets in a time that tells nothing of them."""
    return hmac.compare_digest(packets.encode(left), packets.encode(right))


_Step = Callable[[ClientLogin, bytes], Reply | None]
_Challenge = Callable[[ClientLogin], bytes]
_Check = Callable[[ClientLogin, str], bool]

_STEPS: Mapping[_State, _Step] = MappingProxyType(
    {
        _State.STARTUP: ClientLogin._take_startup,
        _State.PASSWORD: ClientLogin._take_password,
        _State.MD5: ClientLogin._take_md5,
        _State.SASL_INITIAL: ClientLogin._take_sasl_initial,
        _State.SASL_FIRST: ClientLogin._take_sasl_first,
        _State.SASL_FINAL: ClientLogin._take_sasl_final,
    }
)

_CHALLENGES: Mapping[tuple[AuthMethod, SecretKind | None], _Challenge] = (
    MappingProxyType(
        {
            (AuthMethod.PLAIN, None): ClientLogin._ask_password,
            (AuthMethod.PLAIN, SecretKind.PLAIN): ClientLogin._ask_password,
            (AuthMethod.PLAIN, SecretKind.MD5): ClientLogin._ask_password,
            (AuthMethod.PLAIN, SecretKind.SCRAM): ClientLogin._ask_password,
            (AuthMethod.MD5, None): ClientLogin._ask_md5,
            (AuthMethod.MD5, SecretKind.PLAIN): ClientLogin._ask_md5,
            (AuthMethod.MD5, SecretKind.MD5): ClientLogin._ask_md5,
            (AuthMethod.MD5, SecretKind.SCRAM): ClientLogin._ask_scram_stored,
            (AuthMethod.SCRAM, None): ClientLogin._ask_scram_mock,
            (AuthMethod.SCRAM, SecretKind.PLAIN): ClientLogin._ask_scram_plain,
            # A md5 hash has no SCRAM keys: such a user cannot log in this way.
            (AuthMethod.SCRAM, SecretKind.MD5): ClientLogin._ask_scram_mock,
            (AuthMethod.SCRAM, SecretKind.SCRAM): ClientLogin._ask_scram_stored,
        }
    )
)

# Who takes the password itself, and needs no secret of ours.
_JUDGED_ELSEWHERE = frozenset({AuthMethod.PAM, AuthMethod.LDAP})

_UNASKED: Mapping[AuthMethod, Callable[[ClientLogin, bool], None]] = MappingProxyType(
    {
        AuthMethod.ANY: ClientLogin._let_in,
        AuthMethod.TRUST: ClientLogin._check_known,
        AuthMethod.PEER: ClientLogin._check_os_user,
        AuthMethod.CERT: ClientLogin._check_certificate,
    }
)

_PASSWORD_CHECKS: Mapping[SecretKind, _Check] = MappingProxyType(
    {
        SecretKind.PLAIN: ClientLogin._check_plain,
        SecretKind.MD5: ClientLogin._check_md5,
        SecretKind.SCRAM: ClientLogin._check_scram,
    }
)
