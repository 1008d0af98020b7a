# SPDX-License-Identifier: MIT
"""What a command of the console comes to, as messages. Console layer, sans-IO.

Source: PostgreSQL documentation, "Message Formats".
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pooler.login import packets

Value = str | int | bytes | None

_INT16 = struct.Struct("!h")
_INT32 = struct.Struct("!i")
_INT64 = struct.Struct("!q")
_FIELD = struct.Struct("!ihihih")
_TEXT_FORMAT, _BINARY_FORMAT = 0, 1


class Type(enum.Enum):
    """Type of a column: its oid and its size, -1 if that varies."""

    TEXT = (25, -1)
    INT4 = (23, 4)
    INT8 = (20, 8)
    NUMERIC = (1700, -1)
    BYTEA = (17, -1)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an answer."""

    name: str
    type: Type


def columns(text: str) -> tuple[Column, ...]:
    """Columns from ``name type, name type …`` with the types' first letters.

    t text, i int4, q int8, n numeric, b bytea; a name without one is text.
    """
    letters = dict(zip("tiqnb", Type, strict=True))
    made = []
    for part in text.split(","):
        name, _, letter = part.strip().partition(" ")
        made.append(Column(name, letters[letter or "t"]))
    return tuple(made)


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows of the command's columns, in order; then the tag."""

    tag: str
    rows: Sequence[Sequence[Value]] = ()
    notices: Sequence[bytes] = ()


class ConsoleError(Exception):
    """A command cannot be carried out; the session goes on."""

    def __init__(self, message: str, sqlstate: str = "08P01") -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate


def row_description(described: Sequence[Column], formats: Sequence[int] = ()) -> bytes:
    """RowDescription; ``formats`` as in Bind: none, one for all, or one each."""
    fields = [_INT16.pack(len(described))]
    for index, column in enumerate(described):
        oid, size = column.type.value
        fields.append(packets.cstring(column.name))
        fields.append(_FIELD.pack(0, 0, oid, size, -1, format_of(formats, index)))
    return packets.message(b"T", b"".join(fields))


def data_row(
    described: Sequence[Column], row: Sequence[Value], formats: Sequence[int] = ()
) -> bytes:
    """DataRow."""
    body = [_INT16.pack(len(described))]
    for index, (column, value) in enumerate(zip(described, row, strict=True)):
        if value is None:
            body.append(_INT32.pack(-1))
            continue
        write = _BINARY if format_of(formats, index) else _TEXT
        raw = write[column.type](value)
        body += (_INT32.pack(len(raw)), raw)
    return packets.message(b"D", b"".join(body))


def format_of(formats: Sequence[int], index: int) -> int:
    """The format of one column: text, unless Bind has asked for binary."""
    if not formats:
        return _TEXT_FORMAT
    return formats[0] if len(formats) == 1 else formats[index]


def command_complete(tag: str) -> bytes:
    """CommandComplete."""
    return packets.message(b"C", packets.cstring(tag))


def _text(value: Value) -> bytes:
    return packets.encode(str(value))


def _bytea(value: Value) -> bytes:
    assert isinstance(value, bytes)  # noqa: S101 - columns and rows are ours
    return b"\\x" + value.hex().encode()


def _raw(value: Value) -> bytes:
    assert isinstance(value, bytes)  # noqa: S101 - columns and rows are ours
    return value


def _integer(packer: struct.Struct) -> Callable[[Value], bytes]:
    def write(value: Value) -> bytes:
        return packer.pack(int(value))  # type: ignore[arg-type] # columns and rows

    return write


def _numeric(value: Value) -> bytes:
    """An integer as PostgreSQL's numeric: digits of base 10,000, the first first."""
    number = int(value)  # type: ignore[arg-type] # columns and rows are ours
    digits = []
    rest = abs(number)
    while rest:
        rest, digit = divmod(rest, 10_000)
        digits.append(digit)
    digits.reverse()
    head = struct.pack(
        "!hhHh", len(digits), len(digits) - 1, 0x4000 if number < 0 else 0, 0
    )
    return head + b"".join(_INT16.pack(digit) for digit in digits)


_TEXT: Mapping[Type, Callable[[Value], bytes]] = {
    Type.TEXT: _text,
    Type.INT4: _text,
    Type.INT8: _text,
    Type.NUMERIC: _text,
    Type.BYTEA: _bytea,
}
_BINARY: Mapping[Type, Callable[[Value], bytes]] = {
    Type.TEXT: _text,
    Type.INT4: _integer(_INT32),
    Type.INT8: _integer(_INT64),
    Type.NUMERIC: _numeric,
    Type.BYTEA: _raw,
}
