# SPDX-License-Identifier: MIT
"""The words of a command of the console. Console layer.

One command, then an end or a semicolon: a verb and at most one argument, or SET with a
name and a value. Words are case-insensitive; what is quoted is taken as it stands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pooler.console.answers import ConsoleError

MAX_SHOWN = 64

_QUOTED = r'"(?:[^"]|"")+"'
_WORD = rf"[0-9a-z_]+|{_QUOTED}"
_STRING = r"'(?:[^']|'')*'"
_COMMAND = re.compile(
    rf"\s*(?P<verb>[a-z_]+)(?:\s+(?P<argument>{_WORD}))?"
    rf"(?:\s*\((?P<columns>\s*(?:{_WORD})(?:\s*,\s*(?:{_WORD}))*\s*)\))?\s*;?\s*",
    re.ASCII | re.IGNORECASE,
)
_SET = re.compile(
    rf"\s*set\s+(?P<name>{_WORD})(?:\s*=\s*|\s+to(?=[\s'\"])\s*)"
    rf"(?:(?P<quoted>{_STRING}|{_QUOTED})|(?P<plain>[^\s';]+))\s*;?\s*",
    re.ASCII | re.IGNORECASE,
)
_COLUMN = re.compile(_WORD, re.ASCII | re.IGNORECASE)
_NOTHING = re.compile(r"[\s;]*")


@dataclass(frozen=True, slots=True)
class Command:
    """What was asked for; ``verb`` in upper case, "" for an empty text.

    ``columns``: those of a SHOW that are wanted, in this order; none: all. ``text``: as
    it was written.
    """

    verb: str
    argument: str = ""
    value: str = ""
    columns: tuple[str, ...] = ()
    text: str = field(default="", compare=False)


def parse(text: str) -> Command:
    """Read one command; ConsoleError if it is none."""
    if _NOTHING.fullmatch(text):
        return Command("")
    setting = _SET.fullmatch(text)
    if setting:
        name, quoted, plain = setting.group("name", "quoted", "plain")
        value = plain if quoted is None else _unquoted(quoted)
        return Command("SET", _unquoted(name).lower(), value, text=text)
    found = _COMMAND.fullmatch(text)
    verb = "" if found is None else found["verb"].upper()
    if found is None or verb == "SET":
        raise invalid(text)
    if verb == "SELECT":
        verb = "SHOW"
    names = tuple(map(_unquoted, _COLUMN.findall(found["columns"] or "")))
    if names and verb != "SHOW":
        raise invalid(text)
    return Command(verb, _unquoted(found["argument"] or ""), "", names, text)


def invalid(text: str) -> ConsoleError:
    """What is answered to a text that is no command."""
    shown = text.strip()
    if len(shown) > MAX_SHOWN:
        shown = shown[:MAX_SHOWN] + "…"
    return ConsoleError(f"invalid command '{shown}', use SHOW HELP;")


def _unquoted(word: str) -> str:
    quote = word[:1]
    if quote not in ('"', "'"):
        return word
    return word[1:-1].replace(2 * quote, quote)
