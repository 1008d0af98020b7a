# SPDX-License-Identifier: MIT
"""What is learned of the values that clients ask for: bounds, ends, answers."""

from __future__ import annotations

import asyncio
import struct
from typing import cast

import pytest

from pooler.errors import LoginError
from pooler.io.engine import Engine
from pooler.login import packets
from pooler.worker.words import (
    LOGIN_RETRY_S,
    LONGEST_KEPT_BYTES,
    QUESTIONS_KEPT,
    REFUSED_S,
    WORDS_KEPT,
    Learn,
    Questions,
    Refusal,
    RefusedValueError,
    Words,
    as_at_startup,
    label,
    question,
    read_answer,
)

WELCOME = {
    "DateStyle": "ISO, MDY",
    "TimeZone": "UTC",
    "IntervalStyle": "postgres",
    "application_name": "",
    "server_encoding": "UTF8",
    "server_version": "15.4 (from a package)",
}
NOW_S = 1000.0
DONE = packets.message(b"C", b"SELECT 1\0")
READY = packets.ready_for_query()


def row(text: str | None) -> bytes:
    raw = b"" if text is None else text.encode()
    size = -1 if text is None else len(raw)
    return packets.message(b"D", struct.pack("!hi", 1, size) + raw)


def report(**fields: str) -> bytes:
    body = b"".join(packets.cstring(key + text) for key, text in fields.items())
    return body + b"\0"


