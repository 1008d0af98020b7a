# SPDX-License-Identifier: MIT
"""Error messages we write, error messages we read, and the reasons for closing."""

from __future__ import annotations

import re
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler import errors
from pooler.errors import CLOSE_REASON_ROWS, ConfigError
from pooler.session.records import CloseReason
from tests.reference import wire_ref

SQLSTATE = re.compile(r"[0-9A-Z]{5}")
TEXT = st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"]), max_size=300)


def fields_of(raw: bytes) -> dict[str, str]:
    """Field type to value; "Error and Notice Message Fields"."""
    events = wire_ref.scan("server", raw)
    assert events == ([(ord("E"), 0, len(raw) - 1)], None, 0, 0)
    body = raw[5:]
    assert body[-2:] == b"\0\0"
    return {chr(part[0]): part[1:].decode() for part in body[:-2].split(b"\0")}


@given(
    severity=st.sampled_from(["ERROR", "FATAL", "PANIC"]),
    sqlstate=st.from_regex(SQLSTATE, fullmatch=True),
    text=TEXT,
)
def test_error_response_says_what_it_was_given(
    probe: ModuleType, severity: str, sqlstate: str, text: str
) -> None:
    raw = probe.error_response(severity, sqlstate, text)
    fields = fields_of(raw)
    assert fields == {"S": severity, "V": severity, "C": sqlstate, "M": text}
    assert list(fields) == ["S", "V", "C", "M"]
    assert probe.is_fatal(raw[5:]) == (severity != "ERROR")


def test_close_reason_rows_are_the_enumerators_in_order() -> None:
    names = [reason.name for reason in sorted(CloseReason)]
    assert names.pop() == "CLOSE_REASONS"
    assert [row[0] for row in CLOSE_REASON_ROWS] == names
    assert [int(reason) for reason in sorted(CloseReason)] == list(
        range(len(names) + 1)
    )


@pytest.mark.parametrize(
    "row", CLOSE_REASON_ROWS, ids=[r[0] for r in CLOSE_REASON_ROWS]
)
def test_close_reason_can_be_told_to_a_client(row: tuple[str, str, str]) -> None:
    _, text, sqlstate = row
    assert sqlstate == "" or SQLSTATE.fullmatch(sqlstate)
    assert text == text.strip()
    assert not text.endswith(".")
    assert text.isascii()
    assert len(text) < 80


def test_sqlstate_constants_have_five_characters() -> None:
    states = {
        name: value
        for name, value in vars(errors).items()
        if name.isupper() and isinstance(value, str)
    }
    assert states
    assert all(SQLSTATE.fullmatch(value) for value in states.values())


def test_config_error_says_where_and_what() -> None:
    error = ConfigError("must be positive", file="p.ini", line=3, setting="pool_size")
    assert str(error) == "p.ini:3: pool_size: must be positive"
    assert str(ConfigError("no such file")) == "no such file"


V = b"SFATAL\0"  # translated in other locales, so it decides nothing


@pytest.mark.parametrize(
    "body",
    [
        b"SFATAL\0VFATAL\0C57P01\0Mbye\0\0",
        b"VPANIC\0\0",
        b"VFATAL\0",  # its end is missing, its field V is whole
        "SFATALE\0VFATAL\0C57P01\0März\0\0".encode(),
        b"MVERROR\0VFATAL\0\0",
        b"X\0VFATAL\0\0",  # an empty field of an unknown type in front
    ],
)
def test_fatal_bodies(probe: ModuleType, body: bytes) -> None:
    assert probe.is_fatal(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        b"V",
        b"V\0\0",
        b"VFATAL",
        b"VFATA\0\0",
        b"VFATALE\0\0",
        b"Vfatal\0\0",
        b"VERROR\0\0",
        b"VERROR\0VFATAL\0\0",  # the first V decides
        V + b"\0",  # before PostgreSQL 9.6 there is no field V
        V + b"C57P01\0MVFATAL\0\0",
        b"\0VFATAL\0\0",  # behind the end of the body
        b"MVFATAL\0\0",
        b"SFATAL",
        b"S" * 300,
        b"SFATAL\0VFAT",
    ],
)
def test_bodies_that_are_not_fatal(probe: ModuleType, body: bytes) -> None:
    assert not probe.is_fatal(body)


@given(body=st.binary(max_size=64))
def test_any_body_gets_an_answer(probe: ModuleType, body: bytes) -> None:
    fields = []
    for part in body.split(b"\0")[:-1]:
        if not part:
            break
        fields.append(part)
    first = next((part for part in fields if part[:1] == b"V"), b"")
    assert probe.is_fatal(body) == (first in (b"VFATAL", b"VPANIC"))
