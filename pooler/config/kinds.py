# SPDX-License-Identifier: MIT
"""What a setting can be: kinds, choices, text to value and back. Config layer.

``Row`` is everything that is known about a key; ``setting()`` declares one as the
field of a table in ``pooler.config.settings``. ``parse_value`` and ``format_value``
work by the row's kind.

Invariants: what ``format_value`` prints, ``parse_value`` reads back unchanged; nothing
here opens a file, and nothing here knows a setting by name.
Value syntax is PgBouncer's: C integers, 0 or 1, seconds without a suffix. Beside it
switches may be words, and times and sizes may have PostgreSQL's units.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Any, TypeVar, cast

from pooler.errors import ConfigError
from pooler.parameters import (
    MAX_NAME_BYTES,
    MAX_TRACKED_PARAMETERS,
    TRACKED_PARAMETERS,
    is_parameter_name,
)

T = TypeVar("T")

INT_MAX = 2**31 - 1
# A cancel key has seven bits for the number of the worker (pooler.worker.cancel).
MAX_WORKERS = 128
# In microseconds this still fits a signed 64-bit integer.
MAX_SECONDS = 10**12
AUTO_WORKERS = 0


class Kind(StrEnum):
    """How the text of a value is read."""

    INT = "int"
    DECIMAL = "decimal"
    OCTAL = "octal"
    BOOL = "bool"
    TIME = "time"
    STRING = "string"
    PATH = "path"
    LIST = "list"
    PARAMETERS = "parameters"
    ENUM = "enum"
    WORKERS = "workers"


class Reload(StrEnum):
    """When a changed value takes effect."""

    LIVE = "live"
    NEW_CONNECTIONS = "new_connections"
    RESTART = "restart"


class PoolMode(StrEnum):
    """When a server goes back to its pool."""

    SESSION = "session"
    TRANSACTION = "transaction"
    STATEMENT = "statement"


class AuthType(StrEnum):
    """How a client proves who it is."""

    ANY = "any"
    TRUST = "trust"
    PLAIN = "plain"
    MD5 = "md5"
    CERT = "cert"
    HBA = "hba"
    LDAP = "ldap"
    PAM = "pam"
    PEER = "peer"
    SCRAM_SHA_256 = "scram-sha-256"


class TlsMode(StrEnum):
    """The six modes of libpq's ``sslmode``."""

    DISABLE = "disable"
    ALLOW = "allow"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


class TlsNegotiation(StrEnum):
    """How TLS begins, as libpq's ``sslnegotiation`` names it."""

    POSTGRES = "postgres"
    DIRECT = "direct"


class DhParams(StrEnum):
    """Source of the Diffie-Hellman parameters."""

    NONE = "none"
    AUTO = "auto"
    LEGACY = "legacy"


class LoadBalance(StrEnum):
    """How the hosts of a comma list are used."""

    ROUND_ROBIN = "round-robin"
    DISABLE = "disable"


class LogFormat(StrEnum):
    """What a line of the log looks like."""

    TEXT = "text"
    JSON = "json"


class SyslogFacility(StrEnum):
    """Those that PgBouncer knows."""

    AUTH = "auth"
    AUTHPRIV = "authpriv"
    DAEMON = "daemon"
    USER = "user"
    LOCAL0 = "local0"
    LOCAL1 = "local1"
    LOCAL2 = "local2"
    LOCAL3 = "local3"
    LOCAL4 = "local4"
    LOCAL5 = "local5"
    LOCAL6 = "local6"
    LOCAL7 = "local7"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One setting: everything that is known about a key except its value."""

    name: str = ""
    kind: Kind
    default: object
    doc: str
    unit: str = ""
    reload: Reload = Reload.LIVE
    low: int = 0
    high: int = INT_MAX
    choices: type[StrEnum] | None = None
    aliases: tuple[str, ...] = ()
    # Never printed, not even in the error about a bad value.
    secret: bool = False
    # Smaller numbers mean "not said here".
    inherit_below: int | None = None
    # A change closes the database's server connections as they become free.
    reconnect: bool = False


def setting(
    default: T,
    kind: Kind,
    doc: str,
    *,
    unit: str = "",
    reload: Reload = Reload.LIVE,
    low: int = 0,
    high: int = INT_MAX,
    choices: type[StrEnum] | None = None,
    aliases: tuple[str, ...] = (),
    secret: bool = False,
    inherit_below: int | None = None,
    reconnect: bool = False,
) -> T:
    """Declare a row; returns a dataclass field that has the type of its value."""
    row = Row(
        kind=kind,
        default=default,
        doc=doc,
        unit=unit,
        reload=reload,
        low=low,
        high=high,
        choices=choices,
        aliases=aliases,
        secret=secret,
        inherit_below=inherit_below,
        reconnect=reconnect,
    )
    return dataclasses.field(default=default, repr=not secret, metadata={"row": row})


def suggest(word: str, known: Iterable[str]) -> str:
    """``; did you mean …?`` when a known word is close, else nothing."""
    close = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def printable(text: str, limit: int = 80) -> str:
    """``text`` in double quotes, fit for one line of a log."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    escaped = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown
    )
    return f'"{escaped}"'