def failed(code: str, said: str = "ungültiger Wert für »timezone«") -> bytes:
    body = report(S="FEHLER", V="ERROR", C=code, M=said, R="f")
    return packets.message(b"E", body) + READY


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds; the test moves it."""
    now = [NOW_S]
    monkeypatch.setattr("pooler.worker.words.time.monotonic", lambda: now[0])
    return now


# The table


def test_what_is_learned_is_bounded_and_the_newest_stay() -> None:
    known = Words()
    for number in range(3 * WORDS_KEPT):
        known.learn("TimeZone", f"+{number}", f"<+{number}>")
        assert len(known) <= WORDS_KEPT
        assert known.look_up("TimeZone", f"+{number}") == f"<+{number}>"
    assert len(known) == WORDS_KEPT
    assert known.look_up("TimeZone", "+0") is None


def test_a_value_learned_anew_takes_one_place() -> None:
    known = Words()
    for word in ("one", "two"):
        known.learn("TimeZone", "x", word)
    assert len(known) == 1
    assert known.look_up("TimeZone", "x") == "two"


def test_long_values_are_not_kept() -> None:
    known = Words()
    known.learn("search_path", "x" * (LONGEST_KEPT_BYTES + 1), "x")
    assert len(known) == 0


def test_forget_reaches_what_is_being_asked() -> None:
    known = Words()
    known.learn("TimeZone", "utc", "UTC")
    before = known.generation
    known.forget()
    assert len(known) == 0
    assert known.generation != before


def test_a_refusal_is_not_for_good(clock: list[float]) -> None:
    known = Words()
    asked = {"TimeZone": "Mars"}
    known.learn("TimeZone", "Mars", Refusal(report(C="22023", M="no"), NOW_S + 10))
    assert known.unknown(asked, WELCOME) == []
    with pytest.raises(RefusedValueError, match="no"):
        known.told(asked, WELCOME)
    clock[0] += 10
    assert known.told(asked, WELCOME) == asked
    assert known.unknown(asked, WELCOME) == [("TimeZone", "Mars")]
    assert len(known) == 0


def test_unknown_values_in_order_up_to_a_refusal(clock: list[float]) -> None:
    known = Words()
    known.learn("TimeZone", "utc", "UTC")
    asked = {
        "application_name": "x",  # everybody's own, and PostgreSQL refuses none
        "TimeZone": "utc",
        "IntervalStyle": "postgres",  # the default in the server's words
        "DateStyle": "iso",
        "unreported": "x",
        "client_encoding": "y",
    }
    welcome = {**WELCOME, "client_encoding": "UTF8"}
    unknown = [("DateStyle", "iso"), ("client_encoding", "y")]
    assert known.unknown(asked, welcome) == unknown
    known.learn("DateStyle", "iso", Refusal(report(C="22023"), clock[0] + 1))
    assert known.unknown(asked, welcome) == []


def test_a_value_that_is_not_ascii_is_followed_by_nobody() -> None:
    with pytest.raises(LoginError, match='invalid value for parameter "TimeZone"'):
        Words().told({"TimeZone": "é"}, WELCOME)


# Question and answer


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        ("utc", "E'utc'"),
        ("it's \\", "E'it''s \\\\'"),
        ("é", "E'\\xc3\\xa9'"),
        (packets.decode(b"\xff"), "E'\\xff'"),
        ("", "E''"),
    ],
)
def test_a_question_is_ascii_and_changes_nothing(value: str, literal: str) -> None:
    asked = question("TimeZone", value).decode("ascii")
    assert asked.endswith(f"SELECT pg_catalog.set_config('TimeZone',{literal},true)")
    assert asked.count("SET LOCAL") == asked.count("SET ") == 1


def test_the_word_of_an_answer() -> None:
    answer = row("UTC") + DONE + READY
    assert read_answer("TimeZone", answer, WELCOME, NOW_S) == "UTC"


@pytest.mark.parametrize("code", ["22023", "0A000"])
def test_the_refusal_of_an_answer(code: str) -> None:
    known = read_answer("TimeZone", failed(code), WELCOME, NOW_S)
    assert isinstance(known, Refusal)
    assert known.until_s == NOW_S + REFUSED_S
    assert known.error().sqlstate == code
    assert packets.read_report(known.body)["S"] == "FATAL"
    assert known.error().report == packets.message(b"E", known.body)


@pytest.mark.parametrize(
    "answer",
    [
        b"",  # the server was lost
        DONE + READY,
        row(None) + READY,
        row("a") + row("b") + READY,
        row("é") + READY,
        packets.message(b"D", b"\0") + READY,
        packets.message(b"D", struct.pack("!hii", 2, -1, -1)) + READY,
        *(failed(code) for code in ("57014", "53200", "42501", "XX000", "25P02")),
        packets.message(b"E", b"\0") + READY,
        failed("0A000", "SET LOCAL is not supported"),
        failed("22023", "no such function"),
    ],
)
def test_what_says_nothing_of_the_value(answer: bytes) -> None:
    assert read_answer("TimeZone", answer, WELCOME, NOW_S) is None


@pytest.mark.parametrize(
    ("source", "default", "known"),
    [
        ("configuration file", "ISO, MDY", "SQL, MDY"),
        ("default", "ISO, MDY", "SQL, MDY"),
        ("client", "ISO, MDY", "SQL, MDY"),
        ("default", "German, DMY", None),  # a server from before its default changed
        ("user", "German, DMY", None),
        ("user", "ISO, MDY", Learn.BY_LOGIN),
        ("database", "ISO, MDY", Learn.BY_LOGIN),
        ("database user", "ISO, MDY", Learn.BY_LOGIN),
        ("global", "ISO, MDY", Learn.BY_LOGIN),
    ],
)
def test_a_part_is_learned_against_the_default(
    source: str, default: str, known: str | Learn | None
) -> None:
    answer = row(source) + row(default) + row("SQL, MDY") + DONE + READY
    assert read_answer("DateStyle", answer, WELCOME, NOW_S) == known


def test_a_part_without_its_default_is_not_learned() -> None:
    answer = row("SQL, MDY") + DONE + READY
    assert read_answer("DateStyle", answer, WELCOME, NOW_S) is None


def test_an_error_is_that_of_a_startup() -> None:
    given = report(
        S="ERROR",
        V="ERROR",
        C="0A000",
        M="invalid value",
        D="Conversion between A and B is not supported.",
    )
    expected = report(
        S="FATAL",
        V="FATAL",
        C="0A000",
        M="conversion between A and B is not supported",
    )
    assert as_at_startup(given) == expected


# application_name


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (b"psql", "psql"),
        (b"", ""),
        ("é".encode(), "??"),
        (b"\x1f \x7e\x7f", "? ~?"),
        (b"x" * 63, "x" * 63),
        (b"x" * 64, "x" * 63),
        (b"x" * 62 + "é".encode(), "x" * 62),
        (b"x" * 61 + "éé".encode(), "x" * 61 + "??"),
        (b"\x80" * 70, "?" * 63),
        (b"x" * 62 + b"\xff\xff", "x" * 62 + "?"),
    ],
)
def test_label_is_cut_and_cleaned(given: bytes, kept: str) -> None:
    text, notice = label(given, WELCOME)
    assert text == kept
    assert (notice != b"") == (len(given) > 63)


def test_label_of_newer_versions_is_escaped() -> None:
    for version in ("16beta1", "16.2", "17rc1", "18"):
        welcome = {**WELCOME, "server_version": version}
        assert label("é".encode(), welcome)[0] == r"\xc3\xa9"


def test_label_in_a_single_byte_encoding_is_cut_anywhere() -> None:
    latin = {**WELCOME, "server_encoding": "LATIN1"}
    assert label(b"x" * 62 + "é".encode(), latin)[0] == "x" * 62 + "?"


# Questions


class Server:
    """What ``Questions`` asks: an engine whose server is idle or not, and logins."""

    def __init__(self, *, idle: bool) -> None:
        self.idle = idle
        self.asked: list[bytes] = []
        self.answer = b""
        self.logins: list[tuple[str, str]] = []
        self.login_error: LoginError | None = None
        self.words = Words()
        self.questions = Questions(
            cast("Engine", self), 0, self.words, lambda: WELCOME, self.log_in
        )

    def pool_inquire(self, _pool: int, query: bytes) -> bool:
        if self.idle:
            self.asked.append(query)
        return self.idle

    def pool_inquiry_answer(self, _pool: int) -> bytes:
        return self.answer

    async def log_in(self, name: str, value: str) -> str | None:
        self.logins.append((name, value))
        if self.login_error is not None:
            raise self.login_error
        return "ISO, YMD"

    async def ask(self, *asked: tuple[str, str], answers: tuple[bytes, ...]) -> None:
        """Ask, and answer what is put, one after the other."""
        asking = asyncio.ensure_future(self.questions.ask(list(asked)))
        for number, answer in enumerate(answers, len(self.asked) + 1):
            self.answer = answer
            while len(self.asked) < number:
                await asyncio.sleep(0)
            self.questions.inquired()
        await asking


UTC = ("TimeZone", "utc")
ISO = ("DateStyle", "iso")


def test_a_question_puts_one_value() -> None:
    server = Server(idle=True)
    answers = (row("UTC") + READY, row("iso_8601") + READY)
    asyncio.run(server.ask(UTC, ("IntervalStyle", "ISO_8601"), answers=answers))
    assert server.asked == [question(*UTC), question("IntervalStyle", "ISO_8601")]
    assert server.words.look_up(*UTC) == "UTC"
    assert server.words.look_up("IntervalStyle", "ISO_8601") == "iso_8601"
    assert server.logins == []


def test_nothing_is_asked_behind_a_refusal() -> None:
    server = Server(idle=True)
    asyncio.run(server.ask(UTC, ISO, answers=(failed("22023"),)))
    assert server.asked == [question(*UTC)]
    assert isinstance(server.words.look_up(*UTC), Refusal)


def test_nobody_waits_for_a_server_to_become_free() -> None:
    server = Server(idle=False)
    asyncio.run(server.ask(UTC, answers=()))
    assert len(server.words) == 0


def test_an_answer_from_before_a_reload_is_not_learned() -> None:
    server = Server(idle=True)

    async def play() -> None:
        asking = asyncio.ensure_future(server.questions.ask([UTC]))
        await asyncio.sleep(0)
        server.words.forget()
        again = asyncio.ensure_future(server.questions.ask([UTC]))
        await asyncio.sleep(0)
        server.answer = row("old") + READY
        server.questions.inquired()
        await asking
        assert len(server.words) == 0
        server.answer = row("UTC") + READY
        server.questions.inquired()
        await again

    asyncio.run(play())
    assert server.asked == [question(*UTC)] * 2
    assert server.words.look_up(*UTC) == "UTC"


def test_questions_are_bounded() -> None:
    server = Server(idle=True)

    async def play() -> None:
        asked = [("TimeZone", f"+{number}") for number in range(QUESTIONS_KEPT + 9)]
        tasks = [asyncio.ensure_future(server.questions.ask([one])) for one in asked]
        while len([task for task in tasks if task.done()]) < 9:
            await asyncio.sleep(0)
        server.answer = row("x") + READY
        for _ in range(QUESTIONS_KEPT):
            server.questions.inquired()
        await asyncio.gather(*tasks)

    asyncio.run(play())
    assert len(server.words) == len(server.asked) == QUESTIONS_KEPT


@pytest.mark.parametrize("idle", [True, False])
def test_a_part_may_need_a_login(idle: bool) -> None:
    server = Server(idle=idle)
    answer = row("user") + row("ISO, MDY") + row("ISO, MDY") + READY
    asyncio.run(server.ask(ISO, answers=(answer,) if idle else ()))
    assert server.logins == [ISO]
    assert server.words.look_up(*ISO) == "ISO, YMD"


def test_a_login_that_fails_is_not_made_again_at_once(clock: list[float]) -> None:
    server = Server(idle=False)
    server.login_error = LoginError("too many clients", "53300")
    for _ in range(3):
        asyncio.run(server.ask(ISO, answers=()))
    assert server.logins == [ISO]
    clock[0] += LOGIN_RETRY_S
    server.login_error = None
    asyncio.run(server.ask(ISO, answers=()))
    assert server.words.look_up(*ISO) == "ISO, YMD"
