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
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import final

from pooler.auth.exchange import ProofCode, Question
from pooler.auth.proof import RANDOM_BYTES, Proof, WrongProofError, proof_error
from pooler.auth.secrets import StoredSecret
from pooler.errors import (
    FEATURE_NOT_SUPPORTED,
    INVALID_AUTHORIZATION,
    INVALID_CATALOG_NAME,
    INVALID_PASSWORD,
    LoginError,
)
from pooler.login import packets
from pooler.login.md5 import md5_secret
from pooler.login.outcomes import Cancel as Cancel
from pooler.login.outcomes import Closed as Closed
from pooler.login.outcomes import LedElsewhere, Outcome, Pending, Remembered
from pooler.login.outcomes import LoggedIn as LoggedIn
from pooler.login.outcomes import NeedKeys as NeedKeys
from pooler.login.outcomes import NeedSecret as NeedSecret
from pooler.login.outcomes import NeedVerdict as NeedVerdict
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
    KeyRequest,
    ScramKeys,
    SecretKind,
    SecureRandom,
    Verifier,
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

_NOT_ENCRYPTED = b"N"
_ENCRYPTED = b"S"


class _State(enum.Enum):
    """What is awaited from the client; from elsewhere in SECRET, VERDICT and KEYS."""

    STARTUP = enum.auto()
    SECRET = enum.auto()
    VERDICT = enum.auto()
    KEYS = enum.auto()
    PROOF = enum.auto()
    DONE = enum.auto()


