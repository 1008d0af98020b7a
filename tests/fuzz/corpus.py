# SPDX-License-Identifier: MIT
"""Write the first inputs of the fuzzer: ``python -m tests.fuzz.corpus FOLDER``.

They come from tests/vectors, from the conformance scripts and from conversations with
answers, each in the form that its target reads (see ``_play.pyx``, ``login_target``).
"""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.conformance.script import COPY, COPY_DONE, copy_fail, data
from tests.conformance.scripts import all_scripts
from tests.feeding import load_vectors
from tests.wire_client import (
    FLUSH,
    GSSENC_REQUEST,
    SSL_REQUEST,
    SYNC,
    TERMINATE,
    cancel_request,
    extended,
    message,
    query,
    startup,
    text,
)

MOST_BYTES = 1500
RULES = {"client": 0, "server": 1, "idle_server": 2}

# As in _play.pyx.
OPERATIONS = 5
CLIENT, SERVER, LOSE_CLIENT, LOSE_SERVER, CANCEL_WAITING = range(OPERATIONS)
RECORD_BYTES = 255

ROWS = message("T", b"\0\0") + message("D", b"\0\0") + message("C", b"SELECT 1\0")
READY, IN_BLOCK, FAILED = (message("Z", status) for status in (b"I", b"T", b"E"))
ERROR = message("E", b"SERROR\0VERROR\0C22012\0Mno\0\0")
FATAL = message("E", b"SFATAL\0VFATAL\0C57P01\0Mend\0\0")
NOTICE = message("N", b"SNOTICE\0VNOTICE\0C00000\0Mhi\0\0")
NOTIFICATION = message("A", struct.pack("!I", 7) + b"channel\0\0")
PARAMETER = message("S", b"application_name\0abc\0")
COPY_IN = message("G", b"\0\0\0")
STEPS = message("1") + message("2") + message("n") + message("C", b"SET\0")

Talk = list[tuple[int, int, bytes]]  # operation, who, bytes


def records(talk: Talk) -> bytes:
    """A conversation in the form that the target relay reads."""
    out = b""
    for operation, who, raw in talk:
        head = bytes((who * OPERATIONS + operation,))
        pieces = [
            raw[at : at + RECORD_BYTES]
            for at in range(0, max(1, len(raw)), RECORD_BYTES)
        ]
        out += b"".join(head + bytes((len(piece),)) + piece for piece in pieces)
    return out


