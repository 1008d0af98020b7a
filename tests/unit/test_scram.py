# SPDX-License-Identifier: MIT
"""SCRAM-SHA-256 and md5: published vectors, both halves, hostile peers."""

from __future__ import annotations

import base64
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.errors import LoginError
from pooler.login import scram
from pooler.login.md5 import is_md5_secret, md5_response, md5_secret
from pooler.login.scram import (
    ClientExchange,
    ScramKeys,
    SecretKind,
    Verifier,
    VerifierCache,
    salt_of,
    saslprep,
    secret_kind,
)
from tests.server_exchange import ServerExchange

# RFC 7677, "SCRAM-SHA-256 and SCRAM-SHA-256-PLUS", example.
RFC_CLIENT_NONCE = b"rOprNGfwEbeRWgbNEkqO"
RFC_SERVER_NONCE = b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
RFC_SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
RFC_NONCE = RFC_CLIENT_NONCE + RFC_SERVER_NONCE
RFC_CLIENT_FIRST = b"n,,n=user,r=" + RFC_CLIENT_NONCE
RFC_SERVER_FIRST = b"r=" + RFC_NONCE + b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
RFC_CLIENT_FINAL = (
    b"c=biws,r=" + RFC_NONCE + b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
RFC_SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

# Few iterations: these tests are about messages.
VERIFIER = Verifier.from_password("secret", 2, b"salt" * 4)


def rfc_server() -> ServerExchange:
    verifier = Verifier.from_password("pencil", 4096, RFC_SALT)
    return ServerExchange(verifier, nonce=RFC_SERVER_NONCE)


def test_rfc_vector_as_server() -> None:
    exchange = rfc_server()
    assert exchange.first(RFC_CLIENT_FIRST) == RFC_SERVER_FIRST
    assert exchange.final(RFC_CLIENT_FINAL) == RFC_SERVER_FINAL
    assert exchange.keys == ScramKeys.from_password("pencil", RFC_SALT, 4096)


def test_rfc_vector_as_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scram, "_make_nonce", lambda _random: RFC_CLIENT_NONCE)
    exchange = ClientExchange("pencil")
    assert exchange.first() == b"n,,n=,r=" + RFC_CLIENT_NONCE
    # We leave the name empty, as libpq does; the example does not.
    exchange._client_first_bare = RFC_CLIENT_FIRST[3:]
    assert exchange.final(RFC_SERVER_FIRST) == RFC_CLIENT_FINAL
    assert exchange.keys is None
    exchange.verify(RFC_SERVER_FINAL)
    assert exchange.keys == ScramKeys.from_password("pencil", RFC_SALT, 4096)


def converse(client: ClientExchange, server: ServerExchange) -> None:
    challenge = server.first(client.first())
    client.verify(server.final(client.final(challenge)))


@pytest.mark.parametrize("password", ["secret", "", "pässwörd", "\udcff\udcfe", "Ⅸ"])
def test_both_halves(password: str) -> None:
    verifier = Verifier.from_password(password, 3)
    client, server = ClientExchange(password), ServerExchange(verifier)
    converse(client, server)
    assert client.keys is not None
    assert client.keys == server.keys
    assert Verifier.from_keys(client.keys) == verifier


def test_keys_of_a_client_log_in_elsewhere() -> None:
    first = ServerExchange(VERIFIER)
    converse(ClientExchange("secret"), first)
    assert first.keys is not None
    again = ClientExchange(keys=first.keys)
    converse(again, ServerExchange(VERIFIER))
    assert again.keys == first.keys


def test_keys_for_another_salt() -> None:
    keys = ScramKeys.from_password("secret", b"other", 2)
    with pytest.raises(LoginError, match="another salt or iteration count"):
        converse(ClientExchange(keys=keys), ServerExchange(VERIFIER))
    converse(ClientExchange("secret", keys), ServerExchange(VERIFIER))


def test_wrong_password() -> None:
    with pytest.raises(LoginError) as caught:
        converse(ClientExchange("wrong"), ServerExchange(VERIFIER))
    assert caught.value.message == "SASL authentication failed"
    assert caught.value.sqlstate == "28P01"


def test_doomed_exchange_fails_even_with_the_right_proof() -> None:
    server = ServerExchange(VERIFIER, doomed=True)
    with pytest.raises(LoginError, match=r"^SASL authentication failed$"):
        converse(ClientExchange("secret"), server)
    assert server.keys is None