# ---------------------------------------------------------------------------
# Text to value and back

# strtol(3) with base 0; Python's int() would also take "1_000" and other digits.
_C_INT = re.compile(r"([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)", re.ASCII)
_DECIMAL_INT = re.compile(r"[+-]?[0-9]+", re.ASCII)
_SECONDS = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_SEPARATORS = re.compile(r"[,\s]+", re.ASCII)
_MAX_DIGITS = 32


# As PostgreSQL writes units, by the row's own; the letters in any case.
_TIMES_US = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "min": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}
_SIZES = {"b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30, "tb": 2**40}
_UNITS: Mapping[str, tuple[Mapping[str, int], int, str]] = {
    "s": (_TIMES_US, _TIMES_US["s"], "us, ms, s, min, h, d"),
    "ms": (_TIMES_US, _TIMES_US["ms"], "us, ms, s, min, h, d"),
    "bytes": (_SIZES, 1, "B, kB, MB, GB, TB"),
}
_WITH_UNIT = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*([a-zA-Z]+)", re.ASCII)
_SWITCHES = {"yes": True, "on": True, "true": True} | {
    "no": False,
    "off": False,
    "false": False,
}


def _with_unit(row: Row, text: str) -> Fraction | None:
    """The number that a text with a unit means, in the row's own unit."""
    match = _WITH_UNIT.fullmatch(text)
    if match is None or row.unit not in _UNITS or len(text) > _MAX_DIGITS:
        return None
    known, own, _ = _UNITS[row.unit]
    factor = known.get(match[2].lower())
    return None if factor is None else Fraction(match[1]) * factor / own


def _whole_with_unit(row: Row, text: str) -> int | None:
    number = _with_unit(row, text)
    return int(number) if number is not None and number.denominator == 1 else None


def _unit_hint(row: Row) -> str:
    return f", or with a unit ({_UNITS[row.unit][2]})" if row.unit in _UNITS else ""


def _in_range(row: Row, value: int, wanted: str) -> int:
    if not row.low <= value <= row.high:
        raise ValueError(f"must be {wanted}")
    return value


def _range_text(row: Row) -> str:
    return f"a whole number from {row.low} to {row.high}"


def _c_int(text: str) -> int | None:
    """What strtol(3) with base 0 makes of the whole text."""
    match = _C_INT.fullmatch(text)
    if match is None or len(text) > _MAX_DIGITS:
        return None
    sign, digits = match.groups()
    octal = len(digits) > 1 and digits[1] not in "xX" and digits[0] == "0"
    value = int(digits, 8 if octal else 0)
    return -value if sign == "-" else value


def _parse_int(row: Row, text: str) -> int:
    value = _c_int(text)
    if value is None:
        value = _whole_with_unit(row, text)
    if value is None:
        raise ValueError(
            f"must be {_range_text(row)}, in decimal, octal (0…) or hexadecimal (0x…)"
            + _unit_hint(row)
        )
    return _in_range(row, value, _range_text(row))


def _parse_decimal(row: Row, text: str) -> int | None:
    # PgBouncer reads the numbers of connect strings with atoi(3): 010 is ten.
    below = "" if row.inherit_below is None else " or -1 for the wider setting"
    wanted = f"{_range_text(row)}{below}"
    value = None
    if len(text) <= _MAX_DIGITS and _DECIMAL_INT.fullmatch(text):
        value = int(text)
    else:
        value = _whole_with_unit(row, text)
    if value is None:
        raise ValueError(f"must be {wanted}{_unit_hint(row)}")
    if row.inherit_below is not None and value < row.inherit_below:
        return None
    return _in_range(row, value, wanted)


def _parse_octal(row: Row, text: str) -> int:
    value = _c_int(text)
    wanted = f"permissions in octal with a leading 0, from 0 to 0{row.high:o}"
    if value is None:
        raise ValueError(f"must be {wanted}")
    return _in_range(row, value, wanted)


def _parse_bool(row: Row, text: str) -> bool:
    word = _SWITCHES.get(text.lower())
    value = _c_int(text) if word is None else int(word)
    if value not in (0, 1):
        raise ValueError("must be 0 or 1, or yes, no, on, off, true, false")
    return value == 1


def _parse_time(row: Row, text: str) -> float:
    if _SECONDS.fullmatch(text):
        value = float(text)
    else:
        number = _with_unit(row, text)
        value = math.nan if number is None else float(number)
    if not 0 <= value <= MAX_SECONDS:
        raise ValueError(
            f"must be a time in seconds, 0 or more, at most {MAX_SECONDS}"
            + _unit_hint(row)
        )
    return abs(value)


def _parse_string(row: Row, text: str) -> str | None:
    return None if text == "" and row.default is None else text


def _parse_path(row: Row, text: str) -> str | None:
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ValueError("names a home directory that does not exist")
    return _parse_string(row, expanded)


def _parse_list(row: Row, text: str) -> tuple[str, ...]:
    # PgBouncer finds a word of a list between commas or white space.
    return tuple(word for word in _SEPARATORS.split(text) if word)


def _parse_parameters(row: Row, text: str) -> tuple[str, ...]:
    words = _parse_list(row, text)
    for word in words:
        if not is_parameter_name(word):
            raise ValueError(
                f"must be names of parameters, and {printable(word)} is none: letters,"
                f' digits and "_$.", at most {MAX_NAME_BYTES} bytes'
            )
    more = {word.lower() for word in words} - TRACKED_PARAMETERS.keys()
    room = MAX_TRACKED_PARAMETERS - len(TRACKED_PARAMETERS)
    if len(more) > room:
        raise ValueError(
            f"has {len(more)} parameters, and at most {room} can be followed beside"
            f" those that always are ({', '.join(TRACKED_PARAMETERS.values())})"
        )
    return words


def _parse_enum(row: Row, text: str) -> StrEnum:
    choices = {} if row.choices is None else {c.value: c for c in row.choices}
    if text.lower() in choices:
        return choices[text.lower()]
    listed = ", ".join(choices)
    raise ValueError(f"must be one of {listed}{suggest(text, choices)}")


def _parse_workers(row: Row, text: str) -> int:
    if text.lower() == "auto":
        return AUTO_WORKERS
    value = _c_int(text)
    if value is None or not row.low <= value <= row.high:
        raise ValueError(f"must be auto or {_range_text(row)}")
    return value


def _format_text(value: object) -> str:
    return "" if value is None else str(value)


def _format_list(value: object) -> str:
    return ", ".join(cast("tuple[str, ...]", value))


def _format_time(value: object) -> str:
    seconds = cast("float", value)
    return str(int(seconds)) if seconds == int(seconds) else repr(seconds)


_PARSE: Mapping[Kind, Callable[[Row, str], object]] = {
    Kind.INT: _parse_int,
    Kind.DECIMAL: _parse_decimal,
    Kind.OCTAL: _parse_octal,
    Kind.BOOL: _parse_bool,
    Kind.TIME: _parse_time,
    Kind.STRING: _parse_string,
    Kind.PATH: _parse_path,
    Kind.LIST: _parse_list,
    Kind.PARAMETERS: _parse_parameters,
    Kind.ENUM: _parse_enum,
    Kind.WORKERS: _parse_workers,
}

_FORMAT: Mapping[Kind, Callable[[object], str]] = {
    Kind.OCTAL: lambda value: f"0{cast('int', value):o}",
    Kind.BOOL: lambda value: "1" if value else "0",
    Kind.TIME: _format_time,
    Kind.LIST: _format_list,
    Kind.PARAMETERS: _format_list,
    Kind.WORKERS: lambda value: "auto" if value == AUTO_WORKERS else str(value),
}


def parse_value(
    row: Row,
    text: str,
    *,
    file: str | None = None,
    line: int | None = None,
    owner: str = "",
) -> Any:
    """The value that ``text`` means; raises ConfigError saying what would be right.

    In: owner   names the entry a key belongs to, for the error: ``[databases] app``
    """
    try:
        return _PARSE[row.kind](row, text)
    except ValueError as error:
        shown = "the value" if row.secret else printable(text)
        name = f"{owner}: {row.name}" if owner else row.name
        raise ConfigError(
            f"{shown} {error}", file=file, line=line, setting=name
        ) from None


def format_value(row: Row, value: object) -> str:
    """The text that ``parse_value`` reads as ``value``; ``None`` is empty."""
    if value is None:
        return ""
    return _FORMAT.get(row.kind, _format_text)(value)


def usable_cores() -> int:
    """Cores this process may run on, at most MAX_WORKERS."""
    return max(1, min(len(os.sched_getaffinity(0)), MAX_WORKERS))
