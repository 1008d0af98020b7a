# SPDX-License-Identifier: MIT
"""Fuzz a client's login with atheris: ``login_target.py [libFuzzer's options]``.

The first byte chooses the method and whether secrets are asked for, the rest is what a
client sends until it is logged in. Every input is given whole and then byte by byte.
Allowed are an outcome, a wait for more, and LoginError: the same each time, and nothing
else.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(include=["pooler"]):
    from pooler.errors import LoginError
    from pooler.login.client import ClientLogin
    from pooler.login.md5 import md5_secret
    from pooler.login.outcomes import (
        LoggedIn,
        NeedKeys,
        NeedSecret,
        NeedVerdict,
        Pending,
        Reply,
    )
    from pooler.login.packets import MAX_STARTUP_BYTES
    from pooler.login.policy import AuthMethod, ClientPolicy
    from pooler.login.scram import KeyRequest, Verifier

from tests.fuzz.scram_reference import CONTINUE, authentication, messages, proofs

METHODS = tuple(AuthMethod)
PASSWORD = b"secret"  # of all secrets
ENCRYPTION = (80877103, 80877104)  # SSLRequest, GSSENCRequest
CANARY = b"\xffPGSQ"
SECRETS = {
    "plain": "secret",
    "md5": md5_secret("secret", "md5"),
    "scram": Verifier.from_password("secret", 2, b"salt" * 4).to_text(),
    "removed": "",
}
NOBODY: dict[str, str] = {}
DATABASES = frozenset({"shop", "forced"})
POLICIES = [
    ClientPolicy(
        method=method,
        secrets=NOBODY.get if asks else SECRETS.get,
        can_ask=DATABASES.__contains__ if asks else frozenset().__contains__,
        database_exists=DATABASES.__contains__,
        forced_user={"forced": "boss"}.get,
        ignore_startup_parameters=frozenset({"extra_float_digits"}),
        mock_key=b"mock",
        scram_iterations=2,
        hashes_passwords=asks,
        find_keys=(lambda _: None) if asks else KeyRequest.derive,
    )
    for asks in (False, True)
    for method in METHODS
]
# What a client may leave unconsumed: one incomplete packet.
MOST_LEFT = 65536 + 8
assert MAX_STARTUP_BYTES <= MOST_LEFT


def answer(login: ClientLogin, question: Pending) -> Reply:
    """What somebody else knows."""
    if isinstance(question, NeedSecret):
        return login.secret_found(SECRETS.get(question.user))
    if isinstance(question, NeedKeys):
        return login.keys_found(question.request.derive())
    assert isinstance(question, NeedVerdict)
    return login.judged("" if question.password == "secret" else "wrong password")


def step(login: ClientLogin, pending: bytes) -> Reply:
    """Go as far as the bytes allow, whatever is asked meanwhile."""
    reply = login.receive(pending)
    while isinstance(reply.outcome, Pending):
        assert login.receive(pending[reply.consumed :]) == Reply(0, b"")
        answered = answer(login, reply.outcome)
        assert answered.consumed == 0
        more = Reply(0, b"", answered.outcome)
        if answered.outcome is None:
            more = login.receive(pending[reply.consumed :])
        reply = Reply(
            reply.consumed + more.consumed,
            reply.send + answered.send + more.send,
            more.outcome,
        )
    return reply


def play(policy: ClientPolicy, raw: bytes, piece: int) -> tuple[object, ...]:
    """What a login comes to when it gets the bytes in pieces."""
    login = ClientLogin(policy, secure_random=bytes)
    pending = b""
    sent = b""
    used = 0
    for at in range(0, len(raw), piece):
        pending += raw[at : at + piece]
        try:
            reply = step(login, pending)
        except LoginError as error:
            # What was answered before the error is lost when both come in one read.
            return "error", error.message, error.sqlstate
        assert 0 <= reply.consumed <= len(pending)
        pending = pending[reply.consumed :]
        used += reply.consumed
        sent += reply.send
        if reply.outcome is not None:
            if not isinstance(reply.outcome, LoggedIn):
                # What is behind a cancel request or TLS is consumed unread.
                return "over", sent, reply.outcome
            assert reply.outcome.user
            judge(raw[:used], sent)
            assert reply.outcome.database
            return "outcome", used, sent, reply.outcome
        assert len(pending) <= MOST_LEFT
    return "waits", used, sent, login.wants_in


def judge(raw: bytes, sent: bytes) -> None:
    """Who was asked for a proof of SCRAM, and is let in, has given it."""
    first = authentication(sent, CONTINUE)
    if not first:
        return
    at = 0
    while True:  # over requests for encryption and the startup packet
        length, code = struct.unpack_from("!II", raw, at)
        at += length
        if code not in ENCRYPTION:
            break
    initial, *others = [body for kind, body in messages(raw[at:]) if kind == b"p"]
    client_first = initial[initial.index(b"\0") + 5 :] or others.pop(0)
    [final] = others
    without_proof = final[: final.rindex(b",p=")]
    bare = client_first.split(b",", 2)[2]
    proof = proofs(PASSWORD, bare, first, without_proof)[0]
    assert final[len(without_proof) + 3 :] == proof, "let in without a proof"


def glued(whole: tuple[object, ...]) -> bool:
    """Bytes behind a request for encryption: refused only when they came with it."""
    return whole[0] == "error" and "unencrypted data after" in str(whole[1])


def test_one_input(data: bytes) -> None:
    """Called by libFuzzer."""
    if not data:
        return
    if data[:5] == CANARY:
        raise AssertionError("canary: found")
    policy = POLICIES[data[0] % len(POLICIES)]
    raw = data[1:]
    whole = play(policy, raw, max(1, len(raw)))
    split = play(policy, raw, 1)
    assert whole == split or glued(whole), (whole, split)


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