def test_server_that_does_not_know_the_password() -> None:
    client = ClientExchange("secret")
    client.final(ServerExchange(VERIFIER).first(client.first()))
    with pytest.raises(LoginError, match="does not know the password"):
        client.verify(b"v=" + base64.b64encode(bytes(32)))
    assert client.keys is None


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"v=",
        b"v=AAAA",
        b"e=other-error",
        RFC_SERVER_FINAL + b",x=1",
        RFC_SERVER_FINAL + b"\0",
    ],
)
def test_bad_server_final(message: bytes) -> None:
    client = ClientExchange("secret")
    client.final(ServerExchange(VERIFIER).first(client.first()))
    with pytest.raises(LoginError):
        client.verify(message)


def test_every_letter_of_the_proof_counts() -> None:
    """Other base64 of the same bytes is no server's answer."""
    client = ClientExchange("secret")
    server = ServerExchange(VERIFIER)
    final = server.final(client.final(server.first(client.first())))
    letters = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    last = letters.index(chr(final[-2]))
    other = final[:-2] + letters[last ^ 1].encode() + final[-1:]
    assert base64.b64decode(other[2:]) == base64.b64decode(final[2:])
    with pytest.raises(LoginError, match="does not know the password"):
        client.verify(other)
    client.verify(final)


def test_server_final_out_of_order() -> None:
    with pytest.raises(LoginError):
        ClientExchange("secret").verify(RFC_SERVER_FINAL)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (b"r=%(n)s,s=YWJj,i=4096", "nonce does not extend ours"),
        (b"r=other%(n)sx,s=YWJj,i=4096", "nonce does not extend ours"),
        (b"r=%(n)sx y,s=YWJj,i=4096", "bad nonce"),
        (b"r=%(n)s" + b"x" * 257 + b",s=YWJj,i=4096", "bad nonce"),
        (b"r=,s=YWJj,i=4096", "bad nonce"),
        (b"s=YWJj,r=%(n)sx,i=4096", "expected attribute r"),
        (b"r=%(n)sx,s=,i=4096", "bad salt"),
        (b"r=%(n)sx,s=YWJ,i=4096", "bad salt"),
        (b"r=%(n)sx,s=YW\nJj,i=4096", "bad salt"),
        (b"r=%(n)sx,s=" + base64.b64encode(bytes(1025)) + b",i=4096", "bad salt"),
        (b"r=%(n)sx,s=YWJj,i=0", "iteration count is not within 1..1000000"),
        (b"r=%(n)sx,s=YWJj,i=-1", "iteration count"),
        (b"r=%(n)sx,s=YWJj,i=1_0", "iteration count"),
        (b"r=%(n)sx,s=YWJj,i=1000001", "iteration count"),
        (b"r=%(n)sx,s=YWJj,i=" + b"9" * 3000, "iteration count"),
        (b"r=%(n)sx,s=YWJj", "three fields"),
        (b"r=%(n)sx,s=YWJj,i=4096,x=1", "three fields"),
        (b"m=x,r=%(n)sx,s=YWJj,i=4096", "mandatory extensions"),
        (b"x" * 4097, "message too long"),
        (b"", "three fields"),
    ],
)
def test_hostile_server_first(template: bytes, why: str) -> None:
    client = ClientExchange("secret")
    nonce = client.first().partition(b"r=")[2]
    with pytest.raises(LoginError, match=why):
        client.final(template.replace(b"%(n)s", nonce))


@pytest.mark.parametrize("binding", [b"", b"hash"])
def test_channel_binding_flags(binding: bytes) -> None:
    """Whether the client could be bound or not, if we do not offer it."""
    converse(ClientExchange("secret", binding=binding), ServerExchange(VERIFIER))


def test_client_that_missed_our_offer_of_plus_was_deceived() -> None:
    server = ServerExchange(VERIFIER, binding=b"hash")
    with pytest.raises(LoginError, match="channel binding negotiation error"):
        server.first(b"y,,n=,r=abc")
    ServerExchange(VERIFIER, binding=b"hash").first(b"n,,n=,r=abc")


def that_binds(binding: bytes) -> ClientExchange:
    return ClientExchange("secret", binding=binding, plus_offered=True)


def test_a_client_that_binds_to_our_certificate() -> None:
    server = ServerExchange(VERIFIER, binding=b"hash")
    assert server.mechanisms == ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]
    server.choose("SCRAM-SHA-256-PLUS")
    client = that_binds(b"hash")
    assert client.mechanism == "SCRAM-SHA-256-PLUS"
    converse(client, server)


