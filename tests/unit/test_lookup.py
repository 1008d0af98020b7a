# SPDX-License-Identifier: MIT
"""One query with one value: what may be answered, and what ends the connection."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.errors import LoginError
from pooler.login import packets
from pooler.login.packets import message
from pooler.worker.auth_query import NOBODY, Found, read_answer
from pooler.worker.lookup import (
    MAX_ANSWER_BYTES,
    Answer,
    Lookup,
    LostError,
    question,
    settings_of,
)

SETTINGS = {"search_path": "pg_catalog", "statement_timeout": "10"}
READY = packets.ready_for_query()
DONE = message(b"C", b"SELECT 1\0") + READY
PARSED = message(b"1") + message(b"2")
NOTICES = (
    packets.notice_response("NOTICE", "00000", "hello")
    + packets.parameter_status("TimeZone", "UTC")
    + message(b"A", struct.pack("!i", 7) + b"channel\0\0")
)


def described(columns: int) -> bytes:
    one = b"name\0" + bytes(18)
    return message(b"T", struct.pack("!h", columns) + one * columns)


def row(*values: bytes | None) -> bytes:
    parts = [struct.pack("!h", len(values))]
    for value in values:
        parts.append(struct.pack("!i", -1 if value is None else len(value)))
        parts.append(value or b"")
    return message(b"D", b"".join(parts))


# What the settings of the question are answered with.
BEGIN = PARSED + row(b"pg_catalog", b"10ms") + message(b"C", b"SELECT 1\0") + PARSED


class FakeLink:
    """Says what it is told to, in pieces."""

    def __init__(self, said: bytes, piece: int) -> None:
        self.sent = b""
        self.pieces = [said[at : at + piece] for at in range(0, len(said), piece)]
        self.closed = False

    def send(self, data: bytes) -> None:
        self.sent += data

    async def receive(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def close(self) -> None:
        self.closed = True


def run(what: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(what)


def ask(said: bytes, piece: int = 1 << 20, early: bytes = b"") -> Answer:
    link: Any = FakeLink(said, piece)
    answer = run(Lookup(link, early, SETTINGS).ask("SELECT $1", "joe"))
    assert isinstance(answer, Answer)
    return answer


def test_the_question() -> None:
    """The name is a value: bytes that no text is made of."""
    name = "o'x\udcff"
    asked = settings_of(SETTINGS) + question("SELECT name, secret FROM f($1)", name)
    kinds, bodies = [], []
    at = 0
    while read := packets.read_message(asked, at, 65536):
        kinds.append(read.kind)
        at = read.end
        bodies.append(read.body)
    assert b"".join(kinds) == b"PBEPBDES"  # one transaction, up to its Sync
    assert b"pg_catalog.set_config($3, $4, true)" in bodies[0]
    assert b"statement_timeout\0\0\0\x0210\0\0" in bodies[1]
    assert b"\0\x01\0\0\0\x04o'x\xff\0\0" in bodies[4]
    assert at == len(asked)


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_one_row(piece: int) -> None:
    said = NOTICES + BEGIN + described(2) + row(b"joe", b"secret") + NOTICES + DONE
    answer = ask(said, piece)
    assert answer == Answer(2, [("joe", "secret")])
    assert read_answer(answer) == Found("secret", "joe")
    assert "secret" not in repr(answer)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (described(2), NOBODY),
        (described(2) + row(b"joe", None), Found("", "joe")),
        (described(2) + row(b"joe", b""), Found("", "joe")),
        (described(2) + row(b"j\xff", b"\xfe"), Found("\udcfe", "j\udcff")),
        (described(2) + row(b"joe", b"x" * 65531), Found("x" * 65531, "joe")),
        (packets.error_response("ERROR", "22021", "invalid byte"), NOBODY),
    ],
)
def test_who_is_found(said: bytes, found: Found) -> None:
    assert read_answer(ask(BEGIN + said + DONE)) == found


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (described(3) + row(b"", b"", b""), "expected 2 columns"),
        (described(1), "expected 2 columns from auth_query, not 1"),
        (described(2) + row(b"a", b"b") * 2, "more than one row"),
        (described(2) + row(None, b"b"), "contained null user name"),
        (described(2) + row(b"a", b"x" * 65532), "the secret is too long"),
        (message(b"n"), "no rows"),
        (message(b"n") + message(b"I"), "no rows"),
        (
            described(2) + packets.error_response("ERROR", "42P01", "no table"),
            "error response from auth_query: no table",
        ),
    ],
)
def test_what_is_no_answer(said: bytes, why: str) -> None:
    with pytest.raises(LoginError) as caught:
        read_answer(ask(BEGIN + said + DONE))
    assert caught.value.message == "bouncer config error"
    assert why in caught.value.why


@pytest.mark.parametrize(
    "said",
    [
        b"",
        BEGIN + described(2),
        packets.error_response("FATAL", "57P01", "terminating connection"),
        message(b"H", b"\0\0\0") + DONE,  # COPY
        message(b"G", b"\0\0\0"),
        message(b"W", b"\0\0\0"),
        message(b"R", b"\0\0\0\0"),
        message(b"K", bytes(8)),
        BEGIN + packets.ready_for_query(b"T"),
        BEGIN + packets.ready_for_query(b"E"),
        packets.notice_response("NOTICE", "00000", "x" * 1000) * 2000,
    ],
)
def test_a_connection_that_is_of_no_more_use(said: bytes) -> None:
    with pytest.raises(LostError):
        ask(said, 65536)


@pytest.mark.parametrize(
    "said",
    [
        message(b"D", b""),
        message(b"D", b"\0\x02\0\0\0\x01a"),
        message(b"D", b"\0\x01\xff\xff\xff\xfe"),
        message(b"D", b"\0\x01\x7f\xff\xff\xff"),
        message(b"D", b"\xff\xff"),
        message(b"T", b"\0"),
        b"D\0\0\0\x03",
        b"D" + struct.pack("!I", MAX_ANSWER_BYTES + 5),
    ],
)
def test_a_hostile_answer(said: bytes) -> None:
    with pytest.raises(LoginError):
        ask(said + DONE)


@given(st.binary(max_size=60), st.integers(1, 60))
def test_any_bytes(said: bytes, piece: int) -> None:
    """End in an answer or an error, whole or in pieces."""

    def outcome(piece: int) -> object:
        try:
            return ask(BEGIN + described(2) + said + DONE, piece)
        except LoginError as error:
            return type(error)

    assert outcome(piece) == outcome(1 << 20)


@pytest.mark.parametrize(
    "unasked", [DONE, NOTICES + READY, described(2) + row(b"joe", b"old") + DONE]
)
def test_an_answer_that_came_unasked_answers_nothing(unasked: bytes) -> None:
    """Else each question would get the answer of the one before it."""
    with pytest.raises(LostError):
        ask(BEGIN + described(2) + DONE, early=unasked)


def test_what_came_behind_the_login_is_read_first() -> None:
    said = BEGIN + described(2) + DONE
    assert ask(said[20:], early=NOTICES + said[:20]) == Answer(2)
