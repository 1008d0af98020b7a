# SPDX-License-Identifier: MIT
"""How tests build messages, read vectors and feed bytes to a scanner."""

from __future__ import annotations

import itertools
import struct
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.reference.wire_ref import Event, Scanned

VECTORS = Path(__file__).resolve().parent / "vectors"

Scan = Callable[[str, list[bytes]], tuple[list[Event], int | None, int, int]]

# ------------------------------------------------------------------ messages


def message(code: str, body: bytes = b"") -> bytes:
    return code.encode("latin-1") + struct.pack("!I", len(body) + 4) + body


def query(text: str | bytes = "select 1") -> bytes:
    return message("Q", (text.encode() if isinstance(text, str) else text) + b"\0")


def parse(text: str = "select 1", name: str = "") -> bytes:
    return message("P", f"{name}\0{text}\0".encode() + b"\0\0")


BIND = message("B", b"\0\0" + b"\0\0" * 3)
DESCRIBE = message("D", b"P\0")
EXECUTE = message("E", b"\0" + b"\0" * 4)
CLOSE = message("C", b"P\0")
SYNC = message("S")
FLUSH = message("H")
FUNCTION_CALL = message("F", struct.pack("!IHHH", 1, 0, 0, 0))
COPY_DONE = message("c")
COPY_FAIL = message("f", b"no\0")
TERMINATE = message("X")

PARSE_COMPLETE = message("1")
BIND_COMPLETE = message("2")
CLOSE_COMPLETE = message("3")
NO_DATA = message("n")
EMPTY_QUERY = message("I")
PORTAL_SUSPENDED = message("s")
ROW_DESCRIPTION = message("T", b"\0\0")
COMPLETE = message("C", b"SELECT 1\0")
COPY_IN = message("G", b"\0\0\0")
COPY_OUT = message("H", b"\0\0\0")
FUNCTION_RESPONSE = message("V", b"\xff" * 4)
NOTICE = message("N", b"SNOTICE\0VNOTICE\0C00000\0Mhi\0\0")
NOTIFICATION = message("A", b"\0\0\0\7channel\0\0")


def batch(text: str = "select 1") -> bytes:
    """Parse, Bind, Describe, Execute: a batch that lacks its Sync."""
    return parse(text) + BIND + DESCRIBE + EXECUTE


def copy_data(data: bytes = b"1\n") -> bytes:
    return message("d", data)


def row(value: bytes = b"1") -> bytes:
    return message("D", b"\0\1" + struct.pack("!I", len(value)) + value)


def ready(status: str = "I") -> bytes:
    return message("Z", status.encode())


def error(text: str = "bad", severity: str = "ERROR", state: str = "22012") -> bytes:
    fields = f"S{severity}\0V{severity}\0C{state}\0M{text}\0\0"
    return message("E", fields.encode())


def parameter(name: str, value: str) -> bytes:
    return message("S", f"{name}\0{value}\0".encode())


SELECTED = ROW_DESCRIPTION + row() + COMPLETE + ready()  # answer to query()
BATCH_DONE = PARSE_COMPLETE + BIND_COMPLETE + ROW_DESCRIPTION + row() + COMPLETE

# ------------------------------------------------------------------- feeding


def split_at(raw: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The pieces of ``raw``, cut at these offsets taken modulo its size."""
    edges = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    return [raw[a:b] for a, b in itertools.pairwise(edges)]


def feed_split(scan: Scan, rules: str, raw: bytes, cuts: Iterable[int]) -> Scanned:
    return Scanned(*scan(rules, split_at(raw, cuts)))


def feed_all(scan: Scan, rules: str, raw: bytes) -> Scanned:
    return Scanned(*scan(rules, [raw]))


def feed_bytes(scan: Scan, rules: str, raw: bytes) -> Scanned:
    """One byte per read, and an empty read after each."""
    pieces = [piece for i in range(len(raw)) for piece in (raw[i : i + 1], b"")]
    return Scanned(*scan(rules, pieces))


def feed_trailing(scan: Scan, rules: str, raw: bytes, trailing: bytes) -> Scanned:
    """Whole, with more bytes behind it in the same read."""
    return Scanned(*scan(rules, [raw + trailing]))


# ------------------------------------------------------------------- vectors


@dataclass(frozen=True, slots=True)
class Vector:
    """One entry of a vector file."""

    file: str
    name: str
    sender: str
    phase: str  # "ready" or "idle"
    raw: bytes
    doc: str
    expected: Scanned

    @property
    def rules(self) -> str:
        return "idle_server" if self.phase == "idle" else self.sender

    @property
    def id(self) -> str:
        return f"{self.file}:{self.name}"


def _raw(entry: dict[str, Any]) -> bytes:
    """``hex``, or ``send``: [type byte, body] pairs whose length is filled in."""
    if "hex" in entry:
        return bytes.fromhex(entry["hex"])
    pairs = entry["send"]
    return b"".join(message(code, body.encode("latin-1")) for code, body in pairs)


def load_vectors(kind: str) -> list[Vector]:
    """All vectors of ``valid`` or ``invalid``."""
    return [
        Vector(
            file=f"{kind}/{path.stem}",
            name=entry["name"],
            sender=entry["sender"],
            phase=entry["phase"],
            raw=_raw(entry),
            doc=entry["doc"],
            expected=Scanned(
                [(ord(code), at, length) for code, at, length in entry["events"]],
                entry.get("error_offset"),
                entry.get("body_left", 0),
                entry.get("held", 0),
            ),
        )
        for path in sorted((VECTORS / kind).glob("*.toml"))
        for entry in tomllib.loads(path.read_text())["vector"]
    ]
