# SPDX-License-Identifier: MIT
"""The first packet of a client: bytes in, one of five requests out. Login layer.

The packet has no type byte: a length and a code, where the code is a protocol
version or one of three request numbers that no version will ever use. All of it
comes from somebody not yet known, so every field is bounded before it is used,
and nothing may follow a request for encryption in the same read: bytes sent in
the clear must never be taken for bytes that were encrypted.

Source: PostgreSQL documentation, "Message Flow", "Start-up" and "SSL Session
Encryption"; "Message Formats", StartupMessage, SSLRequest, GSSENCRequest,
CancelRequest.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal
from urllib.parse import unquote_plus

from pooler.errors import (
    FEATURE_NOT_SUPPORTED,
    INVALID_AUTHORIZATION,
    INVALID_CATALOG_NAME,
    INVALID_PARAMETER_VALUE,
    LoginError,
    SilentLoginError,
)
from pooler.login.date_style import on_top
from pooler.login.packets import (
    CANCEL_REQUEST_CODE,
    GSSENC_REQUEST_CODE,
    MAX_CANCEL_KEY_BYTES,
    MAX_STARTUP_BYTES,
    MIN_CANCEL_KEY_BYTES,
    NEWEST_MINOR,
    SSL_REQUEST_CODE,
    decode,
    encode,
)
from pooler.parameters import TRACKED_PARAMETERS

MAX_USER_BYTES = 127
MAX_DATABASE_BYTES = 63

# PostgreSQL documentation, "PostgreSQL Error Codes".

_PROCESS_ID_BYTES = 4
_HEADER = struct.Struct("!II")
_TLS_HANDSHAKE = 0x16
_PROTOCOL_OPTION_PREFIX = "_pq_."

# Booleans as PostgreSQL reads them: any unique prefix of a word will do.
_BOOLEAN_WORDS: Mapping[str, bool] = MappingProxyType(
    {
        word[:size]: value
        for word, shortest, value in (
            ("true", 1, True),
            ("yes", 1, True),
            ("on", 2, True),
            ("1", 1, True),
            ("false", 1, False),
            ("no", 1, False),
            ("off", 2, False),
            ("0", 1, False),
        )
        for size in range(shortest, len(word) + 1)
    }
)

# The name of a setting in ``options``, where a dash may stand for an underscore.
_SETTING_NAME = re.compile(r"[^\W\d][-\w.$]*")

# What kind of walsender the client asks for; the empty one is none.
Replication = Literal["", "logical", "physical"]


@dataclass(frozen=True, slots=True)
class NeedMore:
    """The packet is incomplete."""


@dataclass(frozen=True, slots=True)
class DirectTLS:
    """A TLS handshake instead of a packet (or a probe that tries one)."""


@dataclass(frozen=True, slots=True)
class SSLRequest:
    """The client asks for TLS."""

    consumed: int


@dataclass(frozen=True, slots=True)
class GSSENCRequest:
    """The client asks for GSSAPI encryption."""

    consumed: int


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """``key`` is the process id and the secret of BackendKeyData, as sent."""

    key: bytes
    consumed: int


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """A login. ``parameters`` lacks user, database, replication and ``_pq_.``.

    ``protocol`` is what the client asked for, ``minor_protocol`` what it gets.
    """

    protocol: tuple[int, int]
    user: str
    database: str
    parameters: dict[str, str]
    protocol_options: dict[str, str]
    consumed: int
    replication: Replication = ""

    @property
    def minor_protocol(self) -> int:
        """The newest minor version that both sides speak.

        3.1 is reserved: no server ever spoke it, so whoever asks for it gets 3.0.
        """
        return NEWEST_MINOR if self.protocol[1] >= NEWEST_MINOR else 0

    @property
    def needs_negotiation(self) -> bool:
        """Whether the client gets less than it asked for, and must be told.

        No protocol option is known here, as none is to PostgreSQL 18.
        """
        return self.minor_protocol != self.protocol[1] or bool(self.protocol_options)


Startup = (
    NeedMore | DirectTLS | SSLRequest | GSSENCRequest | CancelRequest | StartupMessage
)

_ENCRYPTION_REQUESTS: Mapping[int, tuple[type[SSLRequest | GSSENCRequest], str]] = (
    MappingProxyType(
        {
            SSL_REQUEST_CODE: (
                SSLRequest,
                "received unencrypted data after SSL request",
            ),
            GSSENC_REQUEST_CODE: (
                GSSENCRequest,
                "received unencrypted data after GSSAPI encryption request",
            ),
        }
    )
)


def parse_startup(data: bytes) -> Startup:
    """Read the packet that opens a connection.

    In:      data = everything received and not yet consumed
    Out:     the request; ``consumed`` bytes of ``data`` belong to it
    Errors:  LoginError; the connection must end. SilentLoginError for what is no
             packet, as with PostgreSQL: most often a driver that was closed before
             it began, and sent Terminate
    Cost:    O(packet), once per login; an incomplete packet costs a comparison
    """
    if data[:1] == bytes((_TLS_HANDSHAKE,)):
        return DirectTLS()
    if len(data) < 4:
        return NeedMore()
    length = int.from_bytes(data[:4], "big")
    if not _HEADER.size <= length <= MAX_STARTUP_BYTES:
        raise SilentLoginError(
            f"bad packet header: length {length} of startup packet is outside"
            f" {_HEADER.size}..{MAX_STARTUP_BYTES}"
        )
    if len(data) < length:
        return NeedMore()
    _, code = _HEADER.unpack_from(data)
    if code in _ENCRYPTION_REQUESTS:
        return _parse_encryption_request(data, length, code)
    if code == CANCEL_REQUEST_CODE:
        return _parse_cancel_request(data, length)
    major, minor = code >> 16, code & 0xFFFF
    if major == 2:
        raise LoginError("old V2 protocol not supported", FEATURE_NOT_SUPPORTED)
    if major != 3:
        raise LoginError(
            f"unsupported frontend protocol {major}.{minor}:"
            f" server supports 3.0 to 3.{NEWEST_MINOR}",
            FEATURE_NOT_SUPPORTED,
        )
    return _parse_startup_message(data[_HEADER.size : length], minor, length)


def _parse_encryption_request(
    data: bytes, length: int, code: int
) -> SSLRequest | GSSENCRequest:
    """Refuse what is glued behind: an attacker in between may have put it there.

    What the packet itself has behind the code is ignored, as by PostgreSQL.
    """
    request, glued = _ENCRYPTION_REQUESTS[code]
    if len(data) > length:
        raise LoginError(glued)
    return request(length)


def _parse_cancel_request(data: bytes, length: int) -> CancelRequest:
    """Take the key; whatever follows is nobody's, so it is consumed unread."""
    key = data[_HEADER.size : length]
    secret_bytes = len(key) - _PROCESS_ID_BYTES
    if not MIN_CANCEL_KEY_BYTES <= secret_bytes <= MAX_CANCEL_KEY_BYTES:
        raise SilentLoginError("bad cancel request")
    return CancelRequest(key, len(data))


