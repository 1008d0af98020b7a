# SPDX-License-Identifier: MIT
"""What a protocol script is, and the words it is written in.

A script says what a client sends, and up to where it reads.

A script is a list of steps. A step is (bytes, until): the bytes go out in one send,
then messages are read until each type byte of ``until`` was seen, in that order:
``"Z"`` is one ReadyForQuery, ``"ZZ"`` two, ``"1D"`` a ParseComplete and then a
DataRow, ``END`` the end of the connection, ``""`` nothing.

A script leaves nothing behind on the server: in transaction mode the next one has
the same backend.

Source: PostgreSQL documentation, "Message Flow".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tests.wire_client import SYNC, message, query, text

END = "$"
COPY_DONE = message("c")
COPY = "COPY conf FROM STDIN"
ROWS_OF_FIVE = "SELECT g FROM generate_series(1, 5) g"
FAILS_AT_THIRD = "SELECT 1 / (3 - g) FROM generate_series(1, 5) g"
INSERT = "INSERT INTO conf VALUES (1, 'x')"
COUNT = query("SELECT count(*), sum(a) FROM conf")
TRUNCATE = (query("TRUNCATE conf"), "Z")
# More than the 256 KiB that the engine reads at once.
BIG = 700_000

# What the pooler says to a client that breaks the protocol.
REFUSAL = ("E", {"S": "FATAL", "V": "FATAL", "C": "08P01"})

Step = tuple[bytes, str]
Line = tuple[str, object]  # type byte, and what matters of the body


@dataclass(frozen=True, slots=True)
class Script:
    """One conversation.

    ``pooler_speaks``: the pooler itself refuses it, so of an ErrorResponse only
    severity and SQLSTATE are compared; ``pooler_adds`` is a message that only the
    pooler sends, at the end. ``session_only``: why it cannot be held in
    transaction mode, or nothing. ``elsewhere`` is SQL that another session runs
    once before the last step. ``any_server``: each of its transactions may run on
    another server.
    """

    name: str
    steps: tuple[Step, ...]
    pooler_speaks: bool = False
    pooler_adds: Line | None = None
    session_only: str = ""
    elsewhere: str = ""
    any_server: bool = False

    @property
    def ends(self) -> bool:
        """Whether the connection is over with the script."""
        return self.steps[-1][1].endswith(END)

    @property
    def size(self) -> int:
        """The bytes that are sent."""
        return sum(len(raw) for raw, _ in self.steps)


def data(line: str | bytes) -> bytes:
    """CopyData."""
    return message("d", line.encode() if isinstance(line, str) else line)


def copy_fail(why: str = "no more") -> bytes:
    """CopyFail."""
    return message("f", text(why))


def close(name: str = "", kind: str = "P") -> bytes:
    """Close a portal (P) or a statement (S)."""
    return message("C", kind.encode() + text(name))


def call(oid: int, *values: bytes) -> bytes:
    """FunctionCall with text arguments and a text result."""
    body = struct.pack("!IHH", oid, 0, len(values))
    for value in values:
        body += struct.pack("!i", len(value)) + value
    return message("F", body + struct.pack("!H", 0))


def simple(sql: str) -> Step:
    """A simple query and its answer."""
    return query(sql), "Z"


def batch(*parts: bytes) -> Step:
    """Extended messages, a Sync, and all answers."""
    return b"".join(parts) + SYNC, "Z"
