# SPDX-License-Identifier: MIT
"""The proof of a client, message by message: what no conversation of a driver has."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest

from pooler.auth.exchange import ProofCode, Question
from pooler.auth.proof import RANDOM_BYTES, Proof, WrongProofError
from pooler.auth.secrets import StoredSecret
from pooler.errors import LoginError, SilentLoginError
from pooler.login import packets
from pooler.login.client import ClientLogin
from pooler.login.md5 import md5_response, md5_secret
from pooler.login.policy import AuthMethod, ClientPolicy, kind_by_name
from pooler.login.scram import (
    ClientExchange,
    KeyRequest,
    ScramKeys,
    SecretKind,
    Verifier,
)
from tests.server_exchange import ServerExchange

RANDOM = bytes(range(RANDOM_BYTES))
VERIFIER = Verifier.from_password("secret", 2, b"salt" * 4)
HASH = md5_secret("secret", "joe")
SECRETS = {
    "plain": "secret",
    "md5": md5_secret("secret", "md5"),
    "scram": VERIFIER.to_text(),
    "gone": "",
}
POLICY = ClientPolicy(
    method=AuthMethod.PLAIN,
    secrets=SECRETS.get,
    database_exists=lambda name: True,
    forced_user=lambda name: None,
    ignore_startup_parameters=frozenset(),
    mock_key=b"mock",
    scram_iterations=2,
)


def password(text: bytes) -> bytes:
    return packets.message(b"p", text + b"\0")


def hashed() -> StoredSecret:
    return StoredSecret.md5(HASH[3:].encode(), b"joe")


def test_a_message_is_taken_when_it_is_whole() -> None:
    whole = password(b"secret")
    for cut in range(len(whole)):
        proof = Proof(Question.ASK_PASSWORD, StoredSecret.plain(b"secret"), RANDOM)
        assert proof.take(whole[:cut]) == (ProofCode.PROOF_MORE, 0, None)
        assert proof.take(whole + b"Q") == (ProofCode.PROOF_GIVEN, len(whole), None)


@pytest.mark.parametrize(
    "secret",
    [StoredSecret.plain(b"secret"), hashed(), StoredSecret.nobody()],
    ids=["plain", "md5", "nobody"],
)
@pytest.mark.parametrize("given", [b"secre", b"secret ", b"Secret", b"x" * 65530])
def test_wrong_passwords(secret: StoredSecret, given: bytes) -> None:
    proof = Proof(Question.ASK_PASSWORD, secret, RANDOM)
    with pytest.raises(WrongProofError, match=r"^password authentication failed$"):
        proof.take(password(given))
    with pytest.raises(LoginError):  # there is no second try
        proof.take(password(b"secret"))


def test_the_longest_token_is_a_password() -> None:
    token = os.urandom(32765).hex().encode()
    proof = Proof(Question.ASK_PASSWORD, StoredSecret.plain(token), RANDOM)
    assert proof.take(password(token))[0] == ProofCode.PROOF_GIVEN
    with pytest.raises(SilentLoginError):
        Proof(Question.ASK_PASSWORD, StoredSecret.plain(token), RANDOM).take(
            password(token + b"x")[:5]
        )


def test_md5() -> None:
    answer = md5_response(HASH, RANDOM[:4]).encode()
    proof = Proof(Question.ASK_MD5, hashed(), RANDOM)
    assert proof.answer == packets.authentication_md5_password(RANDOM[:4])
    assert proof.take(password(answer))[0] == ProofCode.PROOF_GIVEN
    wrong = [answer[3:], answer + b"0", answer[:-1], answer.upper(), b"secret"]
    for given in [*wrong, HASH.encode()]:
        with pytest.raises(WrongProofError):
            Proof(Question.ASK_MD5, hashed(), RANDOM).take(password(given))


def test_doomed_secrets_take_no_answer() -> None:
    answer = md5_response(HASH, RANDOM[:4]).encode()
    secret = StoredSecret.md5(HASH[3:].encode(), b"joe", doomed=True)
    with pytest.raises(WrongProofError):
        Proof(Question.ASK_MD5, secret, RANDOM).take(password(answer))


def test_a_secret_that_does_not_fit_the_question() -> None:
    for question in (Question.ASK_MD5, Question.ASK_SCRAM):
        with pytest.raises(ValueError, match="fit"):
            Proof(question, StoredSecret.plain(b"secret"), RANDOM)


def test_a_proof_of_another_exchange_is_worth_nothing() -> None:
    client, overheard = ClientExchange("secret"), ServerExchange(VERIFIER)
    final = client.final(overheard.first(client.first()))
    assert overheard.final(final)
    again = ServerExchange(VERIFIER)
    again.first(client.first())
    with pytest.raises(LoginError, match="nonce does not match"):
        again.final(final)


def test_the_longest_salt_and_nonce() -> None:
    verifier = Verifier.from_password("secret", 2_147_483, b"s" * 1024)
    exchange = ServerExchange(verifier)
    said = exchange.first(b"n,,n=,r=" + b"a" * 256)
    assert said.endswith(b",i=2147483")
    assert verifier.salt == b"s" * 1024


def test_no_secret_is_read_back() -> None:
    assert "pencil" not in repr(StoredSecret.plain(b"pencil"))
    assert [name for name in dir(StoredSecret) if not name.startswith("_")] == [
        "elsewhere",
        "md5",
        "nobody",
        "plain",
        "same",
        "scram",
    ]


def question_for(user: str, **changes: Any) -> bytes:
    """What the first answer asks, without what is random in it."""
    policy = dataclasses.replace(POLICY, method=AuthMethod.MD5, **changes)
    startup = packets.startup_message({"user": user})
    return ClientLogin(policy).receive(startup).send[:9]


def test_md5_asks_unknown_users_as_it_asks_known_ones() -> None:
    """Each the same at each time, and as many of them as there are of the known."""
    kind = kind_by_name(3, 4, b"key")
    names = [f"user{i}" for i in range(2000)]
    kinds = [kind(name) for name in names]
    assert kinds == [kind(name) for name in names]
    assert 0.7 < kinds.count(SecretKind.SCRAM) / len(kinds) < 0.8
    assert kinds != [kind_by_name(3, 4, b"other")(name) for name in names]
    for count in (0, 7):
        assert kind_by_name(count, count, b"key")("joe") is SecretKind.SCRAM
        assert kind_by_name(0, 7, b"key")("joe") is SecretKind.MD5
    for like, mock in (("scram", SecretKind.SCRAM), ("md5", SecretKind.MD5)):
        for user in ("nobody", "gone"):
            asked = question_for(user, mock_kind=lambda _, mock=mock: mock)
            assert asked == question_for(like)


@pytest.mark.parametrize("user", ["plain", "md5", "scram", "gone", "nobody"])
def test_every_wrong_password_costs_as_much(user: str) -> None:
    hashed: list[str] = []

    def find_keys(request: KeyRequest) -> ScramKeys:
        hashed.append(request.password)
        return request.derive()

    policy = dataclasses.replace(POLICY, hashes_passwords=True, find_keys=find_keys)
    packet = packets.startup_message({"user": user}) + password(b"wrong")
    with pytest.raises(LoginError, match=r"^password authentication failed$"):
        ClientLogin(policy).receive(packet)
    assert hashed == ["wrong"]
