# SPDX-License-Identifier: MIT
"""SCRAM-SHA-256, both sides. Login layer, sans-IO.

From a password, a salt and an iteration count come two keys. The client proves
that it holds ClientKey by a signature which the other side can check, and undo,
with StoredKey = H(ClientKey) alone; the server proves that it holds ServerKey.
So a verifier (StoredKey, ServerKey) lets one check a client but not play it,
until that client has logged in once: its ClientKey then falls out of the proof
and logs us in to every server that stores the same verifier.

Both peers may be hostile: every field is bounded, nothing may follow the last
one, and what is secret is compared in constant time.

Source: RFC 5802, RFC 7677; PostgreSQL documentation, "SCRAM-SHA-256
Authentication".
"""

from __future__ import annotations

import binascii
import enum
import hashlib
import hmac
import os
import re
import stringprep
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from pooler.auth.secrets import StoredSecret
from pooler.errors import INVALID_PASSWORD, LoginError
from pooler.login.md5 import is_md5_secret
from pooler.login.packets import (
    SCRAM_SHA_256,
    SCRAM_SHA_256_PLUS,
    decode,
    encode,
)

DEFAULT_ITERATIONS = 4096
# What a server may make us compute, unless it is told: about half a second of one core.
MAX_ITERATIONS = 1_000_000
MAX_MESSAGE_BYTES = 4096
MAX_NONCE_BYTES = 256
MAX_SALT_BYTES = 1024

_KEY_BYTES = 32
_SALT_BYTES = 16
_NONCE_RAW_BYTES = 18
_NONCE = re.compile(rb"[!-+\--~]+")
_BOUND = b"p=tls-server-end-point"
# The first field of client-first-message, by mechanism, and its header.
_GS2_HEADERS = {
    SCRAM_SHA_256: {b"n": b"n,,", b"y": b"y,,"},
    SCRAM_SHA_256_PLUS: {_BOUND: _BOUND + b",,"},
}
_FAILED = "SASL authentication failed"

SecureRandom = Callable[[int], bytes]


class SecretKind(enum.Enum):
    """What a stored secret is."""

    PLAIN = "plain"
    MD5 = "md5"
    SCRAM = "scram-sha-256"


def secret_kind(secret: str) -> SecretKind:
    """Classify a stored secret; what is no proper hash is a password."""
    if Verifier.parse(secret) is not None:
        return SecretKind.SCRAM
    return SecretKind.MD5 if is_md5_secret(secret) else SecretKind.PLAIN


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """Both keys of one password, and the salt and count they are good for."""

    salt: bytes
    iterations: int
    client_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def from_password(cls, password: str, salt: bytes, iterations: int) -> Self:
        """Derive the keys; costs ``iterations`` hashes."""
        salted = hashlib.pbkdf2_hmac("sha256", saslprep(password), salt, iterations)
        return cls(
            salt, iterations, _hmac(salted, b"Client Key"), _hmac(salted, b"Server Key")
        )


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """What keys are made of; ``derive`` costs ``iterations`` hashes."""

    password: str = field(repr=False)
    salt: bytes
    iterations: int

    def derive(self) -> ScramKeys:
        """Make the keys, here and now."""
        return ScramKeys.from_password(self.password, self.salt, self.iterations)


# The keys, or None: whoever asks has to wait for them.
FindKeys = Callable[[KeyRequest], ScramKeys | None]


