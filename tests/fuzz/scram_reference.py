# SPDX-License-Identifier: MIT
"""SCRAM-SHA-256 by the letter of RFC 5802, to judge what was accepted.

Nothing here is shared with the code that is judged; nothing is checked but proofs.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from collections.abc import Iterator

CONTINUE, FINAL = 11, 12
OUR_NONCE = base64.b64encode(bytes(18))  # of a login whose random bytes are zero
MOST_ITERATIONS = 5_000  # of one that is judged


def messages(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kinds and bodies; answers to requests for encryption are passed over."""
    at = 0
    while at < len(raw):
        if raw[at : at + 1] in (b"N", b"S") and raw[at + 1 : at + 2] in (b"R", b"v"):
            at += 1
            continue
        (length,) = struct.unpack_from("!I", raw, at + 1)
        yield raw[at : at + 1], raw[at + 5 : at + 1 + length]
        at += 1 + length


def authentication(raw: bytes, code: int) -> bytes:
    """The last authentication request of a kind; empty: there is none."""
    found = b""
    for kind, body in messages(raw):
        if kind == b"R" and body[:4] == struct.pack("!I", code):
            found = body[4:]
    return found


def fields(message: bytes) -> dict[bytes, bytes]:
    return {part[:1]: part[2:] for part in message.split(b",")}


def keys(password: bytes, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """(ClientKey, ServerKey)."""
    salted = hashlib.pbkdf2_hmac("sha256", password, salt, iterations)
    return tuple(  # type: ignore[return-value]
        hmac.digest(salted, name, "sha256") for name in (b"Client Key", b"Server Key")
    )


def proofs(
    password: bytes, client_bare: bytes, server_first: bytes, client_final: bytes
) -> tuple[bytes, bytes]:
    """The proof and the signature that belong to an exchange, in base64."""
    said = fields(server_first)
    salt, iterations = base64.b64decode(said[b"s"]), int(said[b"i"])
    client_key, server_key = keys(password, salt, iterations)
    everything = b",".join((client_bare, server_first, client_final))
    stored_key = hashlib.sha256(client_key).digest()
    signature = hmac.digest(stored_key, everything, "sha256")
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    return (
        base64.b64encode(proof),
        base64.b64encode(hmac.digest(server_key, everything, "sha256")),
    )