def _parse_startup_message(body: bytes, minor: int, consumed: int) -> StartupMessage:
    parameters = dict(_pairs(body))
    options = {
        name: parameters.pop(name)
        for name in list(parameters)
        if name.startswith(_PROTOCOL_OPTION_PREFIX)
    }
    user = parameters.pop("user", "")
    if not user:
        raise LoginError("no username supplied", INVALID_AUTHORIZATION)
    if len(encode(user)) > MAX_USER_BYTES:
        raise LoginError(
            "username too long", INVALID_AUTHORIZATION, why=_beginning(user)
        )
    database = parameters.pop("database", "") or user
    if len(encode(database)) > MAX_DATABASE_BYTES:
        raise LoginError(
            "database name too long",
            INVALID_CATALOG_NAME,
            why=f"of user {user}, {_beginning(database)}",
        )
    replication = _parse_replication(parameters.pop("replication", "false"))
    return StartupMessage(
        (3, minor), user, database, parameters, options, consumed, replication
    )


def _beginning(name: str) -> str:
    """What the log is told of a name that is no name."""
    return f"it begins with {name[:32]}"


def _pairs(body: bytes) -> Iterator[tuple[str, str]]:
    """Yield names and values up to the empty name that must be the last byte."""
    position = 0
    while (end := body.find(0, position)) != position:
        value_end = body.find(0, end + 1) if end >= 0 else -1
        if value_end < 0:
            break
        yield decode(body[position:end]), decode(body[end + 1 : value_end])
        position = value_end + 1
    if position != len(body) - 1 or end != position:
        raise LoginError(
            "invalid startup packet layout: expected terminator as last byte"
        )


