# SPDX-License-Identifier: MIT
"""Inquiries: an idle server is asked, nobody is passed, and the answer is whole."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from pooler.session.records import ServerState
from tests.feeding import (
    COMPLETE,
    NOTICE,
    ROW_DESCRIPTION,
    SELECTED,
    error,
    message,
    parameter,
    query,
    ready,
    row,
)

DEFAULTS = (b"", b"ISO, MDY")
ASK = query("SELECT set_config()")
ANSWER = ROW_DESCRIPTION + row(b"UTC") + COMPLETE + ready()
REFUSED = error("invalid value", "ERROR", "22023") + ready()
GOODBYE = error("terminating connection", "FATAL", "57P01")
SECOND_US = 1_000_000
LONGEST_BYTES = 32768


@pytest.fixture(params=[0, 10], ids=["plain", "tracked"])
def bench(probe: ModuleType, request: pytest.FixtureRequest) -> Any:
    """A pool with one server, with and without prepared statements."""
    made = probe.Bench(max_servers=1, max_prepared_statements=request.param)
    assert made.add_server(DEFAULTS) == 0
    return made


def state(bench: Any) -> ServerState:
    return ServerState(bench.server_state(0)[0])


@pytest.mark.parametrize("answer", [ANSWER, REFUSED, NOTICE + ANSWER], ids=len)
def test_answer_in_any_pieces(bench: Any, answer: bytes) -> None:
    for at in range(len(answer)):
        assert bench.inquire(ASK)
        assert bench.take_sent() == [("server", 0, ASK)]
        assert state(bench) == ServerState.SERVER_TESTED
        bench.server_feed(0, answer[:at])
        assert bench.take_inquiries() == []
        bench.server_feed(0, answer[at:])
        assert bench.take_inquiries() == [answer]
        assert state(bench) == ServerState.SERVER_IDLE
    assert bench.take_closed() == []


def test_each_byte_alone(bench: Any) -> None:
    assert bench.inquire(ASK)
    for at in range(len(REFUSED)):
        bench.server_feed(0, REFUSED[at : at + 1])
    assert bench.take_inquiries() == [REFUSED]


def test_one_at_a_time(bench: Any) -> None:
    assert bench.inquire(ASK)
    assert not bench.inquire(ASK)
    bench.server_feed(0, ANSWER)
    assert bench.inquire(ASK)
    assert bench.take_inquiries() == [ANSWER]


def test_a_server_at_work_is_not_asked(bench: Any) -> None:
    client = bench.add_client(DEFAULTS)
    bench.client_feed(client, query())
    bench.take_sent()
    assert not bench.inquire(ASK)
    assert bench.take_sent() == []
    bench.server_feed(0, SELECTED)
    assert bench.inquire(ASK)


def test_who_comes_meanwhile_is_served_next(bench: Any) -> None:
    """By the server that was asked, and before another question."""
    client, other = bench.add_client(DEFAULTS), bench.add_client(DEFAULTS)
    assert bench.inquire(ASK)
    for one in (client, other):
        assert bench.client_feed(one, query())[2] == "wait"
    assert bench.launches == 0  # this server will be back
    bench.take_sent()
    bench.server_feed(0, ANSWER)
    assert bench.take_sent() == [("server", 0, query())]
    assert not bench.inquire(ASK)
    bench.server_feed(0, SELECTED)
    assert bench.server_state(0)[1] == other
    assert not bench.inquire(ASK)
    assert bench.take_inquiries() == [ANSWER]


@pytest.mark.parametrize("cut", range(len(NOTICE) + 1))
def test_the_answer_begins_with_a_message(bench: Any, cut: int) -> None:
    """What is under way unasked is not taken for a part of it."""
    bench.server_feed(0, NOTICE[:cut])
    if bench.inquire(ASK):
        bench.server_feed(0, NOTICE[cut:] + ANSWER)
        [answer] = bench.take_inquiries()
        assert answer in (ANSWER, NOTICE + ANSWER)
    else:
        assert 4 < cut < len(NOTICE)
        bench.server_feed(0, NOTICE[cut:])
        assert bench.inquire(ASK)


def test_a_paused_pool_is_not_asked(bench: Any) -> None:
    bench.pause()
    assert not bench.inquire(ASK)
    assert bench.take_sent() == []


@pytest.mark.parametrize("said", [b"", ANSWER[:-1], GOODBYE], ids=len)
def test_a_server_that_is_lost(bench: Any, said: bytes) -> None:
    assert bench.inquire(ASK)
    bench.server_feed(0, said)
    bench.end_server(0)
    assert bench.take_inquiries() == [b""]
    client = bench.add_client(DEFAULTS)
    bench.client_feed(client, query())
    assert bench.launches == 1
    assert bench.add_server(DEFAULTS) == 1
    bench.server_feed(1, SELECTED)
    assert bench.inquire(ASK)
    assert bench.take_inquiries() == []
    bench.server_feed(1, ANSWER)
    assert bench.take_inquiries() == [ANSWER]


def test_a_server_that_says_nothing_is_closed(bench: Any) -> None:
    bench.limit(tested_us=SECOND_US)
    assert bench.inquire(ASK)
    bench.wait_until(SECOND_US // 2)
    assert bench.take_closed() == []
    bench.wait_until(2 * SECOND_US)
    assert [row[:2] for row in bench.take_closed()] == [("server", 0)]
    assert bench.take_inquiries() == [b""]


def test_what_no_server_may_say(bench: Any) -> None:
    assert bench.inquire(ASK)
    bench.server_feed(0, message("?", b"what"))
    assert bench.take_closed() == [("server", 0, "server_proto")]
    assert bench.take_inquiries() == [b""]


def test_an_endless_answer_is_not_kept(bench: Any) -> None:
    """Nor does it cost the server."""
    assert bench.inquire(ASK)
    long = message("N", b"Sx\0" + b"M" + b"x" * 4096 + b"\0\0")
    for _ in range(LONGEST_BYTES // len(long) + 1):
        bench.server_feed(0, long)
    bench.server_feed(0, ANSWER)
    assert bench.take_inquiries() == [b""]
    assert state(bench) == ServerState.SERVER_IDLE
    assert bench.inquire(ASK)
    bench.server_feed(0, ANSWER)
    assert bench.take_inquiries() == [ANSWER]


def test_values_that_change_meanwhile_are_noted(bench: Any) -> None:
    """Versions before 14 report what a transaction sets and takes back."""
    assert bench.inquire(ASK)
    changes = parameter("DateStyle", "German, DMY") + parameter("DateStyle", "ISO, MDY")
    bench.server_feed(0, changes + ANSWER)
    client = bench.add_client(DEFAULTS)
    bench.take_sent()
    bench.client_feed(client, query())
    assert bench.take_sent() == [("server", 0, query())]


def test_a_transaction_that_stays_open_is_rolled_back(bench: Any) -> None:
    assert bench.inquire(ASK)
    bench.take_sent()
    bench.server_feed(0, ROW_DESCRIPTION + row() + COMPLETE + ready("T"))
    assert bench.take_sent() == [("server", 0, query("ROLLBACK"))]
    bench.server_feed(0, message("C", b"ROLLBACK\0") + ready())
    assert state(bench) == ServerState.SERVER_IDLE


# What our SET has shown


TRACKED = ("application_name", "TimeZone", "DateStyle")
HAS = (b"", b"GMT", b"ISO, MDY")


@pytest.fixture
def pair(probe: ModuleType) -> Any:
    """A pool whose server has three parameters."""
    made = probe.Bench(max_servers=1, tracked=TRACKED)
    made.add_server(HAS)
    return made


def align(bench: Any, values: tuple[bytes, ...], *reports: bytes) -> list[bytes]:
    """Let a client with these values work; what was learned."""
    client = bench.add_client(values)
    bench.client_feed(client, query())
    bench.server_feed(0, message("C", b"SET\0") + b"".join(reports) + ready())
    bench.server_feed(0, SELECTED)
    bench.drop_client(client)
    learned: list[bytes] = bench.take_learned()
    return learned


def test_the_words_of_a_set_are_learned(pair: Any) -> None:
    said = parameter("TimeZone", "UTC")
    assert align(pair, (b"", b"utc", b"ISO, MDY"), said) == [b"TimeZone\0utc\0UTC\0"]


def test_a_value_in_the_servers_words_teaches_nothing(pair: Any) -> None:
    assert align(pair, (b"", b"UTC", b"ISO, MDY"), parameter("TimeZone", "UTC")) == []


def test_what_the_server_does_not_report_is_not_learned(pair: Any) -> None:
    """It has that value already, or never says."""
    assert align(pair, (b"", b"gmt", b"ISO, MDY")) == []


def test_neither_date_styles_nor_labels_are_learned_so(pair: Any) -> None:
    reports = (
        parameter("application_name", "cut"),
        parameter("DateStyle", "SQL, MDY"),
    )
    assert align(pair, (b"uncut", b"GMT", b"sql"), *reports) == []


def test_a_report_of_a_client_s_own_set_is_not_learned(pair: Any) -> None:
    client = pair.add_client(HAS)
    pair.client_feed(client, query("set timezone to utc"))
    pair.server_feed(0, parameter("TimeZone", "UTC") + COMPLETE + ready())
    assert pair.take_learned() == []


def test_what_is_learned_is_bounded(probe: ModuleType) -> None:
    """Long values, of which there is room for two."""
    bench = probe.Bench(max_servers=1, tracked=("a", "b", "c"))
    bench.add_server((b"", b"", b""))
    values = tuple(b"%d" % number * 4000 for number in range(3))
    reports = [parameter(name, "x" * 50) for name in "abc"]
    [learned] = align(bench, values, *reports)
    assert learned.count(b"\0") == 3 * 2
    assert align(bench, values, *reports) != []