@pytest.mark.parametrize("theirs", [b"another", b"hash "])
def test_a_client_that_talks_to_somebody_in_between(theirs: bytes) -> None:
    server = ServerExchange(VERIFIER, binding=b"hash")
    server.choose("SCRAM-SHA-256-PLUS")
    with pytest.raises(LoginError, match="channel binding check failed"):
        converse(that_binds(theirs), server)


@pytest.mark.parametrize("binding", [b"", b"hash"])
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1", "", "scram-sha-256"])
def test_a_mechanism_that_was_not_offered(binding: bytes, mechanism: str) -> None:
    server = ServerExchange(VERIFIER, binding=binding)
    with pytest.raises(LoginError, match="invalid SASL authentication mechanism"):
        server.choose(mechanism)


def test_plus_is_not_offered_without_a_certificate() -> None:
    server = ServerExchange(VERIFIER)
    assert server.mechanisms == ["SCRAM-SHA-256"]
    with pytest.raises(LoginError, match="invalid SASL authentication mechanism"):
        server.choose("SCRAM-SHA-256-PLUS")


@pytest.mark.parametrize(
    "first", [b"n,,n=,r=abc", b"y,,n=,r=abc", b"p=tls-unique,,n=,r=abc"]
)
def test_plus_is_bound_to_the_certificate_and_nothing_else(first: bytes) -> None:
    server = ServerExchange(VERIFIER, binding=b"hash")
    server.choose("SCRAM-SHA-256-PLUS")
    with pytest.raises(LoginError, match="unexpected channel binding flag"):
        server.first(first)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"", "unexpected channel binding flag"),
        (b"x,,n=,r=abc", "unexpected channel binding flag"),
        (b"p=tls-server-end-point,,n=,r=abc", "unexpected channel binding flag"),
        (b"n,a=joe,n=,r=abc", "authorization identity is not supported"),
        (b"n,n=,r=abc", "authorization identity is not supported"),
        (b"n,,m=1,n=,r=abc", "mandatory extensions are not supported"),
        (b"n,,r=abc", "no user name"),
        (b"n,,n=", "no user name"),
        (b"n,,n=,r=", "bad nonce"),
        (b"n,,n=,r=a\0c", "bad nonce"),
        (b"n,,n=,r=" + b"a" * 257, "bad nonce"),
        (b"n,,n=,x=abc", "expected attribute r"),
        (b"n,,n=" + b"a" * 4096 + b",r=abc", "bad packet header: length 4129"),
    ],
)
def test_hostile_client_first(message: bytes, why: str) -> None:
    with pytest.raises(LoginError, match=why):
        ServerExchange(VERIFIER).first(message)


def test_extensions_of_a_client_are_signed_but_not_read() -> None:
    client, server = ClientExchange("secret"), ServerExchange(VERIFIER)
    client._client_first_bare += b",x=1"
    converse(client, server)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"c=biws", b"c=eSws"),
        (b"c=biws", b"c=cD10bHMs"),
        (b"c=biws", b"x=biws"),
        (b",r=rOpr", b",r=xOpr"),
        (b",p=dHzb", b",p=xHzb"),
        (b",p=dHzb", b",p=dHz"),
        (b",p=dHzb", b",q=dHzb"),
        (b"dVQ=", b"dVQ=,x=1"),
        (b"dVQ=", b"dVQ=\0"),
        (b"dVQ=", b"dVQ"),
        (b"dVQ=", b"dVQ=dVQ="),
        (RFC_CLIENT_FINAL, b""),
        (RFC_CLIENT_FINAL, b"c=biws,p=" + b"A" * 44),
        (RFC_CLIENT_FINAL, b"x" * 5000),
    ],
)
def test_hostile_client_final(old: bytes, new: bytes) -> None:
    exchange = rfc_server()
    exchange.first(RFC_CLIENT_FIRST)
    message = RFC_CLIENT_FINAL.replace(old, new)
    assert message != RFC_CLIENT_FINAL
    with pytest.raises(LoginError):
        exchange.final(message)
    assert exchange.keys is None


def test_client_final_without_client_first() -> None:
    with pytest.raises(LoginError):
        ServerExchange(VERIFIER).final(b"c=,r=,p=" + base64.b64encode(bytes(32)))