def talks() -> Iterator[Talk]:
    """Conversations with the answers of servers. The idle server is the last one."""
    one = (SERVER, 1, ROWS + READY)
    yield [(CLIENT, 0, query("select 1")), one, (CLIENT, 0, TERMINATE)]
    yield [
        (CLIENT, 0, query("begin")),
        (SERVER, 1, message("C", b"BEGIN\0") + IN_BLOCK),
    ]
    yield [(CLIENT, 0, extended("select 1") + SYNC), (SERVER, 1, STEPS + READY)]
    yield [
        (CLIENT, 0, (extended("select 1") + SYNC) * 2),
        (SERVER, 1, message("1") + ERROR + READY + STEPS + READY),
    ]
    yield [(CLIENT, 0, extended("x") + FLUSH), (SERVER, 1, ERROR), (CLIENT, 0, SYNC),
           (SERVER, 1, READY)]  # fmt: skip
    for end in (COPY_DONE, copy_fail()):
        yield [(CLIENT, 0, query(COPY)), (SERVER, 1, COPY_IN),
               (CLIENT, 0, data("1\n") + SYNC + end),
               (SERVER, 1, message("C", b"COPY 1\0") + READY)]  # fmt: skip
        yield [(CLIENT, 0, extended(COPY) + SYNC), (SERVER, 1, STEPS[:10] + COPY_IN),
               (CLIENT, 0, data("1\n")), (SERVER, 1, ERROR),
               (CLIENT, 0, data("2\n") + end + SYNC), (SERVER, 1, READY)]  # fmt: skip
    # A client with parameters: the server is aligned first, or refuses.
    aligned = message("C", b"SET\0") + PARAMETER + READY
    yield [(CLIENT, 1, query("select 1")), (SERVER, 1, aligned), one]
    yield [(CLIENT, 1, query("select 1")), (SERVER, 1, ERROR + READY)]
    yield [(CLIENT, 1, query("a")), (SERVER, 1, aligned), (CLIENT, 2, query("b")),
           (SERVER, 0, aligned + ROWS + READY), one]  # fmt: skip
    # More clients than servers: somebody waits, gives up, is cancelled.
    three = [(CLIENT, who, query("select 1")) for who in (0, 0, 1, 2)]
    yield [*three, (SERVER, 1, ROWS + READY + ROWS + READY), (SERVER, 0, aligned), one]
    yield [*three, (CANCEL_WAITING, 2, b""), (CLIENT, 2, SYNC), one]
    yield [*three, (LOSE_CLIENT, 2, b""), (LOSE_SERVER, 1, b""), (LOSE_SERVER, 0, b"")]
    # Losses in the middle of things.
    begun = (SERVER, 1, message("C", b"BEGIN\0") + IN_BLOCK)
    yield [(CLIENT, 0, query("begin")), begun]
    yield [
        (CLIENT, 0, extended("x")),
        (LOSE_CLIENT, 0, b""),
        (SERVER, 1, STEPS + READY),
    ]
    yield [(CLIENT, 0, query(COPY)), (SERVER, 1, COPY_IN), (LOSE_CLIENT, 0, b""),
           (SERVER, 1, ERROR + READY)]  # fmt: skip
    yield [(CLIENT, 0, query("x")), (SERVER, 1, ROWS[:9]), (LOSE_SERVER, 1, b"")]
    # What nobody asked for.
    yield [(SERVER, 1, NOTICE[:7]), (CLIENT, 0, query("x")),
           (SERVER, 1, NOTICE[7:] + ROWS + READY)]  # fmt: skip
    yield [(SERVER, 1, PARAMETER + NOTIFICATION), (CLIENT, 1, SYNC), (SERVER, 1, READY)]
    yield [(SERVER, 0, FATAL), (CLIENT, 0, query("x")), (SERVER, 1, FATAL)]
    yield [(CLIENT, 0, query("x")), (SERVER, 1, NOTICE + FAILED + NOTICE)]


def logins() -> Iterator[bytes]:
    """First bytes of clients, behind the byte that chooses the method."""
    first = startup("plain", "shop", application_name="x", options="-c geqo=off")
    password = message("p", text("secret"))
    scram = b"n,,n=,r=abcdefgh"
    sasl = message("p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(scram)) + scram)
    final = message("p", b"c=biws,r=abcdefgh,p=AAAA")
    newer = first[:4] + struct.pack("!I", 0x0003_0002) + first[8:]
    option = startup("plain", "shop", **{"_pq_.x": "1", "replication": "database"})
    for method in range(5):
        for raw in (
            first + password,
            first + sasl + final,
            newer + sasl + password,
            option,
            SSL_REQUEST,
            GSSENC_REQUEST,
            cancel_request(bytes(8)),
            cancel_request(bytes(36)),
            b"\x16\x03\x01",
        ):
            yield bytes((method,)) + raw


def scans() -> Iterator[bytes]:
    """The vectors, behind the byte that chooses the rules."""
    for kind in ("valid", "invalid"):
        for vector in load_vectors(kind):
            yield bytes((RULES[vector.sender],)) + vector.raw
    for script in all_scripts():
        yield bytes((RULES["client"],)) + b"".join(raw for raw, _ in script.steps)


def relays() -> Iterator[bytes]:
    """The conversations, and the vectors as a client's or a server's bytes."""
    yield from map(records, talks())
    for scan in scans():
        if scan[0] == RULES["client"]:
            yield records([(CLIENT, 0, scan[1:]), (SERVER, 1, ROWS + READY)])
        else:
            yield records([(CLIENT, 0, query("x")), (SERVER, 1, scan[1:])])


def write(folder: Path) -> int:
    """Write all inputs that are small enough; returns how many there are."""
    count = 0
    for name, inputs in (("scan", scans()), ("relay", relays()), ("login", logins())):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for raw in inputs:
            if len(raw) <= MOST_BYTES:
                digest = hashlib.sha256(raw).hexdigest()[:24]
                (folder / name / digest).write_bytes(raw)
                count += 1
    return count


if __name__ == "__main__":
    print(write(Path(sys.argv[1])), "first inputs")
