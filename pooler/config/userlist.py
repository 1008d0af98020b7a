# SPDX-License-Identifier: MIT
"""The ``auth_file``: users and their secrets. Config layer; opens no file.

One user per line: ``"user" "secret"``, ``""`` for a quote inside, the rest of the line
ignored, ``;`` for a comment line. A secret is a plain password, an md5 hash or a SCRAM
verifier as PostgreSQL stores them in pg_authid.rolpassword.

Invariant: no secret is ever part of a ``repr``, a ``str`` or an error.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from pooler.config.inifile import Report, refuse
from pooler.config.settings import MAX_USER_NAME_BYTES
from pooler.errors import ConfigError

# PostgreSQL's PG_MAX_AUTH_TOKEN_LENGTH without the length itself: tokens that stand for
# a password are long.
MAX_SECRET_BYTES = 65_531
MAX_SCRAM_ITERATIONS = 10_000_000
SCRAM_KEY_BYTES = 32

_SCRAM_PREFIX = "SCRAM-SHA-256$"
_SCRAM = re.compile(
    r"SCRAM-SHA-256\$([0-9]{1,8}):([A-Za-z0-9+/=]+)"
    r"\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)",
    re.ASCII,
)
_MD5_LIKE = re.compile(r"md5.{32}", re.DOTALL)
_MD5 = re.compile(r"md5[0-9a-f]{32}", re.ASCII)
# Up to the closing quote of the secret; PgBouncer skips what stands between the two.
_LINE = re.compile(r'"((?:[^"]|"")*)"[^"]*"((?:[^"]|"")*)"')
_SPACE = " \t\v\f\r"


class SecretKind(StrEnum):
    """What the text of a secret is."""

    PLAIN = "plain"
    MD5 = "md5"
    SCRAM = "scram-sha-256"


@dataclass(frozen=True, slots=True)
class ScramVerifier:
    """The parts of a SCRAM-SHA-256 verifier (RFC 5803, as PostgreSQL writes it)."""

    iterations: int
    salt: bytes = field(repr=False)
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Secret:
    """A user's secret. ``==`` is for finding changes; a login compares digests."""

    kind: SecretKind
    text: str = field(repr=False)

    @property
    def is_empty(self) -> bool:
        """A user who is listed with no secret cannot log in with a password."""
        return not self.text


def parse_scram(text: str) -> ScramVerifier:
    """The parts of ``SCRAM-SHA-256$iterations:salt$stored:server``, or ValueError."""
    match = _SCRAM.fullmatch(text)
    if match is None:
        raise ValueError(
            "SCRAM secret must be SCRAM-SHA-256$<iterations>:<salt>$<stored>:<server>"
        )
    iterations = int(match[1])
    if not 1 <= iterations <= MAX_SCRAM_ITERATIONS:
        raise ValueError(f"SCRAM iterations must be from 1 to {MAX_SCRAM_ITERATIONS}")
    try:
        salt, stored, server = (
            base64.b64decode(match[group], validate=True) for group in (2, 3, 4)
        )
    except binascii.Error:
        raise ValueError("salt and keys of a SCRAM secret must be in base64") from None
    if not len(stored) == len(server) == SCRAM_KEY_BYTES:
        raise ValueError(
            f"the two keys of a SCRAM secret must be of {SCRAM_KEY_BYTES} bytes"
        )
    return ScramVerifier(iterations, salt, stored, server)


def parse_secret(text: str) -> Secret:
    """Tell which kind of secret ``text`` is; ValueError for a damaged one."""
    if text.startswith(_SCRAM_PREFIX):
        parse_scram(text)
        return Secret(SecretKind.SCRAM, text)
    if _MD5.fullmatch(text):
        return Secret(SecretKind.MD5, text)
    if _MD5_LIKE.fullmatch(text):
        raise ValueError("md5 secret must be md5 and 32 hexadecimal digits (0-9a-f)")
    return Secret(SecretKind.PLAIN, text)


def _parse_line(line: str) -> tuple[str, Secret]:
    if line.startswith("#"):
        raise ValueError('a comment begins with ";" here, not with "#"')
    match = _LINE.match(line)
    if match is None:
        raise ValueError('expected "user" "secret", both in double quotes')
    name, text = (part.replace('""', '"') for part in match.groups())
    if len(name.encode()) > MAX_USER_NAME_BYTES:
        raise ValueError(f"user name is longer than {MAX_USER_NAME_BYTES} bytes")
    if len(text.encode()) > MAX_SECRET_BYTES:
        raise ValueError(f"secret is longer than {MAX_SECRET_BYTES} bytes")
    return name, parse_secret(text)


def parse_userlist(
    text: str, file: str, report: Report = refuse
) -> Mapping[str, Secret]:
    """The users of an auth_file; of two lines for one user the last counts."""
    users: dict[str, Secret] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip(_SPACE)
        if not stripped or stripped.startswith(";"):
            continue
        try:
            name, secret = _parse_line(stripped)
        except ValueError as error:
            report(ConfigError(str(error), file=file, line=number))
            continue
        users[name] = secret
    return MappingProxyType(users)


def format_user(name: str, secret: str) -> str:
    """The line that ``parse_userlist`` reads as this user and secret."""
    quoted = ('"' + part.replace('"', '""') + '"' for part in (name, secret))
    return " ".join(quoted)