@final
class ClientLogin:
    """One client from its first byte to authenticated."""

    __slots__ = (
        "_demand",
        "_elsewhere",
        "_encryption_requests",
        "_found",
        "_kind",
        "_known",
        "_negotiation",
        "_packet",
        "_parameters",
        "_peer",
        "_policy",
        "_proof",
        "_random",
        "_secret",
        "_secured",
        "_server_secret",
        "_server_user",
        "_startup",
        "_state",
        "_stored",
        "_verifier",
        "_with_keys",
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
        self._packet = b""
        self._proof: Proof | None = None
        self._stored: StoredSecret | None = None
        self._elsewhere = False
        self._found = False
        self._verifier: Verifier | None = None
        self._with_keys: _WithKeys | None = None

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
        Cost:    some hashes, and what ``find_keys`` costs: for a plain secret under
                 SCRAM once per user, for a password and a SCRAM secret each time
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
        self._found = True
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

    def keys_found(self, keys: ScramKeys) -> Reply:
        """Answer NeedKeys. Out and Errors are those of ``secret_found``."""
        then, self._with_keys = self._with_keys, None
        assert then is not None  # noqa: S101 - one answer to one question
        reply = then(self, keys)
        if reply.outcome is not None:
            self._come_to(reply.outcome)
        return reply

    def _seek_keys(self, request: KeyRequest, then: _WithKeys) -> Reply:
        """Go on with the keys at once, or when somebody else has derived them."""
        keys = self._policy.find_keys(request)
        if keys is not None:
            return then(self, keys)
        self._with_keys = then
        self._state = _State.KEYS
        return Reply(0, b"", NeedKeys(request, request.password == self._secret))

    def resumed(self, *, asked_tls: bool, secured: bool) -> None:
        """The engine has answered SSLRequest, and TLS may have begun."""
        if asked_tls:
            self._encryption_requests.add(SSLRequest)
        self._secured = secured

    def remembered(self) -> Remembered | None:
        """What this login was; None: it tells nothing of the next one.

        So it does when somebody else than our configuration has judged it.
        """
        startup, method = self._startup_message(), self._demand.method
        if self._elsewhere or startup.replication:
            return None
        if self._proof is not None:
            return Remembered(
                self._packet,
                self._negotiation,
                self._proof.question,
                self._stored,
                self._found,
            )
        if method not in (AuthMethod.TRUST, AuthMethod.ANY):
            return None
        return Remembered(self._packet, self._negotiation, 0, None, self._found)

    def take_over(self, led: LedElsewhere) -> Reply:
        """Go on with a login that the engine has led up to the end of its proof.

        What was sent is not sent again. The proof counts if the same is asked by the
        same secret today. Out and Errors are those of ``receive``.
        """
        reply = self.receive(led.packet)
        if isinstance(reply.outcome, NeedKeys):  # a reload came in between
            reply = self.keys_found(reply.outcome.request.derive())
        if led.code >= ProofCode.PROOF_WRONG:
            error = proof_error(led.code, led.question, led.kind, led.length)
            return self._refuse_proof(error)
        if isinstance(reply.outcome, LoggedIn):
            return Reply(0, led.answer, reply.outcome)
        proof, stored = self._proof, self._stored
        if (
            proof is None
            or stored is None
            or proof.question != led.question
            or not stored.same(led.secret)
        ):
            error = proof_error(ProofCode.PROOF_WRONG, led.question)
            return self._refuse_proof(error)
        self._state = _State.DONE
        keys = self._proven_keys(led.client_key)
        return Reply(0, led.answer, self._logged_in(keys))

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
                self._packet = data[: request.consumed]
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
        request = self._missing_verifier()
        if request is not None:
            return self._seek_keys(request, ClientLogin._keep_verifier)
        return self._ask_for_proof()

    def _ask_for_proof(self) -> Reply:
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
        """PgBouncer's words, which differ when auth_query was asked.

        Where there is no password to guess they tell nothing more.
        """
        if not known:
            reason = "no such user"
            if self._found:
                raise LoginError(reason, INVALID_AUTHORIZATION)
            raise LoginError(
                '"trust" authentication failed', INVALID_AUTHORIZATION, why=reason
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

    def _ask(self, question: Question, secret: StoredSecret) -> bytes:
        """Begin the proof."""
        self._stored = secret
        self._proof = Proof(
            question,
            secret,
            self._random(RANDOM_BYTES),
            binding=self._policy.certificate_hash if self._secured else b"",
        )
        self._state = _State.PROOF
        return self._proof.answer

    def _ask_password(self) -> bytes:
        self._elsewhere = True
        return self._ask(Question.ASK_PASSWORD, StoredSecret.elsewhere())

    def _ask_password_mock(self) -> bytes:
        return self._ask(Question.ASK_PASSWORD, StoredSecret.nobody())

    def _ask_password_plain(self) -> bytes:
        secret = packets.encode(self._secret or "")
        return self._ask(Question.ASK_PASSWORD, StoredSecret.plain(secret))

    def _ask_password_md5(self) -> bytes:
        return self._ask(Question.ASK_PASSWORD, self._md5(self._secret or ""))

    def _ask_md5_plain(self) -> bytes:
        secret = md5_secret(self._secret or "", self._name())
        return self._ask(Question.ASK_MD5, self._md5(secret))

    def _ask_md5_stored(self) -> bytes:
        return self._ask(Question.ASK_MD5, self._md5(self._secret or ""))

    def _ask_md5_mock(self) -> bytes:
        """A user that nobody knows is asked what one that is known might be asked."""
        if self._policy.mock_kind(self._name()) is SecretKind.SCRAM:
            return self._ask_scram_mock()
        secret = StoredSecret.md5(self._random(16).hex().encode(), b"", doomed=True)
        return self._ask(Question.ASK_MD5, secret)

    def _md5(self, secret: str) -> StoredSecret:
        digits = secret.removeprefix("md5").encode()
        return StoredSecret.md5(digits, packets.encode(self._name()))

    def _ask_scram_stored(self) -> bytes:
        return self._ask_scram(Verifier.parse(self._secret or ""))

    def _verifier_request(self) -> KeyRequest:
        """What the verifier of a plain secret is made of."""
        policy = self._policy
        salt = salt_of(self._name(), policy.mock_key)
        return KeyRequest(self._secret or "", salt, policy.scram_iterations)

    def _missing_verifier(self) -> KeyRequest | None:
        """What has to be derived before SCRAM can be offered."""
        if (self._demand.method, self._kind) != (AuthMethod.SCRAM, SecretKind.PLAIN):
            return None
        request = self._verifier_request()
        known = self._policy.verifiers.find(
            self._name(), request.password, request.salt, request.iterations
        )
        return None if known is not None else request

    def _keep_verifier(self, keys: ScramKeys) -> Reply:
        verifier = Verifier.from_keys(keys)
        self._policy.verifiers.keep(self._name(), self._secret or "", verifier)
        return self._ask_for_proof()

    def _ask_scram_plain(self) -> bytes:
        request = self._verifier_request()
        verifier = self._policy.verifiers.find(
            self._name(), request.password, request.salt, request.iterations
        )
        return self._ask_scram(verifier)

    def _ask_scram_mock(self) -> bytes:
        return self._ask_scram(None)

    def _ask_scram(self, verifier: Verifier | None) -> bytes:
        """Offer SCRAM; without a verifier the exchange runs and fails at its end."""
        policy = self._policy
        self._verifier = verifier or Verifier.mock(
            self._name(), policy.mock_key, policy.scram_iterations
        )
        secret = self._verifier.stored_secret(doomed=verifier is None)
        return self._ask(Question.ASK_SCRAM, secret)

    # Answers to challenges.

    def _take_proof(self, data: bytes) -> Reply | None:
        proof = self._proof
        assert proof is not None  # noqa: S101 - set with the state
        try:
            code, consumed, password = proof.take(data)
        except WrongProofError as error:
            return self._refuse_proof(error)
        if code == ProofCode.PROOF_MORE:
            return None
        if code == ProofCode.PROOF_ANSWERED:
            return Reply(consumed, proof.answer)
        if password is not None:
            return self._judge(consumed, packets.decode(password))
        keys = self._proven_keys(proof.client_key)
        return Reply(consumed, proof.answer, self._logged_in(keys))

    def _judge(self, consumed: int, password: str) -> Reply:
        """A password of which we have no hash to compare."""
        if self._demand.method in _JUDGED_ELSEWHERE:
            self._state = _State.VERDICT
            self._server_secret = password
            verdict = NeedVerdict(self._demand.method, self._name(), password)
            return Reply(consumed, b"", verdict)
        verifier = Verifier.parse(self._secret or "")
        assert verifier is not None  # noqa: S101 - or there was something to compare
        request = KeyRequest(password, verifier.salt, verifier.iterations)
        self._verifier = verifier
        reply = self._seek_keys(request, ClientLogin._compare_keys)
        return Reply(consumed, reply.send, reply.outcome)

    def _compare_keys(self, keys: ScramKeys) -> Reply:
        verifier = self._verifier
        if verifier is None or not verifier.is_of(keys):
            return self._refuse_password(keys)
        return Reply(0, b"", self._logged_in())

    def _proven_keys(self, client_key: bytes) -> ScramKeys | None:
        """Keys of a verifier we made ourselves open no server."""
        verifier = self._verifier
        if self._kind is not SecretKind.SCRAM or verifier is None:
            return None
        return ScramKeys(
            verifier.salt, verifier.iterations, client_key, verifier.server_key
        )

    # Parts of steps.

    def _refuse_proof(self, error: LoginError) -> Reply:
        """A wrong password takes as long as that of a user whose secret is SCRAM's."""
        if not isinstance(error, WrongProofError):
            raise error
        if self._demand.method is AuthMethod.PLAIN and self._policy.hashes_passwords:
            mock = self._policy.mock_verifier
            request = KeyRequest("wrong", mock.salt, mock.iterations)
            return self._seek_keys(request, ClientLogin._refuse_password)
        raise self._why(error)

    def _refuse_password(self, _keys: ScramKeys) -> Reply:
        raise self._why(proof_error(ProofCode.PROOF_WRONG, Question.ASK_PASSWORD))

    def _why(self, error: LoginError) -> LoginError:
        """The client hears what everybody hears; the log, what it was."""
        why = "wrong password"
        if not self._known:
            why = "no such user"
        elif self._secret is None:
            why = "the user has no password"
        return LoginError(error.message, error.sqlstate, why=why)

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


_Step = Callable[[ClientLogin, bytes], Reply | None]
_Challenge = Callable[[ClientLogin], bytes]
_WithKeys = Callable[[ClientLogin, ScramKeys], Reply]

_STEPS: Mapping[_State, _Step] = MappingProxyType(
    {
        _State.STARTUP: ClientLogin._take_startup,
        _State.PROOF: ClientLogin._take_proof,
    }
)

_CHALLENGES: Mapping[tuple[AuthMethod, SecretKind | None], _Challenge] = (
    MappingProxyType(
        {
            (AuthMethod.PLAIN, None): ClientLogin._ask_password_mock,
            (AuthMethod.PLAIN, SecretKind.PLAIN): ClientLogin._ask_password_plain,
            (AuthMethod.PLAIN, SecretKind.MD5): ClientLogin._ask_password_md5,
            # It has to be hashed many times, which the engine would wait for.
            (AuthMethod.PLAIN, SecretKind.SCRAM): ClientLogin._ask_password,
            (AuthMethod.MD5, None): ClientLogin._ask_md5_mock,
            (AuthMethod.MD5, SecretKind.PLAIN): ClientLogin._ask_md5_plain,
            (AuthMethod.MD5, SecretKind.MD5): ClientLogin._ask_md5_stored,
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
