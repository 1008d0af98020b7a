# SPDX-License-Identifier: MIT
"""Messages of the start-up phase: writers and bounded readers. Login layer.

A message is a type byte, a length that counts itself, and a body. The packets
that open a connection have no type byte. A length is checked against its bounds
before it is added to anything; a body is read by a cursor that cannot leave it.
Only logins use this module: what follows ReadyForQuery belongs to the wire
scanner.

Source: PostgreSQL documentation, "Message Formats".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

from pooler.errors import LoginError

PROTOCOL_3_0 = 0x0003_0000
# The newest minor version spoken here; 3.1 was never one ("Protocol Versions").
NEWEST_MINOR = 2
PROTOCOL_3_2 = PROTOCOL_3_0 + NEWEST_MINOR
SSL_REQUEST_CODE = 80877103
GSSENC_REQUEST_CODE = 80877104
CANCEL_REQUEST_CODE = 80877102

# PostgreSQL's own limits: MAX_STARTUP_PACKET_LENGTH does not count the length itself,
# PG_MAX_AUTH_TOKEN_LENGTH and PG_MAX_SASL_MESSAGE_LENGTH do; these are a whole packet
# and the bodies of messages.
MAX_STARTUP_BYTES = 10_000 + 4
MAX_PASSWORD_BYTES = 65_535 - 4
MAX_SASL_BYTES = 1_024 - 4

# The secret that follows the process id in BackendKeyData and CancelRequest;
# protocol 3.0 has the shortest only.
MIN_CANCEL_KEY_BYTES = 4
MAX_CANCEL_KEY_BYTES = 256

AUTH_OK = 0
AUTH_CLEARTEXT = 3
AUTH_MD5 = 5
AUTH_SASL = 10
AUTH_SASL_CONTINUE = 11
AUTH_SASL_FINAL = 12

SCRAM_SHA_256 = "SCRAM-SHA-256"
SCRAM_SHA_256_PLUS = "SCRAM-SHA-256-PLUS"

_MIN_LENGTH = 4
_HEADER_SIZE = 5
_INT32 = struct.Struct("!i")
_UINT32 = struct.Struct("!I")


def encode(text: str) -> bytes:
    """Return the bytes of a text; those that were never UTF-8 come back as sent."""
    return text.encode("utf-8", "surrogateescape")


def decode(raw: bytes) -> str:
    """Return the text of bytes from a peer, whose encoding nobody promised."""
    return raw.decode("utf-8", "surrogateescape")


def cstring(text: str) -> bytes:
    """Return a zero-terminated string.

    A zero inside would end it early, so that the rest is read as the next
    field: with a name from a configuration file that is an injection.
    """
    raw = encode(text)
    if 0 in raw:
        raise LoginError("a name or password contains a zero byte")
    return raw + b"\0"


def message(kind: bytes, body: bytes = b"") -> bytes:
    """Return one message: type byte, length, body."""
    return kind + _UINT32.pack(len(body) + _MIN_LENGTH) + body


# Writers, server to client.


def _authentication(code: int, body: bytes = b"") -> bytes:
    return message(b"R", _UINT32.pack(code) + body)


def authentication_ok() -> bytes:
    """AuthenticationOk."""
    return _authentication(AUTH_OK)


def authentication_cleartext_password() -> bytes:
    """AuthenticationCleartextPassword."""
    return _authentication(AUTH_CLEARTEXT)


def authentication_md5_password(salt: bytes) -> bytes:
    """AuthenticationMD5Password; ``salt`` has four bytes."""
    return _authentication(AUTH_MD5, salt)


def authentication_sasl(mechanisms: Iterable[str]) -> bytes:
    """AuthenticationSASL: the mechanisms we offer, best first."""
    names = b"".join(cstring(name) for name in mechanisms)
    return _authentication(AUTH_SASL, names + b"\0")


def authentication_sasl_continue(data: bytes) -> bytes:
    """AuthenticationSASLContinue."""
    return _authentication(AUTH_SASL_CONTINUE, data)


def authentication_sasl_final(data: bytes) -> bytes:
    """AuthenticationSASLFinal."""
    return _authentication(AUTH_SASL_FINAL, data)


def error_response(severity: str, sqlstate: str, text: str) -> bytes:
    """ErrorResponse with severity (plain and untranslated), code and message."""
    return message(b"E", _report(severity, sqlstate, text))


def notice_response(severity: str, sqlstate: str, text: str, detail: str = "") -> bytes:
    """NoticeResponse; same fields as ErrorResponse."""
    return message(b"N", _report(severity, sqlstate, text, detail))


def _report(severity: str, sqlstate: str, text: str, detail: str = "") -> bytes:
    """Return the fields S, V, C, M, D of "Error and Notice Message Fields".

    A report must leave whatever its text holds, so a zero byte is replaced
    and a surrogate that stands for no byte is escaped, not refused.
    """
    fields = [("S", severity), ("V", severity), ("C", sqlstate), ("M", text)]
    if detail:
        fields.append(("D", detail))
    return b"".join(_report_field(name, value) for name, value in fields) + b"\0"


def _report_field(name: str, value: str) -> bytes:
    clean = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    try:
        raw = encode(clean)
    except UnicodeEncodeError:
        raw = clean.encode("utf-8", "backslashreplace")
    return name.encode("ascii") + raw + b"\0"


def parameter_status(name: str, value: str) -> bytes:
    """ParameterStatus."""
    return message(b"S", cstring(name) + cstring(value))


def backend_key_data(backend_pid: int, cancel_key: bytes) -> bytes:
    """BackendKeyData; the key has four bytes in protocol 3.0, up to 256 in 3.2."""
    return message(b"K", _UINT32.pack(backend_pid) + cancel_key)


def ready_for_query(xact_status: bytes = b"I") -> bytes:
    """ReadyForQuery."""
    return message(b"Z", xact_status)


def negotiate_protocol_version(minor: int, unknown_options: Iterable[str]) -> bytes:
    """NegotiateProtocolVersion: we go on with 3.``minor`` without these options.

    The documentation calls the number the newest minor version of the server.
    What PostgreSQL sends, and libpq insists on, is the whole version with its
    major part, and never one above what the client asked for.
    """
    names = [cstring(name) for name in unknown_options]
    head = _UINT32.pack(PROTOCOL_3_0 + minor) + _UINT32.pack(len(names))
    return message(b"v", head + b"".join(names))


# Writers, client to server.


def _startup_packet(code: int, body: bytes = b"") -> bytes:
    return _UINT32.pack(len(body) + 8) + _UINT32.pack(code) + body


def startup_message(
    parameters: Mapping[str, str], version: int = PROTOCOL_3_0
) -> bytes:
    """StartupMessage; ``parameters`` includes user and database."""
    pairs = b"".join(cstring(k) + cstring(v) for k, v in parameters.items())
    return _startup_packet(version, pairs + b"\0")


def ssl_request() -> bytes:
    """SSLRequest."""
    return _startup_packet(SSL_REQUEST_CODE)


def gssenc_request() -> bytes:
    """GSSENCRequest."""
    return _startup_packet(GSSENC_REQUEST_CODE)


def cancel_request(backend_pid: int, cancel_key: bytes) -> bytes:
    """CancelRequest, with what BackendKeyData gave."""
    return _startup_packet(CANCEL_REQUEST_CODE, _UINT32.pack(backend_pid) + cancel_key)


def password_message(password: str) -> bytes:
    """PasswordMessage: a password or an md5 answer."""
    return message(b"p", cstring(password))


def sasl_initial_response(mechanism: str, data: bytes | None) -> bytes:
    """SASLInitialResponse; ``None`` is the documented "no initial response"."""
    size = -1 if data is None else len(data)
    return message(b"p", cstring(mechanism) + _INT32.pack(size) + (data or b""))


def sasl_response(data: bytes) -> bytes:
    """SASLResponse."""
    return message(b"p", data)


# Readers.


@dataclass(frozen=True, slots=True)
class Message:
    """One whole message; ``end`` is the offset behind it."""

    kind: bytes
    body: bytes
    end: int


def size_of_packet(data: bytes) -> int:
    """Bytes of a packet without a type byte; before its length is here, of that."""
    return int(_UINT32.unpack_from(data)[0]) if len(data) >= 4 else 4


def size_of_message(data: bytes) -> int:
    """Bytes of a message with its type byte; before its header is here, of that.

    The type byte alone is worth a look: a wrong one needs no length.
    """
    if not data:
        return 1
    if len(data) < _HEADER_SIZE:
        return _HEADER_SIZE
    return 1 + int(_UINT32.unpack_from(data, 1)[0])


def read_message(data: bytes, start: int, max_body: int) -> Message | None:
    """Read the message at ``start``; ``None`` while it is incomplete.

    The length is judged as soon as it is there, so that a peer cannot make us
    wait for, or store, a body we would refuse.
    """
    if len(data) - start < _HEADER_SIZE:
        return None
    (length,) = _UINT32.unpack_from(data, start + 1)
    if length < _MIN_LENGTH or length > max_body + _MIN_LENGTH:
        raise LoginError(
            f"bad packet header: length {length} is outside"
            f" {_MIN_LENGTH}..{max_body + _MIN_LENGTH}"
        )
    end = start + 1 + length
    if len(data) < end:
        return None
    return Message(data[start : start + 1], data[start + _HEADER_SIZE : end], end)


@final
class Reader:
    """A cursor over the body of one message; it never leaves the body."""

    __slots__ = ("_body", "_name", "_position")

    def __init__(self, body: bytes, name: str) -> None:
        self._body = body
        self._name = name
        self._position = 0

    def int32(self) -> int:
        """Read a signed 32-bit integer."""
        return int(_INT32.unpack(self.raw(4))[0])

    def raw(self, size: int) -> bytes:
        """Read exactly ``size`` bytes."""
        if not 0 <= size <= len(self._body) - self._position:
            raise self._malformed()
        self._position += size
        return self._body[self._position - size : self._position]

    def cstring(self) -> str:
        """Read a zero-terminated string."""
        end = self._body.find(0, self._position)
        if end < 0:
            raise self._malformed()
        text = decode(self._body[self._position : end])
        self._position = end + 1
        return text

    def rest(self) -> bytes:
        """Read all that is left."""
        return self.raw(len(self._body) - self._position)

    def finish(self) -> None:
        """Refuse a body that has more than its fields."""
        if self._position != len(self._body):
            raise self._malformed()

    def _malformed(self) -> LoginError:
        return LoginError(f"malformed {self._name} message")


def read_password(body: bytes) -> str:
    """PasswordMessage: one string and nothing behind it."""
    reader = Reader(body, "PasswordMessage")
    password = reader.cstring()
    reader.finish()
    return password


def read_sasl_initial_response(body: bytes) -> tuple[str, bytes | None]:
    """SASLInitialResponse: the mechanism and the first data, if any."""
    reader = Reader(body, "SASLInitialResponse")
    mechanism = reader.cstring()
    size = reader.int32()
    data = None if size == -1 else reader.raw(size)
    reader.finish()
    return mechanism, data


def read_sasl_mechanisms(body: bytes) -> list[str]:
    """AuthenticationSASL: every offered mechanism, to the end of the list."""
    reader = Reader(body, "AuthenticationSASL")
    mechanisms = []
    while name := reader.cstring():
        mechanisms.append(name)
    reader.finish()
    return mechanisms


def read_parameter_status(body: bytes) -> tuple[str, str]:
    """ParameterStatus: name and value."""
    reader = Reader(body, "ParameterStatus")
    name, value = reader.cstring(), reader.cstring()
    reader.finish()
    return name, value


def read_backend_key_data(body: bytes) -> tuple[int, bytes]:
    """BackendKeyData: process id and key, of whatever length any version allows."""
    reader = Reader(body, "BackendKeyData")
    backend_pid, cancel_key = reader.int32(), reader.rest()
    if not MIN_CANCEL_KEY_BYTES <= len(cancel_key) <= MAX_CANCEL_KEY_BYTES:
        raise LoginError("malformed BackendKeyData message")
    return backend_pid & 0xFFFF_FFFF, cancel_key


def read_negotiate_protocol_version(body: bytes) -> tuple[int, int]:
    """NegotiateProtocolVersion: major and minor version.

    We send no protocol options, so the server may not name any.
    """
    reader = Reader(body, "NegotiateProtocolVersion")
    version, options = reader.int32(), reader.int32()
    if options:
        raise LoginError("the server refuses protocol options it was not asked for")
    reader.finish()
    return version >> 16, version & 0xFFFF


def read_report(body: bytes) -> dict[str, str]:
    """ErrorResponse or NoticeResponse: field code to value.

    Forgiving: whatever can be read of a report is worth more than a complaint
    about its form. A field may be missing, SQLSTATE too.
    """
    fields: dict[str, str] = {}
    for part in body.split(b"\0"):
        if not part:
            break
        fields[decode(part[:1])] = decode(part[1:])
    return fields
