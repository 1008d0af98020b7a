# SPDX-License-Identifier: MIT
"""What a client has set is kept as commands that can be run again."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from tests.wire_client import SYNC, bind, execute, message, parse, query
from tests.wire_client import text as cstring

READY, IN_XACT = message("Z", b"I"), message("Z", b"T")
PARSED, BOUND = message("1"), message("2")
FAILED = message("E", b"SERROR\0C22023\0Mno\0\0")


def done(tag: str) -> bytes:
    return message("C", cstring(tag))


class One:
    """One client and one server, which says what the test wants."""

    def __init__(self, probe: ModuleType) -> None:
        self.bench: Any = probe.Bench(4, (), 100)
        self.bench.add_server()
        self.bench.add_client()

    def ask(self, request: bytes, *answers: bytes) -> None:
        assert self.bench.client_feed(0, request)[2] in ("ok", "align")
        assert self.bench.server_feed(0, b"".join(answers))[2] == "ok"

    @property
    def kept(self) -> tuple[list[bytes], bool]:
        texts, partial = self.bench.client_settings(0)
        return texts, partial


@pytest.fixture
def one(probe: ModuleType) -> One:
    return One(probe)


def test_what_is_set_is_kept_in_order(one: One) -> None:
    one.ask(query("SET search_path = a"), done("SET"), READY)
    one.ask(query("select 1"), done("SELECT 1"), READY)
    one.ask(query("/* x */ set role b;"), done("SET"), READY)
    assert one.kept == ([b"SET search_path = a", b"/* x */ set role b;"], False)


def test_prepared(one: One) -> None:
    request = parse("SET search_path = a", "s") + bind(statement="s") + execute()
    one.ask(request + SYNC, PARSED, BOUND, done("SET"), READY)
    assert one.kept == ([b"SET search_path = a"], False)


def test_only_what_is_committed_counts(one: One) -> None:
    one.ask(query("BEGIN"), done("BEGIN"), IN_XACT)
    one.ask(query("SET search_path = a"), done("SET"), IN_XACT)
    assert one.kept == ([], False)
    one.ask(query("COMMIT"), done("COMMIT"), READY)
    assert one.kept == ([b"SET search_path = a"], False)


@pytest.mark.parametrize("end", ["rollback", "error"])
def test_what_is_taken_back_is_not_kept(one: One, end: str) -> None:
    one.ask(query("SET my.own = 1"), done("SET"), READY)
    one.ask(query("BEGIN"), done("BEGIN"), IN_XACT)
    one.ask(query("SET search_path = a"), done("SET"), IN_XACT)
    if end == "error":
        one.ask(query("bad"), FAILED, message("Z", b"E"))
    one.ask(query("ROLLBACK"), done("ROLLBACK"), READY)
    assert one.kept == ([b"SET my.own = 1"], True)


@pytest.mark.parametrize(
    "text",
    [
        "select set_config('a.b', 'c', false)",
        "set a.b = 1; select 1",
        "create temp table t (a int)",
        "do $$ $$",
        "reset a.b",
        "set a.b = '%s'" % ("x" * 5000),
    ],
)
def test_what_cannot_be_run_again_is_said(one: One, text: str) -> None:
    one.ask(query(text), done("SET"), READY)
    assert one.kept == ([], True)


def test_discard_all_forgets(one: One) -> None:
    one.ask(query("SET search_path = a"), done("SET"), READY)
    one.ask(query("do $$ $$"), done("DO"), READY)
    one.ask(query("DISCARD ALL"), done("DISCARD ALL"), READY)
    assert one.kept == ([], False)


def test_what_leaves_nothing_is_not_kept(one: One) -> None:
    for text in ("SET LOCAL a.b = 1", "SET TRANSACTION READ ONLY", "RESET b"):
        one.ask(query(text), done("SET"), READY)
    assert one.kept == ([], False)
