# SPDX-License-Identifier: MIT
"""Each field of a session record is written by one module (dev/owners.toml)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECORDS = (ROOT / "pooler" / "session" / "records.pxd").read_text()
TABLE = tomllib.loads((ROOT / "dev" / "owners.toml").read_text())
BEGINNINGS = {
    (row["record"], row["field"], row["module"]) for row in TABLE.pop("beginning")
}
# What the sessions are called wherever these records are used.
NAMES = {
    "ClientSession": r"(?:w\.)?c|(?:w\.)?s\.client|cc\.session|(?:\w+\.)*client",
    "ServerSession": r"(?:w\.)?s|(?:w\.)?c\.server|sc\.session|(?:\w+\.)*server",
    "Pool": r"p|(?:w\.)?[sc]\.pool|(?:\w+\.)*pool",
}
PACKAGES = ("session", "statements", "relay", "io")
ASSIGNED = r"\s*(?:[-+*/|&^]|<<|>>)?=(?!=)"
INSIDE = r"(?:\.\w+|\[[^\]]*\])*"  # of a record in the record


class Write(NamedTuple):
    record: str
    field: str
    module: str


def fields_of(record: str) -> dict[str, bool]:
    """The fields of a struct in records.pxd, and which are pointers."""
    body = re.search(
        rf"^cdef struct {record}:[^\n]*\n((?:    [^\n]*\n)+)", RECORDS, re.MULTILINE
    )
    assert body is not None, record
    found = re.finditer(
        r"^    [\w ]+? (\*?)(\w+)(?:\[\w+\])?$",
        re.sub(r" *#.*", "", body.group(1)),
        re.MULTILINE,
    )
    return {match[2]: bool(match[1]) for match in found}


FIELDS = {record: fields_of(record) for record in TABLE}


def statements(text: str) -> Iterator[str]:
    """The code of a source, without what is only said about it."""
    text = re.sub(r'"""(?:.|\n)*?"""', "", text)
    for line in text.splitlines():
        yield re.sub(r"#.*", "", line)


def writes(text: str, module: str) -> set[Write]:
    """Every assignment to a field of a record in a source."""
    found = set()
    for line in statements(text):
        for record, names in NAMES.items():
            for match in re.finditer(
                rf"(?<![\w.])(?:{names})\.(?P<field>\w+)(?P<in>{INSIDE}){ASSIGNED}",
                line,
            ):
                is_pointer = FIELDS[record].get(match["field"])
                if is_pointer is False or (is_pointer and not match["in"]):
                    found.add(Write(record, match["field"], module))
    return found


SOURCES = sorted(
    path
    for package in PACKAGES
    for path in (ROOT / "pooler" / package).glob("*.p[yx][xd]")
)
WRITES = {
    write
    for path in SOURCES
    for write in writes(path.read_text(), f"{path.parent.name}.{path.stem}")
}


@pytest.mark.parametrize("record", list(TABLE))
def test_every_field_has_one_owner(record: str) -> None:
    listed = [name for names in TABLE[record].values() for name in names]
    assert sorted(listed) == sorted(FIELDS[record])


def test_every_owner_exists() -> None:
    for record in TABLE.values():
        for module in record:
            path = ROOT / "pooler" / module.replace(".", "/")
            assert path.with_suffix(".pxd").exists(), module


def test_nobody_else_writes_a_field() -> None:
    wrong = {
        f"{write.module} writes {write.record}.{write.field}"
        for write in WRITES
        if write.field not in TABLE[write.record].get(write.module, ())
        and write not in BEGINNINGS
    }
    assert wrong == set()


def test_beginnings_are_really_there() -> None:
    assert BEGINNINGS <= WRITES


def test_writes_are_found() -> None:
    """The parser must not go blind: writes that are surely there, and reads."""
    assert {
        Write("Pool", "idle_count", "session.pool"),
        Write("Pool", "counters", "session.counters"),
        Write("ServerSession", "batch", "session.batch"),
        Write("ServerSession", "cleaning", "relay.clean"),
        Write("ServerSession", "client", "session.pool"),
        Write("ClientSession", "leaving", "relay.ends"),
    } <= WRITES
    text = (
        "    w.s.batch.open = True\n"
        "    if s.state == x and c.settling:\n"
        "    s.pool.idle_count += 1  # c.aligning = True\n"
        "    s.next = s.prev = NULL\n"
        "    other.state = 1\n"
    )
    assert writes(text, "m") == {
        Write("ServerSession", "batch", "m"),
        Write("Pool", "idle_count", "m"),
        Write("ServerSession", "next", "m"),
        Write("ServerSession", "prev", "m"),
    }
