# SPDX-License-Identifier: MIT
"""Syntax of pg_hba.conf and pg_ident.conf: fields, lists, includes. Config layer.

Knows no rule. A line is fields, a field is a list of words; a word in quotes means
nothing but itself.

Source: PostgreSQL documentation, "The pg_hba.conf File".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from pooler.config.inifile import Report, read_text, refuse
from pooler.errors import ConfigError

MAX_INCLUDE_DEPTH = 10
MAX_LIST_WORDS = 100_000
_SPACE = " \t\r\v\f"


@dataclass(frozen=True, slots=True)
class Word:
    """One word; ``quoted``: it is a name, whatever it looks like."""

    text: str
    quoted: bool = False

    def means(self, keyword: str) -> bool:
        """Whether it is this keyword."""
        return not self.quoted and self.text == keyword


@dataclass(frozen=True, slots=True)
class Line:
    """A line that says something, and where."""

    fields: tuple[tuple[Word, ...], ...]
    file: str
    number: int

    def error(self, problem: str) -> ConfigError:
        """What is wrong with this line."""
        return ConfigError(problem, file=self.file, line=self.number)


def read_lines(path: str, depth: int = 0, report: Report = refuse) -> Iterator[Line]:
    """The lines of a file and of those that it includes; bad ones go to ``report``."""
    if depth > MAX_INCLUDE_DEPTH:
        raise ConfigError(f"included more than {MAX_INCLUDE_DEPTH} deep", file=path)
    for number, text in _joined(read_text(path)):
        try:
            yield from _read_line(text, path, number, depth, report)
        except ConfigError as error:
            report(error)


def _read_line(
    text: str, path: str, number: int, depth: int, report: Report
) -> Iterator[Line]:
    fields = tuple(_fields(text, path, number, depth))
    if not fields:
        return
    line = Line(fields, path, number)
    if not fields[0]:
        raise line.error("begins with an empty file")
    first = fields[0][0]
    included = _INCLUDES.get(first.text)
    if included is None or first.quoted:
        yield line
        return
    if len(fields) != 2 or len(fields[1]) != 1:
        raise line.error(f"{first.text} takes the name of one file")
    name = _beside(path, fields[1][0].text)
    for file in included(name, line):
        yield from read_lines(file, depth + 1, report)


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """Lines, those that end with a backslash with the next; (number, text)."""
    whole, first = "", 0
    for number, line in enumerate(text.split("\n"), start=1):
        first = first or number
        line = line.rstrip("\r")
        if line.endswith("\\"):
            whole += line[:-1]
            continue
        yield first, whole + line
        whole, first = "", 0
    if whole:
        yield first, whole


def _fields(
    text: str, path: str, number: int, depth: int
) -> Iterator[tuple[Word, ...]]:
    words: list[Word] = []
    for word, goes_on in _words(text, path, number):
        words += _expanded(word, path, number, depth)
        if len(words) > MAX_LIST_WORDS:
            raise ConfigError("too long a list", file=path, line=number)
        if not goes_on:
            yield tuple(words)
            words = []
    if words:
        yield tuple(words)


def read_words(text: str) -> list[Word]:
    """The words of a text that has no comments; ConfigError if a quote is open."""
    return [word for word, _ in _words(text, None, None, comment="")]


def _words(
    text: str, path: str | None, number: int | None, comment: str = "#"
) -> Iterator[tuple[Word, bool]]:
    """(word, whether a comma follows it)."""
    at = 0
    ends = _SPACE + "," + comment
    while True:
        while at < len(text) and text[at] in _SPACE:
            at += 1
        if at == len(text) or text[at] == comment:
            return
        begin, said, in_quotes = at, "", False
        while at < len(text) and (in_quotes or text[at] not in ends):
            if text[at] != '"':
                said += text[at]
            elif in_quotes and text[at + 1 : at + 2] == '"':
                said += '"'
                at += 1
            else:
                in_quotes = not in_quotes
            at += 1
        if in_quotes:
            raise ConfigError("a quote is not closed", file=path, line=number)
        end = at
        while text[at : at + 1] in tuple(_SPACE):
            at += 1
        comma = text[at : at + 1] == ","
        at += comma
        if end > begin:
            yield Word(said, text[begin] == '"'), comma


def _expanded(word: Word, path: str, number: int, depth: int) -> list[Word]:
    """A word, or the words of the file that it names (``@file``)."""
    if word.quoted or not word.text.startswith("@") or len(word.text) == 1:
        return [word]
    if depth >= MAX_INCLUDE_DEPTH:
        raise ConfigError("included too deep", file=path, line=number)
    file = _beside(path, word.text[1:])
    try:
        text = read_text(file)
    except ConfigError as error:
        raise ConfigError(str(error), file=path, line=number) from None
    found: list[Word] = []
    for at, line in _joined(text):
        for one, _ in _words(line, file, at):
            found += _expanded(one, file, at, depth + 1)
    return found


def _beside(path: str, name: str) -> str:
    return os.path.join(os.path.dirname(path), name)


def _file(name: str, line: Line) -> list[str]:
    if not os.path.exists(name):
        raise line.error(f"cannot read {name}: No such file or directory")
    return [name]


def _file_if_exists(name: str, line: Line) -> list[str]:
    return [name] if os.path.exists(name) else []


def _folder(name: str, line: Line) -> list[str]:
    """Its files that end with .conf, in the order of their names."""
    try:
        names = sorted(os.listdir(name))
    except OSError as error:
        raise line.error(f"cannot read {name}: {error.strerror}") from None
    return [
        os.path.join(name, one)
        for one in names
        if one.endswith(".conf") and not one.startswith(".")
    ]


_INCLUDES = {
    "include": _file,
    "include_if_exists": _file_if_exists,
    "include_dir": _folder,
}
