# SPDX-License-Identifier: MIT
"""Fuzz a login to a server with atheris: ``server_login_target.py [options]``.

The first byte chooses what is known of the user, the rest is what a hostile server
says. Every input is given whole and then byte by byte. Allowed are a greeting, a wait
for more, and LoginError: the same each time, and nothing else. A server that was given
a proof of SCRAM has greeted us only if it has proved the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(include=["pooler"]):
    from pooler.errors import LoginError
    from pooler.login.md5 import md5_secret
    from pooler.login.scram import ScramKeys, Verifier
    from pooler.login.server import ServerLogin

from tests.fuzz.scram_reference import (
    CONTINUE,
    FINAL,
    MOST_ITERATIONS,
    authentication,
    fields,
    messages,
    proofs,
)

CANARY = b"\xffPGSQ"
PASSWORD = "secret"
KEYS = ScramKeys.from_password(PASSWORD, b"salt" * 4, 2)
# (secret, keys that a client has proved, hash of the server's certificate)
KNOWN: tuple[tuple[str | None, ScramKeys | None, bytes], ...] = (
    (PASSWORD, None, b""),
    (PASSWORD, None, b"hash"),
    (PASSWORD, KEYS, b""),
    (Verifier.from_keys(KEYS).to_text(), KEYS, b""),
    (Verifier.from_keys(KEYS).to_text(), None, b""),
    (md5_secret(PASSWORD, "joe"), None, b""),
    (None, None, b""),
)
MOST_ASKED = 100_000  # iterations: more would only take time
# What a server may leave unconsumed: one incomplete message.
MOST_LEFT = 65_536 + 8


def play(known: int, raw: bytes, piece: int) -> tuple[object, ...]:
    """What a login comes to when it gets the bytes in pieces."""
    secret, keys, binding = KNOWN[known]
    login = ServerLogin(
        "joe", "shop", secret, {}, keys, binding=binding, secure_random=bytes
    )
    login.start()
    pending = sent = b""
    used = 0
    for at in range(0, len(raw), piece):
        pending += raw[at : at + piece]
        try:
            consumed, answer = login.receive(pending)
        except LoginError as error:
            return "error", error.message, error.sqlstate
        assert 0 <= consumed <= len(pending)
        pending = pending[consumed:]
        used += consumed
        sent += answer
        if login.greeting is not None:
            judge(raw[:used], sent)
            return "greeting", used, sent, login.greeting
        assert len(pending) <= MOST_LEFT
    return "waits", used, sent


def judge(raw: bytes, sent: bytes) -> None:
    """What was accepted after our proof has the server's."""
    first = authentication(raw, CONTINUE)
    if not first or int(fields(first)[b"i"]) > MOST_ITERATIONS:
        assert first or b"SCRAM" not in sent, "half an exchange was enough"
        return
    (_, initial), (_, final) = [one for one in messages(sent) if one[0] == b"p"]
    bare = initial[initial.index(b"n=,r=") :]
    without_proof = final[: final.rindex(b",p=")]
    proof, signature = proofs(PASSWORD.encode(), bare, first, without_proof)
    assert final[len(without_proof) + 3 :] == proof, "a proof that proves nothing"
    assert authentication(raw, FINAL) == b"v=" + signature, "nothing was proved"


def costly(raw: bytes) -> bool:
    """Whether a count of iterations would only take time."""
    at = raw.rfind(b",i=")
    digits = raw[at + 3 : at + 12].split(b",")[0] if at >= 0 else b""
    return digits[:6].isdigit() and len(digits) >= len(str(MOST_ASKED))


def test_one_input(data: bytes) -> None:
    """Called by libFuzzer."""
    if not data:
        return
    if data[:5] == CANARY:
        raise AssertionError("canary: found")
    raw = data[1:]
    if costly(raw):
        return
    known = data[0] % len(KNOWN)
    whole = play(known, raw, max(1, len(raw)))
    split = play(known, raw, 1)
    assert whole == split or whole[0] == "error" == split[0], (whole, split)


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