@given(st.binary(max_size=100))
def test_any_bytes(data: bytes) -> None:
    client = ClientExchange("secret")
    attempts = (
        lambda: ServerExchange(VERIFIER).first(b"n,,n=" + data),
        lambda: ServerExchange(VERIFIER).first(data),
        lambda: ServerExchange(VERIFIER).final(data),
        lambda: client.final(data),
        lambda: client.verify(data),
    )
    for attempt in attempts:
        try:
            attempt()
        except LoginError:
            continue


# Secrets.


def test_verifier_text() -> None:
    text = VERIFIER.to_text()
    assert text.startswith("SCRAM-SHA-256$2:")
    assert Verifier.parse(text) == VERIFIER
    assert VERIFIER.matches("secret")
    assert not VERIFIER.matches("wrong")


GOOD = (
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ=="
    "$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
    ":wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)


def test_verifier_of_the_rfc_example() -> None:
    assert Verifier.from_password("pencil", 4096, RFC_SALT).to_text() == GOOD


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "SCRAM-SHA-256$",
        GOOD[:-1],
        GOOD + "$",
        GOOD + ":",
        GOOD + "\n",
        GOOD.replace("4096", "0"),
        GOOD.replace("4096", "-1"),
        GOOD.replace("4096", "99999999999"),
        GOOD.replace("W22ZaJ0SNY7soEsUEjb6gQ==", ""),
        GOOD.replace("WG5d", ""),
        GOOD.replace("$WG5d", "$ü5d"),
        GOOD.replace("SHA-256", "SHA-1"),
    ],
)
def test_what_is_no_verifier_is_a_password(text: str) -> None:
    assert Verifier.parse(text) is None
    assert secret_kind(text) is SecretKind.PLAIN


def test_secret_kinds() -> None:
    assert secret_kind(GOOD) is SecretKind.SCRAM
    assert secret_kind("md5" + "0" * 32) is SecretKind.MD5
    assert secret_kind("md5" + "0" * 31) is SecretKind.PLAIN
    assert secret_kind("md5" + "0" * 32 + "\n") is SecretKind.PLAIN


def test_repr_tells_no_secret() -> None:
    keys = ScramKeys.from_password("secret", b"salt", 1)
    shown = repr(VERIFIER) + repr(keys)
    for secret in (VERIFIER.stored_key, VERIFIER.server_key, keys.client_key):
        assert repr(secret) not in shown


def test_mock_verifier_is_steady_per_user() -> None:
    joe = Verifier.mock("joe", b"key", 4096)
    assert joe == Verifier.mock("joe", b"key", 4096)
    assert joe.salt == salt_of("joe", b"key")
    assert len(joe.salt) == 16
    assert joe.salt != Verifier.mock("ann", b"key", 4096).salt
    assert joe.salt != Verifier.mock("joe", b"other", 4096).salt


def test_verifier_cache() -> None:
    cache = VerifierCache(max_count=2)
    made = Verifier.from_password("secret", 1, b"salt")
    assert cache.find("joe", "secret", b"salt", 1) is None
    cache.keep("joe", "secret", made)
    assert cache.find("joe", "secret", b"salt", 1) is made
    assert cache.find("joe", "changed", b"salt", 1) is None
    assert cache.find("joe", "secret", b"salt", 2) is None
    assert cache.find("joe", "secret", b"other", 1) is None
    for user in ("ann", "bob", "eve"):
        cache.keep(user, "secret", made)
    assert len(cache) == 2
    assert cache.find("joe", "secret", b"salt", 1) is None


# RFC 4013, "Examples", and where PostgreSQL departs from it.
@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        ("user", b"user"),
        ("\x07", b"\x07"),
        ("I\u00adX", b"IX"),
        ("\u00aa", b"a"),
        ("\u2168", b"IX"),
        ("a\u00a0b", b"a b"),
        ("\u00ad", "\u00ad".encode()),
        ("\u0627\u0031", "\u0627\u0031".encode()),
        ("ü\x07\u2168", "ü\x07\u2168".encode()),
        ("\u0221\u2168", "\u0221\u2168".encode()),
        ("\udcff\u2168", b"\xff\xe2\x85\xa8"),
    ],
)
def test_saslprep(password: str, prepared: bytes) -> None:
    assert saslprep(password) == prepared


def test_md5() -> None:
    secret = md5_secret("secret", "joe")
    assert secret == "md5c59ec932d911ffdf487595b5a2adf973"
    answer = md5_response(secret, b"\x00\xff\x01\x02")
    assert answer == "md567c061b487b554cf9a60c5ed3592c12d"
    assert is_md5_secret(secret)
    assert not is_md5_secret("md5" + "A" * 32)
