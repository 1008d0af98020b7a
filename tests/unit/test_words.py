# SPDX-License-Identifier: MIT
"""What is learned of the values that clients ask for: bounds, ends, answers."""

from __future__ import annotations

import struct

import pytest

from pooler.errors import LoginError
from pooler.login import packets
from pooler.worker.words import (
    LONGEST_KEPT_BYTES,
    REFUSED_S,
    WORDS_KEPT,
    Learn,
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


def failed(code: str) -> bytes:
    body = report(S="FEHLER", V="ERROR", C=code, M="falsch", R="f")
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
