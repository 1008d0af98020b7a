# SPDX-License-Identifier: MIT
"""Syntax of ``pgbouncer.ini`` and of connect strings. Config layer.

Knows lines, sections, names, values and includes; knows no setting. Never shows the
value of an entry in an error: it may hold a password.

The standard configparser loses line numbers, joins continuation lines and knows no
``%include``, hence a parser of our own.
Source: PgBouncer "config", libusual cfparser; the text is a stream of tokens there, so
a key may follow a ``[section]`` on the same line, and a section that an included file
opened stays open after it.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pooler.errors import ConfigError

MAX_INCLUDE_DEPTH = 10

_SPACE = " \t\v\f\r"
_BLANK = " \t"
_BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"
_BARE_NAME = re.compile(r"[A-Za-z0-9_.*-]*", re.ASCII)
_QUOTED_NAME = re.compile(r'"((?:[^"]|"")*)"')
_BARE_VALUE = re.compile(r"[^' \t][^ \t]*")
_QUOTED_VALUE = re.compile(r"'((?:[^']|'')*)'")
_INCLUDE = "%include"
_QUOTE_HINT = (
    'a name with other characters than letters, digits and "_.-*" needs double quotes'
)


@dataclass(frozen=True, slots=True)
class Section:
    """A ``[name]`` line."""

    name: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A ``key = value`` line; ``section`` is ``None`` before the first header."""

    section: str | None
    key: str
    value: str = field(repr=False)
    file: str
    line: int