@dataclass(frozen=True, slots=True)
class Verifier:
    """What PostgreSQL stores of a password (``pg_authid.rolpassword``)."""

    iterations: int
    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read ``SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey``.

        ``None``: not a verifier, so a plain password, as PostgreSQL sees it.
        """
        if not text.startswith(SCRAM_SHA_256 + "$"):
            return None
        try:
            _, cost, keys = encode(text).split(b"$")
            iterations, salt = cost.split(b":")
            stored_key, server_key = keys.split(b":")
            return cls(
                _decode_iterations(iterations, 0x7FFF_FFFF),
                _decode_base64(salt, 1, MAX_SALT_BYTES),
                _decode_base64(stored_key, _KEY_BYTES, _KEY_BYTES),
                _decode_base64(server_key, _KEY_BYTES, _KEY_BYTES),
            )
        except ValueError:
            return None

    @classmethod
    def from_keys(cls, keys: ScramKeys) -> Self:
        """Return the verifier of these keys."""
        return cls(keys.iterations, keys.salt, _hash(keys.client_key), keys.server_key)

    @classmethod
    def from_password(
        cls,
        password: str,
        iterations: int = DEFAULT_ITERATIONS,
        salt: bytes | None = None,
    ) -> Self:
        """Derive the verifier; costs ``iterations`` hashes."""
        salt = os.urandom(_SALT_BYTES) if salt is None else salt
        return cls.from_keys(ScramKeys.from_password(password, salt, iterations))

    @classmethod
    def mock(
        cls, user: str, mock_key: bytes, iterations: int = DEFAULT_ITERATIONS
    ) -> Self:
        """Return a verifier for nobody: steady per user, and without a password.

        Its ``stored_secret`` is to be ``doomed``.
        """
        return cls(
            iterations,
            salt_of(user, mock_key),
            _hmac(mock_key, b"stored\0" + encode(user)),
            _hmac(mock_key, b"server\0" + encode(user)),
        )

    def stored_secret(self, *, doomed: bool = False) -> StoredSecret:
        """Return what an exchange measures a client by."""
        return StoredSecret.scram(
            self.iterations,
            self.salt,
            self.stored_key,
            self.server_key,
            doomed=doomed,
        )

    def matches(self, password: str) -> bool:
        """Tell whether this is the password; costs ``iterations`` hashes."""
        keys = ScramKeys.from_password(password, self.salt, self.iterations)
        return self.is_of(keys)

    def is_of(self, keys: ScramKeys) -> bool:
        """Tell whether these are the keys of this verifier."""
        return hmac.compare_digest(keys.server_key, self.server_key)

    def to_text(self) -> str:
        """Return the form that ``parse`` reads. As secret as a secret."""
        salt, stored, server = (
            _encode_base64(raw).decode("ascii")
            for raw in (self.salt, self.stored_key, self.server_key)
        )
        return f"{SCRAM_SHA_256}${self.iterations}:{salt}${stored}:{server}"


def salt_of(user: str, mock_key: bytes) -> bytes:
    """Return the salt we use for a user whose secret has none of its own.

    Known and unknown users, every worker and every attempt must agree on it:
    a salt that differed in any of them would tell who exists.
    """
    return _hmac(mock_key, b"salt\0" + encode(user))[:_SALT_BYTES]


class VerifierCache:
    """Verifiers made from plain passwords, so that a login costs no 4096 hashes.

    One per configuration: a reload that changes a password drops them all. The
    oldest entry goes when it is full.
    """

    __slots__ = ("_entries", "_max_count")

    def __init__(self, max_count: int = 10_000) -> None:
        self._max_count = max_count
        self._entries: dict[str, tuple[str, Verifier]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def find(
        self, user: str, password: str, salt: bytes, iterations: int
    ) -> Verifier | None:
        """Return the verifier of this password, if it was made."""
        known, verifier = self._entries.get(user, ("", None))
        if (
            verifier is not None
            and known == password
            and (verifier.salt, verifier.iterations) == (salt, iterations)
        ):
            return verifier
        return None

    def keep(self, user: str, password: str, verifier: Verifier) -> None:
        """Remember the verifier of a password."""
        self._entries.pop(user, None)
        if len(self._entries) >= self._max_count:
            del self._entries[next(iter(self._entries))]
        self._entries[user] = (password, verifier)


class ClientExchange:
    """We are the client: log in with a password or with keys of an earlier login.

    ``first``, then ``final``, then ``verify``. Keys serve only for the salt and
    the count they were made with; a password, if there is one, serves for any.
    ``keys`` holds those that were used once ``verify`` has passed.

    ``find_keys``: makes or finds the keys of a password. If it has none, ``final``
    returns nothing and sets ``wanted``; the message then comes from ``proceed``.

    ``binding``: the hash of the server's certificate, over TLS. ``plus_offered``: the
    server has offered to be bound to it; if it has not, it is told that we would have.
    """

    __slots__ = (
        "_auth_message",
        "_binding",
        "_candidate",
        "_client_first_bare",
        "_find_keys",
        "_gs2_header",
        "_known_keys",
        "_max_iterations",
        "_nonce",
        "_password",
        "_without_proof",
        "keys",
        "mechanism",
        "wanted",
    )

    def __init__(
        self,
        password: str | None = None,
        keys: ScramKeys | None = None,
        *,
        binding: bytes = b"",
        plus_offered: bool = False,
        max_iterations: int = MAX_ITERATIONS,
        find_keys: FindKeys = KeyRequest.derive,
        secure_random: SecureRandom = os.urandom,
    ) -> None:
        bound = bool(binding) and plus_offered
        self.mechanism = SCRAM_SHA_256_PLUS if bound else SCRAM_SHA_256
        flag = _BOUND if bound else b"y" if binding else b"n"
        self._gs2_header = _GS2_HEADERS[self.mechanism][flag]
        self._binding = binding if bound else b""
        self._password = password
        self._known_keys = keys
        self._max_iterations = max_iterations
        self._find_keys = find_keys
        self._nonce = _make_nonce(secure_random)
        # PostgreSQL takes the name from StartupMessage; libpq leaves it empty.
        self._client_first_bare = b"n=,r=" + self._nonce
        self._candidate: ScramKeys | None = None
        self._auth_message = b""
        self._without_proof = b""
        self.keys: ScramKeys | None = None
        self.wanted: KeyRequest | None = None

    def first(self) -> bytes:
        """Return client-first-message."""
        return self._gs2_header + self._client_first_bare

    def final(self, server_first: bytes) -> bytes:
        """Take server-first-message, return client-final-message, or b"": see above."""
        _check_size(server_first)
        parts = server_first.split(b",")
        if parts[0].startswith(b"m="):
            raise _malformed("mandatory extensions are not supported")
        if len(parts) != 3:
            raise _malformed("server-first-message has not three fields")
        # The server's part may be as long as ours may be.
        nonce = _decode_nonce(parts[0], len(self._nonce) + MAX_NONCE_BYTES)
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise _malformed("nonce does not extend ours")
        salt = _field(_attribute(parts[1], b"s="), 1, MAX_SALT_BYTES, "salt")
        iterations = self._read_iterations(_attribute(parts[2], b"i="))
        bound = _encode_base64(self._gs2_header + self._binding)
        self._without_proof = b"c=%b,r=%b" % (bound, nonce)
        self._auth_message = b",".join(
            (self._client_first_bare, server_first, self._without_proof)
        )
        keys = self._keys_for(salt, iterations)
        return b"" if keys is None else self.proceed(keys)

    def proceed(self, keys: ScramKeys) -> bytes:
        """Return client-final-message, with keys for what ``wanted`` says."""
        self.wanted = None
        self._candidate = keys
        signature = _hmac(_hash(keys.client_key), self._auth_message)
        proof = _encode_base64(_xor(keys.client_key, signature))
        return self._without_proof + b",p=" + proof

    def verify(self, server_final: bytes) -> None:
        """Take server-final-message; LoginError unless the server knows us."""
        _check_size(server_final)
        if self._candidate is None:
            raise _malformed("server-final-message before server-first-message")
        if server_final.startswith(b"e="):
            raise LoginError(f"{_FAILED}: {decode(server_final[2:])}", INVALID_PASSWORD)
        encoded = _attribute(server_final, b"v=")
        _field(encoded, _KEY_BYTES, _KEY_BYTES, "server signature")
        expected = _hmac(self._candidate.server_key, self._auth_message)
        # As text: of its last letter two bits are left out when it is decoded.
        if not hmac.compare_digest(encoded, _encode_base64(expected)):
            raise LoginError(
                f"{_FAILED}: the server does not know the password", INVALID_PASSWORD
            )
        self.keys = self._candidate

    def _read_iterations(self, text: bytes) -> int:
        try:
            return _decode_iterations(text, self._max_iterations)
        except ValueError:
            raise _malformed(
                f"iteration count is not within 1..{self._max_iterations}"
                " (scram_max_iterations)"
            ) from None

    def _keys_for(self, salt: bytes, iterations: int) -> ScramKeys | None:
        known = self._known_keys
        if known is not None and (known.salt, known.iterations) == (salt, iterations):
            return known
        if self._password is None:
            raise LoginError(
                f"{_FAILED}: the server's secret has another salt or iteration count"
                " than ours; store the same secret in auth_file or a password",
                INVALID_PASSWORD,
            )
        request = KeyRequest(self._password, salt, iterations)
        keys = self._find_keys(request)
        if keys is None:
            self.wanted = request
        return keys


def saslprep(password: str) -> bytes:
    """Normalise a password as PostgreSQL does, which is not quite RFC 4013.

    ASCII and what SASLprep would refuse stay as they are, and the refusals are
    judged before normalisation: other bytes would give other keys than those
    the server stored.

    Source: PostgreSQL documentation, "SCRAM-SHA-256 Authentication".
    """
    raw = encode(password)
    if password.isascii():
        return raw
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in password
        if not stringprep.in_table_b1(character)
    )
    if not mapped or _has_prohibited(mapped) or not _is_bidi_sound(mapped):
        return raw
    return encode(unicodedata.normalize("NFKC", mapped))


_PROHIBITED = (
    stringprep.in_table_a1,
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def _has_prohibited(text: str) -> bool:
    return any(table(character) for character in text for table in _PROHIBITED)


def _is_bidi_sound(text: str) -> bool:
    """Check RFC 3454, "Bidirectional Characters"."""
    if not any(map(stringprep.in_table_d1, text)):
        return True
    return (
        stringprep.in_table_d1(text[0])
        and stringprep.in_table_d1(text[-1])
        and not any(map(stringprep.in_table_d2, text))
    )


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _encode_base64(raw: bytes) -> bytes:
    return binascii.b2a_base64(raw, newline=False)


def _decode_base64(text: bytes, low: int, high: int) -> bytes:
    """Decode strictly; ValueError unless ``low`` to ``high`` bytes come out."""
    raw = binascii.a2b_base64(text, strict_mode=True)
    if not low <= len(raw) <= high:
        raise ValueError("field has a wrong size")
    return raw


def _decode_iterations(text: bytes, high: int) -> int:
    if not text.isdigit() or len(text) > 10 or not 1 <= int(text) <= high:
        raise ValueError("bad iteration count")
    return int(text)


def _field(text: bytes, low: int, high: int, name: str) -> bytes:
    try:
        return _decode_base64(text, low, high)
    except ValueError:
        raise _malformed(f"bad {name}") from None


def _make_nonce(secure_random: SecureRandom) -> bytes:
    return _encode_base64(secure_random(_NONCE_RAW_BYTES))


def _decode_nonce(part: bytes, max_bytes: int) -> bytes:
    nonce = _attribute(part, b"r=")
    if len(nonce) > max_bytes or not _NONCE.fullmatch(nonce):
        raise _malformed("bad nonce")
    return nonce


def _attribute(part: bytes, prefix: bytes) -> bytes:
    if not part.startswith(prefix):
        raise _malformed(f"expected attribute {prefix[:1].decode('ascii')}")
    return part[len(prefix) :]


def _check_size(message: bytes) -> None:
    if len(message) > MAX_MESSAGE_BYTES:
        raise _malformed("message too long")


def _malformed(why: str) -> LoginError:
    return LoginError(f"{_FAILED}: {why}")