def _parse_replication(value: str) -> Replication:
    """Read the parameter that is a Boolean or the word ``database``, in that case.

    Source: PostgreSQL documentation, "Message Formats", StartupMessage;
    "Streaming Replication Protocol".
    """
    if value == "database":
        return "logical"
    physical = _BOOLEAN_WORDS.get(value.lower())
    if physical is None:
        raise LoginError(
            f'invalid value for parameter "replication": "{value}"',
            INVALID_PARAMETER_VALUE,
        )
    return "physical" if physical else ""


def select_parameters(
    parameters: Mapping[str, str],
    ignored: Collection[str],
    tracked: Mapping[str, str] = TRACKED_PARAMETERS,
) -> dict[str, str]:
    """Keep what can be followed per client, drop what is ignored, refuse the rest.

    In:      parameters of a StartupMessage; ``ignored`` = ignore_startup_parameters
    Out:     canonical name to value; an explicit parameter beats one in ``options``,
             of a DateStyle as far as it goes
    Errors:  LoginError, names the parameter
    Source:  PostgreSQL "Message Formats", StartupMessage; "Connection Settings"
    """
    dropped = {name.lower() for name in ignored}
    explicit: list[tuple[str, str]] = []
    selected: dict[str, str] = {}
    for name, value in parameters.items():
        key = name.lower()
        if name == "options":
            _select(selected, _select_options(value, dropped, tracked))
        elif key in tracked:
            explicit.append((tracked[key], value))
        elif key not in dropped:
            raise LoginError(f"unsupported startup parameter: {name}")
    _select(selected, explicit)
    return selected


def _select(selected: dict[str, str], more: Iterable[tuple[str, str]]) -> None:
    """Take over values in their order, each in place of an earlier one."""
    for name, value in more:
        earlier = selected.get(name)
        if name == "DateStyle" and earlier is not None:
            selected[name] = on_top(value, earlier)
        else:
            selected[name] = value


def _select_options(
    text: str, dropped: Collection[str], tracked: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield the tracked settings of a command line, in order.

    With ``options`` in ignore_startup_parameters everything else is dropped.
    """
    drop_all = "options" in dropped
    for setting in _settings_of(decode_options(text)):
        name, equals, value = setting.partition("=")
        # PostgreSQL, too, takes a dash for an underscore here.
        key = name.replace("-", "_").lower()
        if not equals or not name:
            if not drop_all:
                raise LoginError(
                    "unsupported options startup parameter: only '-c config=val'"
                    " and '--config=val' are allowed"
                )
        elif key in tracked:
            yield tracked[key], value
        elif key not in dropped and not drop_all:
            raise LoginError(f"unsupported startup parameter in options: {name}")


def _settings_of(text: str) -> Iterator[str]:
    """Yield ``name=value`` of ``-c name=value`` and its kin; empty for others."""
    words = iter(split_options(text))
    for word in words:
        if word == "-c":
            yield next(words, "")
        elif word.startswith(("-c", "--")):
            yield word[2:]
        else:
            yield ""


def decode_options(text: str) -> str:
    """Undo the encoding of a URL that the client forgot to undo.

    Some drivers pass ``options`` on as it stood in their connection URL, say
    ``-c+search_path%3Dfoo``. A text may well contain ``+`` or ``%xx`` for their
    own sake, hence the rule: it is decoded only if, as it stands, not one of its
    words sets anything (``-c name=value``, ``-cname=value``, ``--name=value``,
    where the name looks like one), and afterwards at least one does. A text
    that would get a zero byte stays as it is.
    """
    if _sets_anything(text):
        return text
    decoded = unquote_plus(text, "utf-8", "surrogateescape")
    return decoded if "\0" not in decoded and _sets_anything(decoded) else text


def _sets_anything(text: str) -> bool:
    names = (setting.partition("=") for setting in _settings_of(text))
    return any(equals and _SETTING_NAME.fullmatch(name) for name, equals, _ in names)


def split_options(text: str) -> list[str]:
    r"""Split a command line at white space; ``\`` keeps the next character.

    Source: PostgreSQL documentation, "Database Connection Control Functions",
    ``options``.
    """
    words: list[str] = []
    word: list[str] | None = None
    characters = iter(text)
    for character in characters:
        if character in " \t\n\r\f\v":
            if word is not None:
                words.append("".join(word))
            word = None
            continue
        word = [] if word is None else word
        word.append(next(characters, "") if character == "\\" else character)
    if word is not None:
        words.append("".join(word))
    return words