def decode(raw: bytes, file: str) -> str:
    """The text of a configuration file, or ConfigError with the line of the bad byte.

    PgBouncer takes any byte. Here a name is text, and one in another encoding would
    be shown, logged and compared as something else: better to refuse it.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = raw[error.start]
        raise ConfigError(
            f"byte 0x{byte:02x} is not UTF-8; save the file as UTF-8",
            file=file,
            line=line,
        ) from None
    if text.startswith(_BOM):
        raise ConfigError(
            "begins with a byte order mark; save the file as UTF-8 without BOM",
            file=file,
            line=1,
        )
    nul = text.find("\0")
    if nul >= 0:
        line = text.count("\n", 0, nul) + 1
        raise ConfigError("NUL byte; this is not a text file", file=file, line=line)
    return text


def _read_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except ValueError:
        # Python's own refusal of a path that the kernel never sees (a NUL in it).
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None


def read_text(path: str) -> str:
    """Read and decode a configuration file."""
    try:
        raw = _read_bytes(path)
    except OSError as error:
        raise ConfigError(f"cannot read: {error.strerror}", file=path) from None
    except ValueError as error:  # a zero byte in its name
        raise ConfigError(f"cannot read: {error}", file=path) from None
    return decode(raw, path)


# What is done about a problem: raise it, or note it and go on with what follows.
Report = Callable[[ConfigError], None]


def refuse(error: ConfigError) -> None:
    """The first problem ends the reading."""
    raise error


class _Parser:
    """The section that is open, over all files of one load."""

    def __init__(self, report: Report) -> None:
        self.section: str | None = None
        self.report = report

    def parse(self, text: str, file: str, depth: int) -> Iterator[Section | Entry]:
        for number, line in enumerate(text.split("\n"), start=1):
            try:
                yield from self.parse_line(line, file, number, depth)
            except ConfigError as error:
                self.report(error)

    def parse_line(
        self, line: str, file: str, number: int, depth: int
    ) -> Iterator[Section | Entry]:
        rest = line.strip(_SPACE)
        while rest.startswith("["):
            name, bracket, after = rest[1:].partition("]")
            if not bracket:
                raise ConfigError('section without "]"', file=file, line=number)
            self.section = name
            yield Section(name, file, number)
            rest = after.strip(_SPACE)
        if not rest or rest[0] in "#;":
            return
        if rest[0] == "%":
            yield from self.include(rest, file, number, depth)
            return
        key, value = _split_entry(rest, file, number)
        yield Entry(self.section, key, value, file, number)

    def include(
        self, rest: str, file: str, number: int, depth: int
    ) -> Iterator[Section | Entry]:
        word, path = rest[: len(_INCLUDE)], rest[len(_INCLUDE) :]
        if word != _INCLUDE or path[:1] not in _BLANK or not path.strip(_BLANK):
            raise ConfigError(
                'a line that begins with "%" must be "%include FILE"',
                file=file,
                line=number,
            )
        if depth >= MAX_INCLUDE_DEPTH:
            raise ConfigError(
                f"%include goes deeper than {MAX_INCLUDE_DEPTH} files;"
                " does a file include itself?",
                file=file,
                line=number,
            )
        path = os.path.expanduser(path.strip(_BLANK))
        text = _read_included(path, file, number)
        yield from self.parse(text, path, depth + 1)


def _read_included(path: str, file: str, line: int) -> str:
    try:
        raw = _read_bytes(path)
    except OSError as error:
        hint = ""
        beside = os.path.join(os.path.dirname(os.path.abspath(file)), path)
        if error.errno == errno.ENOENT and os.path.exists(beside):
            hint = (
                "; the path is relative to the current directory, not to this file:"
                f" write {beside}"
            )
        raise ConfigError(
            f"cannot include {path}: {error.strerror}{hint}", file=file, line=line
        ) from None
    return decode(raw, path)


def _split_entry(rest: str, file: str, line: int) -> tuple[str, str]:
    """``name = value``; blanks around the sign and at the end do not count."""
    quoted = _QUOTED_NAME.match(rest)
    if quoted:
        key, after = quoted[1].replace('""', '"'), rest[quoted.end() :]
    elif rest.startswith('"'):
        raise ConfigError("name without a closing quote", file=file, line=line)
    else:
        key = _BARE_NAME.match(rest)[0]  # type: ignore[index] # matches the empty text
        after = rest[len(key) :]
    after = after.lstrip(_BLANK)
    if not key:
        raise ConfigError(
            f'expected "name = value"; {_QUOTE_HINT}',
            file=file,
            line=line,
        )
    if not after.startswith("="):
        hint = f"; {_QUOTE_HINT}" if after else ""
        raise ConfigError(f'expected "=" after the name{hint}', file=file, line=line)
    return key, after[1:].lstrip(_BLANK)


def parse_text(
    text: str, file: str, report: Report = refuse
) -> Iterator[Section | Entry]:
    """The sections and entries of ``text`` and of the files it includes, in order."""
    return _Parser(report).parse(text, file, 0)


def parse_file(path: str) -> Iterator[Section | Entry]:
    """The sections and entries of a file and of the files it includes, in order."""
    return parse_text(read_text(path), path)


def parse_connect_string(
    text: str,
    *,
    file: str | None = None,
    line: int | None = None,
    setting: str | None = None,
) -> tuple[tuple[str, str], ...]:
    """The pairs of ``key=value key='quoted ''value'''``, in order.

    Errors: ConfigError that names the character; a value may be a password, so no
            part of it is shown.
    """

    def fail(problem: str, at: int) -> ConfigError:
        return ConfigError(
            f"{problem} at character {at + 1} of the connect string",
            file=file,
            line=line,
            setting=setting,
        )

    def skip(at: int) -> int:
        while at < len(text) and text[at] in _BLANK:
            at += 1
        return at

    pairs = []
    at = skip(0)
    while at < len(text):
        start = at
        while at < len(text) and text[at] not in "= \t":
            at += 1
        key = text[start:at]
        at = skip(at)
        if not key:
            raise fail('a key is missing before "="', start)
        if text[at : at + 1] != "=":
            raise fail('expected "key=value"; quote a value that has blanks', start)
        at = skip(at + 1)
        quoted = _QUOTED_VALUE.match(text, at)
        bare = _BARE_VALUE.match(text, at)
        if quoted:
            value = quoted[1].replace("''", "'")
            end = quoted.end()
        elif bare:
            value, end = bare[0], bare.end()
        elif at < len(text):
            raise fail("the quote is not closed that opens", at)
        else:
            value, end = "", at
        if not value:
            raise fail(f"{key} has an empty value; leave the key out", at)
        if end < len(text) and text[end] not in _BLANK:
            raise fail("expected a blank after the closing quote", end)
        pairs.append((key, value))
        at = skip(end)
    return tuple(pairs)


def quote_name(name: str) -> str:
    """A name as the left side of an entry."""
    if name and _BARE_NAME.fullmatch(name):
        return name
    return '"' + name.replace('"', '""') + '"'


def format_connect_string(pairs: Iterable[tuple[str, str]]) -> str:
    """The connect string that ``parse_connect_string`` reads as ``pairs``."""
    return " ".join(f"{key}={_quote_value(value)}" for key, value in pairs)


def _quote_value(value: str) -> str:
    if value and _BARE_VALUE.fullmatch(value):
        return value
    return "'" + value.replace("'", "''") + "'"
