# SPDX-License-Identifier: MIT
"""The protocol scripts of ends, of refusals and of large messages."""

from __future__ import annotations

import struct

from tests.conformance.script import (
    BIG,
    END,
    REFUSAL,
    Script,
    batch,
    simple,
)
from tests.wire_client import (
    FLUSH,
    SYNC,
    TERMINATE,
    extended,
    message,
    query,
)


def _closing_scripts() -> list[Script]:
    unknown = message("!", b"body")
    return [
        Script("Terminate", (simple("SELECT 1"), (TERMINATE, END))),
        Script("Terminate at once", ((TERMINATE, END),)),
        Script("Terminate in a transaction", (simple("BEGIN"), (TERMINATE, END))),
        Script(
            "Terminate behind a query",
            ((query("SELECT 1") + TERMINATE, END),),
        ),
        Script("unknown message", ((unknown, END),), pooler_speaks=True),
        Script(
            "unknown message in a transaction",
            (simple("BEGIN"), (unknown, END)),
            pooler_speaks=True,
        ),
        Script(
            "unknown message in a failed batch",
            ((extended("SELECT 1/0") + FLUSH, "E"), (unknown, END)),
            pooler_speaks=True,
        ),
        Script(
            "a password after the login",
            ((message("p", b"secret\0"), END),),
            pooler_speaks=True,
        ),
        Script(
            "impossible length",
            ((b"Q" + struct.pack("!I", 3), END),),
            pooler_speaks=True,
            pooler_adds=REFUSAL,  # PostgreSQL writes it only into its log
        ),
    ]


def _large_scripts() -> list[Script]:
    value = b"v" * BIG
    return [
        Script("large query", (simple(f"SELECT length('{'q' * BIG}')"),)),
        Script("large value in", (batch(extended("SELECT length($1::text)", value)),)),
        Script("large value out", (simple(f"SELECT repeat('x', {BIG})"),)),
        Script("large value both ways, pipelined", (
            ((extended("SELECT $1::text", value) + SYNC) * 3, "ZZZ"),
        )),
        Script("many rows", (
            simple("SELECT g, repeat('r', g % 200) FROM generate_series(1, 20000) g"),
        )),
        Script("rows with large values", (
            simple("SELECT repeat('r', 90000) FROM generate_series(1, 20) g"),
        )),
        Script("large error", (
            simple(f"DO $$BEGIN RAISE 'e %', repeat('x', {BIG}); END$$"),
            simple("SELECT 1"),
        )),
        Script("large notice", (
            simple(f"DO $$BEGIN RAISE NOTICE 'e %', repeat('x', {BIG}); END$$"),
        )),
        Script("large query that fails, pipelined", ((
            query(f"SELEC '{'q' * BIG}'") + query("SELECT 1"), "ZZ",
        ),)),
        Script("a long pipeline", (
            ((extended("SELECT $1::int", b"7") + SYNC) * 400, "Z" * 400),
        )),
        Script("a long batch", (batch(extended("SELECT $1::int", b"7") * 400),)),
        Script("a large value after an error is skipped", (
            (extended("SELECT 1/0") + extended("SELECT $1::text", value) + SYNC, "Z"),
            simple("SELECT 1"),
        )),
    ]  # fmt: skip


def end_scripts() -> list[Script]:
    """Scripts that end the connection, and large ones."""
    return [*_closing_scripts(), *_large_scripts()]
