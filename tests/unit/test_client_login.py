# SPDX-License-Identifier: MIT
"""A client's login: every method and secret, split, pipelined, hostile."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.errors import LoginError, SilentLoginError
from pooler.login import packets
from pooler.login.client import ClientLogin
from pooler.login.md5 import md5_secret
from pooler.login.outcomes import (
    Cancel,
    Closed,
    LoggedIn,
    NeedKeys,
    NeedSecret,
    NeedVerdict,
    Reply,
    StartTls,
)
from pooler.login.policy import (
    Asker,
    AuthMethod,
    ClientPolicy,
    ClientTls,
    Demand,
    Nobody,
)
from pooler.login.scram import ClientExchange, ScramKeys, Verifier, VerifierCache
from pooler.login.server import ServerGreeting, ServerLogin, ServerLoginError

VERIFIER = Verifier.from_password("secret", 2, b"salt" * 4)
SECRETS = {
    "plain": "secret",
    "md5": md5_secret("secret", "md5"),
    "scram": VERIFIER.to_text(),
    "removed": "",
}
QUERY = b"Q\0\0\0\x0dselect 1\0"
STARTUP = packets.startup_message({"user": "plain", "database": "shop"})

POLICY = ClientPolicy(
    method=AuthMethod.SCRAM,
    secrets=SECRETS.get,
    database_exists={"shop", "forced"}.__contains__,
    forced_user={"forced": "boss"}.get,
    ignore_startup_parameters=frozenset({"extra_float_digits"}),
    mock_key=b"mock",
    scram_iterations=2,
)


# Whose proof the client itself sends, or none.
BY_THE_CLIENT = [
    one for one in AuthMethod if one not in (AuthMethod.PEER, AuthMethod.CERT)
]
JUDGED = [AuthMethod.PAM, AuthMethod.LDAP]


def policy(method: AuthMethod, **changes: Any) -> ClientPolicy:
    return dataclasses.replace(POLICY, method=method, **changes)


class Peer:
    """A connection to a ``ClientLogin`` that delivers bytes in pieces."""

    def __init__(self, login: ClientLogin, piece: int) -> None:
        self.login = login
        self.piece = piece
        self.pending = b""
        self.outcome: object = None
        self.asked: list[object] = []

    def send(self, data: bytes) -> bytes:
        """Deliver ``data`` in pieces, return what was answered."""
        answers = b""
        step = self.piece or max(len(data), 1)
        for start in range(0, len(data), step):
            self.pending += data[start : start + step]
            if self.outcome is None:
                answers += self._take(self.login.receive(self.pending))
        return answers

    def _take(self, reply: Reply) -> bytes:
        assert 0 <= reply.consumed <= len(self.pending)
        self.pending = self.pending[reply.consumed :]
        if not isinstance(reply.outcome, NeedSecret | NeedVerdict | NeedKeys):
            self.outcome = reply.outcome
            return reply.send
        self.asked.append(reply.outcome)
        # It does not listen until it is answered.
        assert self.login.receive(self.pending) == Reply(0, b"")
        sent = reply.send + self._take(answer(self.login, reply.outcome))
        if self.outcome is None:
            sent += self._take(self.login.receive(self.pending))
        return sent


def answer(login: ClientLogin, question: object) -> Reply:
    """What somebody else knows of a user or a password."""
    if isinstance(question, NeedSecret):
        return login.secret_found(SECRETS.get(question.user))
    if isinstance(question, NeedKeys):
        return login.keys_found(question.request.derive())
    assert isinstance(question, NeedVerdict)
    return login.judged("" if question.password == "secret" else "PAM says no")


def log_in(
    method: AuthMethod,
    user: str,
    password: str | None = "secret",
    *,
    database: str = "shop",
    piece: int = 0,
    trailing: bytes = b"",
    **changes: object,
) -> tuple[LoggedIn, ServerGreeting, bytes]:
    """Run our client half against our server half.

    ``trailing`` goes out together with the client's last message.
    """
    peer = Peer(ClientLogin(policy(method, **changes)), piece)
    other = ServerLogin(user, database, password, {"application_name": "test"})
    going, coming = other.start(), b""
    while going:
        coming += peer.send(going)
        consumed, going = other.receive(coming)
        coming = coming[consumed:]
    if trailing and isinstance(peer.outcome, LoggedIn):
        peer.send(trailing)
    assert isinstance(peer.outcome, LoggedIn)
    welcome = b"".join(
        (
            packets.authentication_ok(),
            packets.parameter_status("server_version", "15.0"),
            packets.backend_key_data(7, b"keys"),
            packets.ready_for_query(),
        )
    )
    other.receive(coming + welcome)
    assert other.greeting is not None
    return peer.outcome, other.greeting, peer.pending


WORKING = [
    (AuthMethod.TRUST, "plain"),
    (AuthMethod.TRUST, "scram"),
    (AuthMethod.TRUST, "removed"),
    (AuthMethod.ANY, "plain"),
    (AuthMethod.ANY, "nobody"),
    (AuthMethod.PLAIN, "plain"),
    (AuthMethod.PLAIN, "md5"),
    (AuthMethod.PLAIN, "scram"),
    (AuthMethod.MD5, "plain"),
    (AuthMethod.MD5, "md5"),
    (AuthMethod.MD5, "scram"),
    (AuthMethod.SCRAM, "plain"),
    (AuthMethod.SCRAM, "scram"),
]

PROVING = [AuthMethod.PLAIN, AuthMethod.MD5, AuthMethod.SCRAM]
ASKED: dict[str, Any] = {
    "secrets": lambda user: None,
    "can_ask": lambda database: database != "nowhere",
}


@pytest.mark.parametrize("piece", [0, 1, 7])
@pytest.mark.parametrize(("method", "user"), WORKING)
def test_login(method: AuthMethod, user: str, piece: int) -> None:
    outcome, greeting, left = log_in(method, user, piece=piece, trailing=QUERY)
    assert (outcome.user, outcome.server_user) == (user, user)
    assert outcome.database == "shop"
    assert outcome.parameters == {"application_name": "test"}
    assert greeting.parameters == {"server_version": "15.0"}
    assert left == QUERY


@pytest.mark.parametrize("user", ["plain", "md5", "scram", "removed", "nobody"])
@pytest.mark.parametrize("method", PROVING)
def test_wrong_password(method: AuthMethod, user: str) -> None:
    with pytest.raises(LoginError) as caught:
        log_in(method, user, "wrong")
    assert caught.value.sqlstate == "28P01"
    sasl = method is AuthMethod.SCRAM or (method, user) == (AuthMethod.MD5, "scram")
    assert caught.value.message == (
        "SASL authentication failed" if sasl else "password authentication failed"
    )


@pytest.mark.parametrize(
    ("method", "user"),
    [
        (AuthMethod.SCRAM, "md5"),
        *((method, user) for method in PROVING for user in ("removed", "nobody")),
    ],
)
def test_users_that_no_password_lets_in(method: AuthMethod, user: str) -> None:
    with pytest.raises(LoginError, match=r"authentication failed$"):
        log_in(method, user, "secret")


def test_trust_needs_a_listed_user_only_if_there_is_a_list() -> None:
    with pytest.raises(LoginError) as caught:
        log_in(AuthMethod.TRUST, "nobody")
    assert caught.value.message == '"trust" authentication failed'
    assert caught.value.sqlstate == "28000"
    outcome, _, _ = log_in(AuthMethod.TRUST, "nobody", known_users_only=False)
    assert outcome.user == "nobody"


@pytest.mark.parametrize("method", BY_THE_CLIENT)
def test_database_is_checked_after_the_password(method: AuthMethod) -> None:
    with pytest.raises(LoginError) as caught:
        log_in(method, "plain", database="nowhere")
    assert caught.value.message == "no such database: nowhere"
    assert caught.value.sqlstate == "3D000"
    if method in PROVING:
        with pytest.raises(LoginError, match=r"authentication failed$"):
            log_in(method, "plain", "wrong", database="nowhere")


# Pending


@pytest.mark.parametrize("piece", [0, 1, 7])
@pytest.mark.parametrize(("method", "user"), WORKING)
def test_login_with_a_secret_that_is_asked_for(
    method: AuthMethod, user: str, piece: int
) -> None:
    outcome, _, left = log_in(method, user, piece=piece, trailing=QUERY, **ASKED)
    assert outcome.user == outcome.server_user == user
    assert left == QUERY
    # What is found is also what servers are told.
    asked = method is not AuthMethod.ANY
    assert outcome.secret == ((SECRETS.get(user) or None) if asked else None)
    assert SECRETS["scram"] not in repr(outcome)
    known, _, _ = log_in(method, user)
    assert dataclasses.replace(outcome, secret=None) == known


@pytest.mark.parametrize("password", ["secret", "wrong"])
@pytest.mark.parametrize("user", ["plain", "md5", "scram", "removed", "nobody"])
@pytest.mark.parametrize("method", PROVING)
def test_asked_for_or_known_is_told_apart_by_nobody(
    method: AuthMethod, user: str, password: str
) -> None:
    def ends(**changes: Any) -> tuple[str, ...]:
        try:
            log_in(method, user, password, **changes)
        except LoginError as error:
            return error.message, error.sqlstate, error.why
        return ("in",)

    assert ends() == ends(**ASKED)


def test_nothing_is_said_before_the_secret_is_there() -> None:
    startup = packets.startup_message(
        {"user": "scram", "database": "shop", "_pq_.a": ""}, packets.PROTOCOL_3_0 + 3
    )
    login = ClientLogin(policy(AuthMethod.SCRAM, **ASKED), secure_random=bytes)
    asked = login.receive(startup + b"early")
    assert asked == Reply(len(startup), b"", NeedSecret("scram", "shop"))
    assert login.receive(b"early") == Reply(0, b"")
    told = login.secret_found(SECRETS["scram"])
    known = ClientLogin(POLICY, secure_random=bytes).receive(startup)
    assert told == Reply(0, known.send)  # the negotiation once, and the challenge
    assert told.send.count(b"_pq_.a") == 1


@pytest.mark.parametrize(
    ("method", "user", "database"),
    [
        (AuthMethod.SCRAM, "plain", "shop"),  # known
        (AuthMethod.SCRAM, "removed", "shop"),  # known, and shut out
        (AuthMethod.ANY, "nobody", "shop"),  # whoever it is
        (AuthMethod.PAM, "nobody", "shop"),  # no secret is needed
        (AuthMethod.SCRAM, "nobody", "nowhere"),  # nobody could say
    ],
)
def test_who_is_not_asked_for(method: AuthMethod, user: str, database: str) -> None:
    asked = {**ASKED, "secrets": SECRETS.get}
    login = ClientLogin(policy(method, **asked))
    said = login.receive(packets.startup_message({"user": user, "database": database}))
    assert not isinstance(said.outcome, NeedSecret)


@pytest.mark.parametrize("known_users_only", [True, False])
def test_trust_is_for_those_who_are_found(known_users_only: bool) -> None:
    asked = {**ASKED, "known_users_only": known_users_only}
    assert log_in(AuthMethod.TRUST, "removed", **asked)[0].user == "removed"
    with pytest.raises(LoginError, match=r"^no such user$"):
        log_in(AuthMethod.TRUST, "nobody", **asked)


def test_a_user_whom_servers_know_by_another_name() -> None:
    for database, server_user, secret in (
        ("shop", "other", "secret"),
        ("forced", "boss", None),
    ):
        login = ClientLogin(policy(AuthMethod.PLAIN, **ASKED))
        login.receive(packets.startup_message({"user": "Me", "database": database}))
        login.secret_found("secret", "other")
        outcome = login.receive(packets.password_message("secret")).outcome
        assert isinstance(outcome, LoggedIn)
        assert (outcome.user, outcome.server_user) == ("Me", server_user)
        assert outcome.secret == secret  # the forced user has another


@pytest.mark.parametrize("piece", [0, 1, 7])
@pytest.mark.parametrize("method", JUDGED)
def test_a_password_that_somebody_else_judges(method: AuthMethod, piece: int) -> None:
    outcome, _, left = log_in(method, "whoever", piece=piece, trailing=QUERY)
    assert (outcome.user, outcome.secret) == ("whoever", "secret")
    assert left == QUERY
    with pytest.raises(LoginError) as caught:
        log_in(method, "whoever", "wrong", piece=piece)
    assert caught.value.message == f"{method.name} authentication failed"
    assert (caught.value.sqlstate, caught.value.why) == ("28P01", "PAM says no")
    with pytest.raises(LoginError, match="no such database"):
        log_in(method, "whoever", database="nowhere")
    with pytest.raises(LoginError, match="authentication failed"):
        log_in(method, "whoever", "wrong", database="nowhere")


@pytest.mark.parametrize("method", JUDGED)
def test_what_is_judged_elsewhere_is_asked_once(method: AuthMethod) -> None:
    peer = Peer(ClientLogin(policy(method)), 0)
    peer.send(STARTUP)
    with pytest.raises(LoginError, match="empty password returned by client"):
        peer.send(packets.password_message(""))
    peer = Peer(ClientLogin(policy(method)), 0)
    peer.send(STARTUP + packets.password_message("secret") + QUERY)
    assert peer.asked == [NeedVerdict(method, "plain", "secret")]
    assert "secret" not in repr(peer.asked)
    assert isinstance(peer.outcome, LoggedIn)
    assert peer.pending == QUERY


def test_forced_user() -> None:
    outcome, _, _ = log_in(AuthMethod.SCRAM, "scram", database="forced")
    assert (outcome.user, outcome.server_user) == ("scram", "boss")
    assert outcome.scram_keys is None


def test_keys_of_a_stored_verifier_are_handed_on() -> None:
    for method in (AuthMethod.MD5, AuthMethod.SCRAM):
        outcome, _, _ = log_in(method, "scram")
        keys = ScramKeys.from_password("secret", VERIFIER.salt, VERIFIER.iterations)
        assert outcome.scram_keys == keys
    outcome, _, _ = log_in(AuthMethod.SCRAM, "plain")
    assert outcome.scram_keys is None


def test_known_and_unknown_users_get_the_same_challenge() -> None:
    def challenge(user: str) -> bytes:
        login = ClientLogin(POLICY, secure_random=bytes)
        startup = packets.startup_message({"user": user, "database": "shop"})
        first = packets.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=abc")
        return login.receive(startup + first).send

    def shape(answer: bytes) -> tuple[int, bytes]:
        return len(answer), answer.partition(b"s=")[0]

    assert shape(challenge("plain")) == shape(challenge("nobody"))
    assert challenge("nobody") == challenge("nobody")
    # A user that is removed or added keeps the salt.
    without = dataclasses.replace(POLICY, secrets=lambda user: None)
    known, unknown = (
        ClientLogin(policy, secure_random=bytes).receive(
            STARTUP + packets.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=abc")
        )
        for policy in (POLICY, without)
    )
    assert known == unknown


def test_salted_passwords_are_kept() -> None:
    cache = VerifierCache()
    for _ in range(3):
        log_in(AuthMethod.SCRAM, "plain", verifiers=cache)
        log_in(AuthMethod.SCRAM, "scram", verifiers=cache)
    assert len(cache) == 1


ELSEWHERE: dict[str, Any] = {"find_keys": lambda _: None}


@pytest.mark.parametrize(("method", "user"), WORKING)
@pytest.mark.parametrize("piece", [0, 1, 7])
def test_keys_that_somebody_else_derives(
    method: AuthMethod, user: str, piece: int
) -> None:
    """The client cannot tell; it is asked for nothing until they are there."""
    outcome, greeting, left = log_in(
        method, user, trailing=QUERY, piece=piece, **ELSEWHERE
    )
    assert (outcome.user, left) == (user, QUERY)
    assert greeting.parameters == {"server_version": "15.0"}


@pytest.mark.parametrize("user", ["plain", "md5", "scram", "removed", "nobody"])
def test_a_wrong_password_is_refused_when_it_is_hashed(user: str) -> None:
    """Right or wrong, known or not: as many hashes, and none of them here."""
    login = ClientLogin(policy(AuthMethod.PLAIN, hashes_passwords=True, **ELSEWHERE))
    login.receive(packets.startup_message({"user": user, "database": "shop"}))
    reply = login.receive(packets.password_message("wrong"))
    assert isinstance(reply.outcome, NeedKeys)
    assert reply.outcome.request.password == "wrong"
    assert "wrong" not in repr(reply)
    with pytest.raises(LoginError, match=r"^password authentication failed$"):
        login.keys_found(reply.outcome.request.derive())


def test_a_verifier_is_made_once_for_all_logins() -> None:
    cache = VerifierCache()
    startup = packets.startup_message({"user": "plain", "database": "shop"})
    changes = {"verifiers": cache, **ELSEWHERE}
    first, second = (ClientLogin(policy(AuthMethod.SCRAM, **changes)) for _ in range(2))
    reply = first.receive(startup)
    assert isinstance(reply.outcome, NeedKeys)
    assert (reply.consumed, reply.send) == (len(startup), b"")
    asked = first.keys_found(reply.outcome.request.derive()).send
    assert asked[:1] == b"R"
    assert second.receive(startup).send == asked


# Start-up.


def test_encryption_is_declined_then_the_login_goes_on() -> None:
    peer = Peer(ClientLogin(policy(AuthMethod.TRUST)), 0)
    assert peer.send(packets.gssenc_request()) == b"N"
    assert peer.send(packets.ssl_request()) == b"N"
    assert peer.send(STARTUP) == b""
    assert isinstance(peer.outcome, LoggedIn)


@pytest.mark.parametrize("packet", [packets.ssl_request(), packets.gssenc_request()])
def test_encryption_is_asked_for_once(packet: bytes) -> None:
    login = ClientLogin(POLICY)
    assert login.receive(packet) == Reply(8, b"N")
    with pytest.raises(LoginError, match="second") as caught:
        login.receive(packet)
    # To PostgreSQL the second one is an unknown version.
    assert caught.value.sqlstate == "0A000"


def test_bytes_glued_behind_ssl_request() -> None:
    with pytest.raises(LoginError, match="received unencrypted data after SSL request"):
        ClientLogin(POLICY).receive(packets.ssl_request() + STARTUP)


def test_direct_tls_is_closed_where_there_is_no_tls() -> None:
    assert ClientLogin(POLICY).receive(b"\x16\x03\x01") == Reply(3, b"", Closed())


# TLS


OFFERED = {"tls": ClientTls.OFFERED, "certificate_hash": b"hash"}
REQUIRED = {**OFFERED, "tls": ClientTls.REQUIRED}
TLS_BEGINS = b"\x16\x03\x01\x02\x00"


@pytest.mark.parametrize("first", [b"", packets.gssenc_request()])
@pytest.mark.parametrize("options", [OFFERED, REQUIRED])
def test_tls_begins_behind_its_answer(first: bytes, options: dict[str, Any]) -> None:
    login = ClientLogin(policy(AuthMethod.TRUST, **options))
    if first:
        assert login.receive(first) == Reply(8, b"N")
    assert login.receive(packets.ssl_request()) == Reply(
        8, b"S", StartTls(direct=False)
    )
    login.secured()
    assert isinstance(login.receive(STARTUP).outcome, LoggedIn)


@pytest.mark.parametrize("options", [OFFERED, REQUIRED])
def test_tls_inside_of_tls(options: dict[str, Any]) -> None:
    for direct in (True, False):
        login = ClientLogin(policy(AuthMethod.TRUST, **options))
        login.receive(TLS_BEGINS if direct else packets.ssl_request())
        login.secured()
        assert login.receive(TLS_BEGINS) == Reply(5, b"", Closed())
        login = ClientLogin(policy(AuthMethod.TRUST, **options))
        login.receive(TLS_BEGINS if direct else packets.ssl_request())
        login.secured()
        if direct:
            assert login.receive(packets.ssl_request()) == Reply(8, b"N")
        else:
            with pytest.raises(LoginError, match="second SSLRequest"):
                login.receive(packets.ssl_request())


def test_direct_tls_begins_at_once() -> None:
    login = ClientLogin(policy(AuthMethod.TRUST, **OFFERED))
    assert login.receive(TLS_BEGINS) == Reply(0, b"", StartTls(direct=True))
    login = ClientLogin(policy(AuthMethod.TRUST, **OFFERED))
    login.receive(packets.gssenc_request())
    assert login.receive(TLS_BEGINS) == Reply(5, b"", Closed())


def test_in_the_clear_where_tls_is_required() -> None:
    with pytest.raises(LoginError, match="SSL required"):
        ClientLogin(policy(AuthMethod.TRUST, **REQUIRED)).receive(STARTUP)
    login = ClientLogin(policy(AuthMethod.TRUST, **REQUIRED), peer=Nobody(None))
    assert login.receive(packets.ssl_request()) == Reply(8, b"N")
    assert isinstance(login.receive(STARTUP).outcome, LoggedIn)
    cancel = packets.cancel_request(1, b"keys")
    login = ClientLogin(policy(AuthMethod.TRUST, **REQUIRED))
    assert isinstance(login.receive(cancel).outcome, Cancel)


@pytest.mark.parametrize("user", ["plain", "scram", "md5", "nobody"])
@pytest.mark.parametrize("secured", [True, False])
def test_plus_is_offered_to_everybody_over_tls(user: str, secured: bool) -> None:
    login = ClientLogin(policy(AuthMethod.SCRAM, **OFFERED))
    if secured:
        login.receive(packets.ssl_request())
        login.secured()
    said = login.receive(packets.startup_message({"user": user, "database": "shop"}))
    assert (b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0" in said.send) == secured
    assert b"SCRAM-SHA-256\0\0" in said.send


def test_cancel_request_uses_up_whatever_follows() -> None:
    packet = packets.cancel_request(1, b"keys") + b"rest"
    expected = Reply(len(packet), b"", Cancel(b"\0\0\0\1keys"))
    assert ClientLogin(POLICY).receive(packet) == expected


@pytest.mark.parametrize("piece", [0, 1, 7])
@pytest.mark.parametrize(
    "size", [packets.MIN_CANCEL_KEY_BYTES, 32, packets.MAX_CANCEL_KEY_BYTES]
)
def test_cancel_request_of_any_length(size: int, piece: int) -> None:
    peer = Peer(ClientLogin(POLICY), piece)
    assert peer.send(packets.cancel_request(0x80000001, b"k" * size)) == b""
    assert peer.outcome == Cancel(b"\x80\0\0\1" + b"k" * size)
    assert "kkk" not in repr(peer.outcome)


@pytest.mark.parametrize("size", [0, 3, 257])
def test_cancel_request_of_no_length(size: int) -> None:
    with pytest.raises(LoginError, match="bad cancel request"):
        ClientLogin(POLICY).receive(packets.cancel_request(1, b"k" * size))


OPTIONS = {"_pq_.a": "", "_pq_.b": "1"}


@pytest.mark.parametrize("piece", [0, 1, 7])
@pytest.mark.parametrize(
    ("asked", "options", "agreed", "negotiation"),
    [
        (0, {}, 0, b""),
        # Never a version above the one asked for: libpq takes that for an error.
        (0, OPTIONS, 0, b"v\0\0\0\x1a\0\3\0\0\0\0\0\2_pq_.a\0_pq_.b\0"),
        (1, {}, 0, b"v\0\0\0\x0c\0\3\0\0\0\0\0\0"),
        (1, OPTIONS, 0, b"v\0\0\0\x1a\0\3\0\0\0\0\0\2_pq_.a\0_pq_.b\0"),
        (2, {}, 2, b""),
        (2, OPTIONS, 2, b"v\0\0\0\x1a\0\3\0\2\0\0\0\2_pq_.a\0_pq_.b\0"),
        (3, {}, 2, b"v\0\0\0\x0c\0\3\0\2\0\0\0\0"),
        (9999, OPTIONS, 2, b"v\0\0\0\x1a\0\3\0\2\0\0\0\2_pq_.a\0_pq_.b\0"),
    ],
)
def test_negotiation_is_sent_once_and_before_the_challenge(
    asked: int, options: dict[str, str], agreed: int, negotiation: bytes, piece: int
) -> None:
    startup = packets.startup_message(
        {"user": "plain", "database": "shop", **options}, packets.PROTOCOL_3_0 + asked
    )
    peer = Peer(ClientLogin(policy(AuthMethod.PLAIN)), piece)
    assert peer.send(packets.ssl_request()) == b"N"
    sent = peer.send(startup)
    assert sent == negotiation + packets.authentication_cleartext_password()
    assert peer.send(packets.password_message("secret") + QUERY) == b""
    assert isinstance(peer.outcome, LoggedIn)
    assert peer.outcome.minor_protocol == agreed
    assert peer.pending == QUERY
    trusted = ClientLogin(policy(AuthMethod.TRUST)).receive(startup)
    assert trusted.send == negotiation
    assert isinstance(trusted.outcome, LoggedIn)
    assert trusted.outcome.minor_protocol == agreed


@pytest.mark.parametrize("method", BY_THE_CLIENT)
def test_grease_of_libpq_in_every_method(method: AuthMethod) -> None:
    grease = packets.startup_message(
        {"user": "scram", "database": "shop", "_pq_.test": "1"},
        packets.PROTOCOL_3_0 + 9999,
    )
    login = ClientLogin(policy(method))
    sent = login.receive(grease).send
    negotiation = packets.negotiate_protocol_version(2, ["_pq_.test"])
    assert sent.startswith(negotiation)
    asks = method in (*PROVING, *JUDGED)
    assert sent[len(negotiation) :][:1] == (b"R" if asks else b"")
    assert login.receive(b"") == Reply(0, b"")


# Replication.


@pytest.mark.parametrize("method", [AuthMethod.TRUST, AuthMethod.SCRAM])
@pytest.mark.parametrize(
    ("value", "kind"), [("database", "logical"), ("yes", "physical"), ("1", "physical")]
)
def test_replication_keeps_every_parameter(
    value: str, kind: str, method: AuthMethod
) -> None:
    sent = {
        "Extra_Float_Digits": "3",
        "application_name": "sub",
        "datestyle": "ISO",
        "options": "-c timezone=UTC -c+geqo%3Doff -d 5",
        "wal_sender_timeout": "",
    }
    peer = Peer(ClientLogin(policy(method)), 1)
    other = ServerLogin("plain", "shop", "secret", {**sent, "replication": value})
    going, coming = other.start(), b""
    while going:
        coming += peer.send(going)
        consumed, going = other.receive(coming)
        coming = coming[consumed:]
    outcome = peer.outcome
    assert isinstance(outcome, LoggedIn)
    assert (outcome.user, outcome.database) == ("plain", "shop")
    assert outcome.replication == kind
    assert outcome.startup_parameters == sent
    assert outcome.parameters == {
        "application_name": "sub",
        "DateStyle": "ISO",
        "TimeZone": "UTC",
    }


def test_physical_replication_without_a_database() -> None:
    startup = packets.startup_message({"user": "shop", "replication": "true"})
    reply = ClientLogin(policy(AuthMethod.ANY)).receive(startup)
    assert isinstance(reply.outcome, LoggedIn)
    assert (reply.outcome.database, reply.outcome.replication) == ("shop", "physical")
    assert reply.outcome.startup_parameters == {}


@pytest.mark.parametrize("extra", [{}, {"replication": "off"}])
def test_normal_login_has_no_startup_parameters(extra: dict[str, str]) -> None:
    startup = packets.startup_message(
        {"user": "plain", "database": "shop", "TIMEZONE": "UTC", **extra}
    )
    reply = ClientLogin(policy(AuthMethod.TRUST)).receive(startup)
    assert isinstance(reply.outcome, LoggedIn)
    assert (reply.outcome.replication, reply.outcome.startup_parameters) == ("", {})
    assert reply.outcome.parameters == {"TimeZone": "UTC"}


def test_replication_of_no_kind() -> None:
    startup = packets.startup_message({"user": "plain", "replication": "maybe"})
    with pytest.raises(LoginError) as caught:
        ClientLogin(policy(AuthMethod.TRUST)).receive(startup)
    assert caught.value.sqlstate == "22023"


def test_parameters_are_checked_before_anything_is_asked() -> None:
    def receive(**parameters: str) -> Reply:
        everything = {"user": "plain", "database": "shop", **parameters}
        login = ClientLogin(policy(AuthMethod.TRUST))
        return login.receive(packets.startup_message(everything))

    reply = receive(extra_float_digits="2", datestyle="ISO")
    assert isinstance(reply.outcome, LoggedIn)
    assert reply.outcome.parameters == {"DateStyle": "ISO"}
    with pytest.raises(LoginError, match=r"^unsupported startup parameter: geqo$"):
        receive(geqo="off")


def test_tracked_parameters_are_those_of_the_policy() -> None:
    startup = packets.startup_message(
        {"user": "plain", "database": "shop", "SEARCH_PATH": "x"}
    )
    tracked = {"search_path": "search_path"}
    reply = ClientLogin(policy(AuthMethod.TRUST, tracked=tracked)).receive(startup)
    assert isinstance(reply.outcome, LoggedIn)
    assert reply.outcome.parameters == {"search_path": "x"}
    with pytest.raises(LoginError, match="unsupported startup parameter: SEARCH_PATH"):
        ClientLogin(policy(AuthMethod.TRUST)).receive(startup)


def test_nothing_is_taken_after_the_end() -> None:
    login = ClientLogin(policy(AuthMethod.TRUST))
    assert login.receive(STARTUP + QUERY).consumed == len(STARTUP)
    assert login.receive(QUERY) == Reply(0, b"")


# Pipelined and malformed answers.


def test_password_and_first_query_glued_to_the_startup_packet() -> None:
    login = ClientLogin(policy(AuthMethod.PLAIN))
    data = STARTUP + packets.password_message("secret")
    reply = login.receive(data + QUERY)
    assert reply.consumed == len(data)
    assert isinstance(reply.outcome, LoggedIn)


def started(method: AuthMethod, user: str = "plain") -> ClientLogin:
    login = ClientLogin(policy(method))
    login.receive(packets.startup_message({"user": user, "database": "shop"}))
    return login


@pytest.mark.parametrize("method", PROVING)
@pytest.mark.parametrize("kind", [b"Q", b"X", b"\0", b"\xff"])
def test_other_messages_during_the_login(method: AuthMethod, kind: bytes) -> None:
    with pytest.raises(LoginError) as caught:
        started(method).receive(kind)
    assert caught.value.message == (
        f"expected password response, got message type 0x{kind[0]:02x}"
    )
    assert caught.value.sqlstate == "08P01"


@pytest.mark.parametrize("method", PROVING)
@pytest.mark.parametrize(
    ("header", "text"),
    [
        (b"p\0\0\0\0", "bad packet header: length 0 is outside 4.."),
        (b"p\0\0\0\3", "bad packet header: length 3 is outside 4.."),
        (b"p\0\1\0\0", "bad packet header: length 65536 is outside 4.."),
        (b"p\x7f\xff\xff\xff", "bad packet header: length 2147483647 is outside 4.."),
        (b"p\xff\xff\xff\xff", "bad packet header: length 4294967295 is outside 4.."),
    ],
)
def test_length_is_judged_by_the_header(
    method: AuthMethod, header: bytes, text: str
) -> None:
    """PostgreSQL closes without a word; for SASL it is a failed exchange."""
    with pytest.raises(LoginError) as caught:
        started(method).receive(header)
    if method is AuthMethod.SCRAM:
        assert caught.value.message == f"SASL authentication failed: {text}1024"
        assert caught.value.sqlstate == "28P01"
    else:
        assert caught.value.message == f"{text}65535"
    assert isinstance(caught.value, SilentLoginError) == (
        method is not AuthMethod.SCRAM
    )


def test_longest_password() -> None:
    password = "x" * (packets.MAX_PASSWORD_BYTES - 1)
    outcome, _, _ = log_in(
        AuthMethod.PLAIN, "long", password, secrets={"long": password}.get
    )
    assert outcome.user == "long"


@pytest.mark.parametrize("method", [AuthMethod.PLAIN, AuthMethod.MD5])
@pytest.mark.parametrize("user", ["plain", "removed", "nobody"])
def test_empty_password(method: AuthMethod, user: str) -> None:
    with pytest.raises(LoginError) as caught:
        started(method, user).receive(packets.password_message(""))
    assert caught.value.message == "empty password returned by client"
    assert caught.value.sqlstate == "28P01"


@pytest.mark.parametrize(
    "body", [b"", b"secret", b"secret\0\0", b"\0secret", b"s\0x\0"]
)
@pytest.mark.parametrize("method", [AuthMethod.PLAIN, AuthMethod.MD5])
def test_malformed_password(method: AuthMethod, body: bytes) -> None:
    with pytest.raises(LoginError, match="malformed PasswordMessage message"):
        started(method).receive(packets.message(b"p", body))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "malformed SASLInitialResponse"),
        (b"SCRAM-SHA-256", "malformed SASLInitialResponse"),
        (b"SCRAM-SHA-256\0", "malformed SASLInitialResponse"),
        (b"SCRAM-SHA-256\0\0\0\0\2n", "malformed SASLInitialResponse"),
        (b"SCRAM-SHA-256\0\0\0\0\0n", "malformed SASLInitialResponse"),
        (b"SCRAM-SHA-256\0\xff\xff\xff\xffn", "malformed SASLInitialResponse"),
        (b"SCRAM-SHA-256\0\xff\xff\xff\xfe", "malformed SASLInitialResponse"),
        (b"SCRAM-SHA-256\0\0\0\0\0", "unexpected channel binding flag"),
        (b"SCRAM-SHA-256-PLUS\0\0\0\0\0", "invalid SASL authentication mechanism"),
        (b"\0\0\0\0\0", "invalid SASL authentication mechanism"),
    ],
)
def test_malformed_sasl_initial_response(body: bytes, text: str) -> None:
    with pytest.raises(LoginError, match=text):
        started(AuthMethod.SCRAM).receive(packets.message(b"p", body))


def test_client_that_holds_its_first_response_back() -> None:
    login = started(AuthMethod.SCRAM)
    exchange = ClientExchange("secret")
    empty = login.receive(packets.sasl_initial_response("SCRAM-SHA-256", None))
    assert empty.send == packets.authentication_sasl_continue(b"")
    challenge = login.receive(packets.sasl_response(exchange.first())).send
    final = login.receive(packets.sasl_response(exchange.final(challenge[9:])))
    assert isinstance(final.outcome, LoggedIn)
    exchange.verify(final.send[9:])


# Whatever comes.


def survive(action: Callable[[], object]) -> None:
    try:
        action()
    except LoginError:
        return


@given(st.sampled_from(AuthMethod), st.binary(max_size=80))
def test_any_bytes(method: AuthMethod, data: bytes) -> None:
    survive(lambda: ClientLogin(policy(method)).receive(data))
    if method in PROVING:
        survive(lambda: started(method).receive(data))
        survive(lambda: started(method).receive(packets.message(b"p", data)))


@given(st.sampled_from(PROVING), st.integers(0, 400), st.binary(max_size=4), st.data())
def test_damaged_conversation(
    method: AuthMethod, where: int, damage: bytes, data: st.DataObject
) -> None:
    """One message of an otherwise right conversation has other bytes in it."""
    peer = Peer(ClientLogin(policy(method)), data.draw(st.integers(0, 5)))
    other = ServerLogin("plain", "shop", "secret", {})
    going, coming = other.start(), b""
    when = data.draw(st.integers(0, 2))
    for turn in range(4):
        if turn == when:
            going = going[:where] + damage + going[where + len(damage) :]
        try:
            coming += peer.send(going)
            consumed, going = other.receive(coming)
        except (LoginError, ServerLoginError):
            return
        coming = coming[consumed:]


@pytest.mark.parametrize("cut", range(60))
def test_a_login_tells_how_much_it_waits_for(cut: int) -> None:
    """It is never more than what makes it go on, so nobody waits for too much."""
    login = ClientLogin(policy(AuthMethod.PLAIN))
    raw = STARTUP
    part = raw[: cut % len(raw)]
    reply = login.receive(part)
    assert reply.outcome is None
    assert reply.consumed == 0
    assert len(part) < reply.wanted <= len(raw)
    assert login.receive(raw).consumed == len(raw)
    password = packets.message(b"p", b"x" * 50 + b"\0")
    part = password[: cut % len(password)]
    assert len(part) < login.receive(part).wanted <= len(password)


# Proofs that need no question


class Known(Nobody):
    """A client of which the system and a certificate know who it is."""

    def os_user(self) -> str | None:
        return "plain"

    def certificate_name(self) -> str | None:
        return "plain"


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("method", [AuthMethod.PEER, AuthMethod.CERT])
def test_the_connection_is_the_proof(method: AuthMethod, asked: bool) -> None:
    def log_in_as(user: str, peer: Nobody, **changes: Any) -> object:
        changes = {"tls": ClientTls.OFFERED, **(ASKED if asked else {}), **changes}
        login = ClientLogin(policy(method, **changes), peer=peer)
        if method is AuthMethod.CERT:
            login.receive(packets.ssl_request())
            login.secured()
        raw = packets.startup_message({"user": user, "database": "shop"})
        outcome = login.receive(raw).outcome
        assert isinstance(outcome, NeedSecret) == asked  # not for what has no proof
        return answer(login, outcome).outcome if asked else outcome

    assert isinstance(log_in_as("plain", Known()), LoggedIn)
    for user, peer, why in (
        ("md5", Known(), "may not be this user"),
        ("plain", Nobody(), "there is no"),
    ):
        with pytest.raises(LoginError) as refused:
            log_in_as(user, peer)
        assert why in refused.value.why
        assert refused.value.sqlstate == "28000"

    def anybody(asker: Asker) -> Demand:
        return Demand(method, lambda system_user, user: system_user == "plain")

    assert isinstance(log_in_as("md5", Known(), demand=anybody), LoggedIn)
    with pytest.raises(LoginError) as refused:
        log_in_as("stranger", Known(), demand=anybody)
    assert refused.value.why == "no such user"


def test_a_certificate_in_the_clear_is_none() -> None:
    login = ClientLogin(policy(AuthMethod.CERT), peer=Known())
    with pytest.raises(LoginError, match="certificate authentication failed"):
        login.receive(STARTUP)


@pytest.mark.parametrize("user", ["plain", "md5", "scram", "removed", "nobody"])
@pytest.mark.parametrize("method", [AuthMethod.PLAIN, AuthMethod.MD5, AuthMethod.SCRAM])
def test_why_is_for_the_log_alone(method: AuthMethod, user: str) -> None:
    """Whoever is refused hears the same; the log knows what it was."""
    with pytest.raises(LoginError) as refused:
        log_in(method, user, "wrong")
    why = {"nobody": "no such user", "removed": "the user has no password"}
    assert refused.value.why == why.get(user, "wrong password")
    assert user not in refused.value.message
