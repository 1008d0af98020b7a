# SPDX-License-Identifier: MIT
"""The relay by example: what is forwarded, when a server is free again."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from pooler.session.records import ClientState, ServerState
from tests.feeding import (
    BATCH_DONE,
    BIND,
    BIND_COMPLETE,
    COMPLETE,
    COPY_DONE,
    COPY_FAIL,
    COPY_IN,
    EXECUTE,
    FLUSH,
    NO_DATA,
    NOTICE,
    NOTIFICATION,
    PARSE_COMPLETE,
    SELECTED,
    SYNC,
    TERMINATE,
    batch,
    copy_data,
    error,
    message,
    parameter,
    parse,
    query,
    ready,
    row,
)

DEFAULTS = (b"", b"ISO, MDY")
FATAL = error("bye", "FATAL", "57P01")
SET_X = message("Q", b"SET application_name=E'x';\0")
X = (b"x", b"ISO, MDY")
TO_COPY = PARSE_COMPLETE + BIND_COMPLETE + NO_DATA + COPY_IN  # answer to batch("copy")


class Pair:
    """A pool with one server and one client; ``server`` is attached when asked."""

    def __init__(self, bench: Any, parameters: tuple[bytes | None, ...]) -> None:
        self.bench = bench
        self.server = bench.add_server(DEFAULTS)
        self.client = bench.add_client(parameters)

    def ask(self, *messages: bytes, status: str = "ok") -> bytes:
        """Feed the client; returns what went to the server."""
        server, out, got = self.bench.client_feed(self.client, b"".join(messages))
        assert got == status
        assert server in (None, self.server)
        return bytes(out)

    def say(self, *messages: bytes, status: str = "ok") -> bytes:
        """Feed the server; returns what went to the client."""
        _, out, got = self.bench.server_feed(self.server, b"".join(messages))
        assert got == status
        return bytes(out)

    @property
    def free(self) -> bool:
        state, client, _ = self.bench.server_state(self.server)
        assert (state == ServerState.SERVER_IDLE) == (client is None)
        return client is None

    @property
    def gone(self) -> bool:
        """The server was closed instead of being used again."""
        return bool(
            self.bench.server_state(self.server)[0] == ServerState.SERVER_CLOSED
        )

    @property
    def requests(self) -> bytes:
        return bytes(self.bench.server_state(self.server)[2])


Make = Callable[..., Pair]


@pytest.fixture
def make(probe: ModuleType) -> Make:
    def pair(parameters: tuple[bytes | None, ...] = DEFAULTS) -> Pair:
        return Pair(probe.Bench(), parameters)

    return pair


@pytest.fixture
def pair(make: Make) -> Pair:
    return make()


# ------------------------------------------------------------ the release rule


def test_bytes_pass_unchanged_and_the_server_is_free_after_ready(pair: Pair) -> None:
    assert pair.ask(query()) == query()
    assert not pair.free
    assert pair.say(SELECTED[:-1]) == SELECTED[:-6]
    assert not pair.free
    assert pair.say(SELECTED[-1:]) == ready()
    assert pair.free


@pytest.mark.parametrize("status", ["T", "E"])
def test_a_transaction_keeps_its_server(pair: Pair, status: str) -> None:
    pair.ask(query("begin"))
    pair.say(COMPLETE, ready(status))
    assert not pair.free
    pair.ask(query("rollback"))
    pair.say(COMPLETE, ready("I"))
    assert pair.free


def test_each_pipelined_sync_needs_its_ready(pair: Pair) -> None:
    pair.ask((batch() + SYNC) * 3)
    for _ in range(2):
        pair.say(BATCH_DONE, ready())
        assert not pair.free
    pair.say(BATCH_DONE, ready())
    assert pair.free


def test_pipelined_queries_need_all_their_readies(pair: Pair) -> None:
    pair.ask(query() * 2)
    pair.say(SELECTED)
    assert not pair.free
    pair.say(SELECTED)
    assert pair.free


@pytest.mark.parametrize("flush", [b"", FLUSH])
def test_a_batch_without_its_sync_keeps_its_server(pair: Pair, flush: bytes) -> None:
    """Its statements and portals, and the implicit transaction, end at the Sync."""
    pair.ask(parse(), flush)
    pair.say(PARSE_COMPLETE)
    assert not pair.free
    pair.ask(BIND, EXECUTE, flush)
    pair.say(BIND_COMPLETE, row(), COMPLETE)
    assert not pair.free
    pair.ask(SYNC)
    pair.say(ready())
    assert pair.free


def test_a_message_cut_in_its_body_keeps_its_server(pair: Pair) -> None:
    pair.ask(query(), copy_data()[:6])
    pair.say(SELECTED)
    assert not pair.free
    assert pair.ask(copy_data()[6:]) == copy_data()[6:]
    assert pair.free


def test_half_a_header_stays_with_the_client_over_a_release(pair: Pair) -> None:
    assert pair.ask(query(), SYNC[:3]) == query()
    pair.say(SELECTED)
    assert pair.free
    assert pair.bench.client_state(pair.client) == (ClientState.CLIENT_IDLE, None, 3)
    assert pair.ask(SYNC[3:]) == SYNC
    pair.say(ready())
    assert pair.free


# ------------------------------------------------------ errors in the extended way


def test_an_error_skips_to_the_sync(pair: Pair) -> None:
    pair.ask(batch() + SYNC + batch() + SYNC)
    pair.say(PARSE_COMPLETE, error())
    assert pair.requests == b"SPBDES"
    pair.say(ready())
    assert not pair.free
    pair.say(BATCH_DONE, ready())
    assert pair.free


def test_an_error_skips_to_a_sync_that_comes_later(pair: Pair) -> None:
    pair.ask(batch())
    pair.say(error())
    assert not pair.free
    assert pair.ask(batch()) == batch()  # forwarded, and ignored by PostgreSQL
    assert pair.requests == b""
    assert not pair.free
    pair.ask(SYNC)
    pair.say(ready())
    assert pair.free


def test_a_query_behind_an_unsynced_batch_ends_it(pair: Pair) -> None:
    pair.ask(batch(), query())
    pair.say(BATCH_DONE)
    assert not pair.free
    pair.say(SELECTED)
    assert pair.gone


def test_a_query_behind_a_failed_unsynced_batch_gets_no_answer(pair: Pair) -> None:
    pair.ask(batch(), query())
    pair.say(error())
    assert pair.requests == b""
    assert not pair.free
    pair.ask(SYNC)
    pair.say(ready())
    assert pair.gone


def test_a_failed_simple_query_skips_nothing(pair: Pair) -> None:
    pair.ask(query() * 2)
    pair.say(error(), ready())
    assert pair.requests == b"Q"
    pair.say(SELECTED)
    assert pair.free


# ------------------------------------------------------------------------ COPY


@pytest.mark.parametrize(
    ("end", "answer"), [(COPY_DONE, COMPLETE), (COPY_FAIL, error())]
)
def test_copy_in_of_a_simple_query(pair: Pair, end: bytes, answer: bytes) -> None:
    pair.ask(query("copy"))
    assert pair.say(COPY_IN) == COPY_IN
    assert pair.ask(copy_data(), copy_data()) == copy_data() * 2
    assert not pair.free
    assert pair.ask(end) == end
    assert not pair.free
    pair.say(answer, ready())
    assert pair.free


@pytest.mark.parametrize("early", [0, 1, 2])
def test_copy_in_of_an_extended_query_ignores_early_syncs(
    pair: Pair, early: int
) -> None:
    pair.ask(batch("copy"), SYNC * early)
    pair.say(TO_COPY)
    assert pair.requests == b"E"
    assert pair.ask(SYNC) == SYNC  # early as well, but after CopyInResponse
    assert pair.requests == b"E"
    pair.ask(copy_data(), COPY_DONE, SYNC)
    pair.say(COMPLETE)
    assert not pair.free
    pair.say(ready())
    assert pair.free


def test_copy_sent_whole_before_its_response(pair: Pair) -> None:
    pair.ask(query("copy"), copy_data(), COPY_DONE)
    pair.say(COPY_IN)
    assert not pair.free
    pair.say(COMPLETE, ready())
    assert pair.free


def test_extended_copy_sent_whole_before_its_response(pair: Pair) -> None:
    pair.ask(batch("copy"), SYNC, copy_data(), COPY_DONE, SYNC)
    pair.say(TO_COPY)
    assert pair.requests == b"ES"
    pair.say(COMPLETE, ready())
    assert pair.free


def test_copy_done_of_a_copy_that_never_opened_is_forgotten(pair: Pair) -> None:
    pair.ask(query("copy"), copy_data(), COPY_DONE, query())
    pair.say(error(), ready())
    assert pair.requests == b"Q"
    pair.say(SELECTED)
    assert pair.free


def test_copy_done_behind_a_batch_that_was_no_copy_is_forgotten(pair: Pair) -> None:
    pair.ask(batch(), FLUSH, COPY_DONE, query())
    pair.say(BATCH_DONE)
    assert pair.requests == b"Q"
    pair.say(error(), ready())
    assert pair.requests == b""


@pytest.mark.parametrize("end", [COPY_DONE, COPY_FAIL])
def test_copy_failed_early_stays_linked_until_its_end(pair: Pair, end: bytes) -> None:
    pair.ask(query("copy"))
    pair.say(COPY_IN, error(), ready())
    assert not pair.free
    assert pair.ask(copy_data()) == copy_data()
    assert not pair.free
    assert pair.ask(end) == end
    assert pair.free


@pytest.mark.parametrize(
    ("request_", "answer"),
    [(query(), SELECTED), (batch() + SYNC, BATCH_DONE + ready()), (SYNC, ready())],
    ids=["Query", "batch", "Sync"],
)
def test_copy_failed_early_is_given_up_by_the_next_request(
    pair: Pair, request_: bytes, answer: bytes
) -> None:
    pair.ask(query("copy"))
    pair.say(COPY_IN, error(), ready())
    pair.ask(request_)
    assert not pair.free
    pair.say(answer)
    assert pair.free


@pytest.mark.parametrize("end", [b"", COPY_DONE])
def test_extended_copy_failed_early_is_over_at_its_sync(pair: Pair, end: bytes) -> None:
    pair.ask(batch("copy"))
    pair.say(TO_COPY)
    pair.ask(copy_data())
    pair.say(error())
    pair.ask(end, SYNC)
    assert pair.requests == b"S"
    pair.say(ready())
    assert pair.free


def test_request_behind_the_sync_of_a_failed_copy_keeps_its_server(pair: Pair) -> None:
    """ReadyForQuery of the Sync must not be taken for that of the Query."""
    pair.ask(batch("copy"))
    pair.say(TO_COPY, error())
    pair.ask(SYNC, query())
    pair.say(ready())
    assert not pair.free
    assert pair.say(SELECTED) == SELECTED
    assert pair.free


def test_copy_failed_before_its_early_sync_was_read(pair: Pair) -> None:
    """COPY FREEZE can fail behind CopyInResponse; then the Sync does get an answer."""
    pair.ask(batch("copy"), SYNC)
    pair.say(TO_COPY, error(), ready())
    pair.ask((batch() + SYNC) * 2)
    pair.say(BATCH_DONE, ready())
    assert not pair.free
    assert pair.say(BATCH_DONE, ready()) == BATCH_DONE + ready()
    assert pair.gone


@pytest.mark.parametrize(
    "late", [FLUSH, copy_data(), COPY_DONE, COPY_FAIL], ids=["H", "d", "c", "f"]
)
def test_local_messages_without_a_server_are_dropped(pair: Pair, late: bytes) -> None:
    assert pair.ask(late) == b""
    assert pair.free
    assert pair.ask(late, query(), late) == query() + late


def test_a_cut_message_without_a_server_is_dropped_to_its_end(pair: Pair) -> None:
    late = copy_data(b"x" * 40)
    assert pair.ask(late[:9]) == b""
    assert pair.ask(late[9:20]) == b""
    assert pair.ask(late[20:], query()) == query()


# ----------------------------------------------------- goodbye, and broken clients


def test_terminate_is_not_forwarded(pair: Pair) -> None:
    assert pair.ask(query(), TERMINATE, status="terminate") == query()
    assert pair.bench.drop_client(pair.client) == pair.server


def test_terminate_of_an_idle_client_leaves_the_server(pair: Pair) -> None:
    assert pair.ask(TERMINATE, status="terminate") == b""
    assert pair.bench.drop_client(pair.client) is None
    assert pair.free


def test_what_was_good_before_a_bad_message_is_forwarded(pair: Pair) -> None:
    assert pair.ask(query(), b"\0\0\0\0\4", status="client_proto") == query()


def test_a_client_without_a_server_waits_and_goes_on(probe: ModuleType) -> None:
    bench = probe.Bench()
    first, second = bench.add_client(DEFAULTS), bench.add_client(DEFAULTS)
    assert bench.client_feed(first, query("1")) == (None, b"", "wait")
    assert bench.client_feed(second, query("2")) == (None, b"", "wait")
    server = bench.add_server(DEFAULTS)
    assert bench.take_woken() == [(first, server, query("1"), "ok")]
    bench.server_feed(server, SELECTED)
    assert bench.take_woken() == [(second, server, query("2"), "ok")]


# ------------------------------------------------------------------ idle servers


@pytest.mark.parametrize(
    "unasked",
    [NOTIFICATION, NOTICE, parameter("TimeZone", "UTC")],
    ids=["NotificationResponse", "NoticeResponse", "ParameterStatus"],
)
@pytest.mark.parametrize("cut", [None, 3, 9])
def test_what_an_idle_server_may_say_reaches_no_client(
    pair: Pair, unasked: bytes, cut: int | None
) -> None:
    for part in [unasked] if cut is None else [unasked[:cut], unasked[cut:]]:
        assert pair.say(part) == b""
    assert pair.free
    assert pair.ask(query()) == query()
    assert pair.say(SELECTED) == SELECTED


@pytest.mark.parametrize("unasked", [NOTIFICATION, NOTICE], ids=["A", "N"])
def test_end_of_a_message_begun_while_idle_reaches_no_client(
    pair: Pair, unasked: bytes
) -> None:
    """Its beginning was dropped; its end alone would break the client's stream."""
    assert pair.say(unasked[:9]) == b""
    assert pair.ask(query()) == query()
    assert pair.say(unasked[9:], SELECTED) == SELECTED


@pytest.mark.parametrize("cut", [None, 5, 12])
def test_error_of_an_idle_server_means_it_goes_away(
    pair: Pair, cut: int | None
) -> None:
    assert pair.say(FATAL[:cut], status="server_dead") == b""


@pytest.mark.parametrize("bad", [row(), COMPLETE, ready(), COPY_IN, b"\0\0\0\0\4"])
def test_answer_of_an_idle_server_is_an_error(pair: Pair, bad: bytes) -> None:
    assert pair.say(bad, status="server_proto") == b""


@pytest.mark.parametrize(
    "bad", [message("S"), message("S", b"ab"), message("S", b"a\0b"), b"Z\0\0\0\6II"]
)
def test_malformed_message_of_a_server_is_an_error(pair: Pair, bad: bytes) -> None:
    pair.ask(query())
    assert pair.say(row(), bad, status="server_proto").startswith(row())


def test_fatal_error_is_noticed(pair: Pair) -> None:
    pair.ask(query())
    pair.say(error())
    assert not pair.bench.fatal_seen(pair.server)
    assert pair.say(FATAL) == FATAL
    assert pair.bench.fatal_seen(pair.server)


@pytest.mark.parametrize("cut", range(1, len(FATAL)))
def test_fatal_error_in_pieces_reaches_the_client_whole(pair: Pair, cut: int) -> None:
    """It is noticed as FATAL when its field V is in the first piece."""
    pair.ask(query())
    assert pair.say(FATAL[:cut]) + pair.say(FATAL[cut:]) == FATAL
    if not 5 <= cut <= FATAL.index(b"\0C"):
        assert pair.bench.fatal_seen(pair.server)


# ------------------------------------------------------------------- parameters


def accept(pair: Pair, *values: tuple[str, str]) -> bytes:
    """The server accepts a SET and reports these values; what the client sees."""
    reports = b"".join(parameter(*value) for value in values)
    return pair.say(reports, message("C", b"SET\0"), ready())


@pytest.mark.parametrize("parameters", [DEFAULTS, (None, None), (None, b"ISO, MDY")])
def test_no_set_when_nothing_differs(
    make: Make, parameters: tuple[bytes | None, ...]
) -> None:
    assert make(parameters).ask(query()) == query()


def test_set_names_only_what_differs(make: Make) -> None:
    assert make(X).ask(query(), status="align") == SET_X
    both = message("Q", b"SET application_name=E'x';SET DateStyle=E'SQL, DMY';\0")
    assert make((b"x", b"SQL, DMY")).ask(query(), status="align") == both


@pytest.mark.parametrize(
    ("style", "whole"),
    [
        *((style, True) for style in (b"ISO, YMD", b"SQL, MDY", b"Postgres, DMY")),
        *((style, False) for style in (b"iso", b"dmy", b"", b"German", b"German,DMY")),
        *((style, False) for style in (b", DMY", b"IS, DMY", b"x" * 4000 + b", DMY")),
        (b"EURO, DMY", False),
    ],
)
def test_part_of_a_date_style_is_set_on_the_default(
    make: Make, style: bytes, whole: bool
) -> None:
    """Not on what the last client of the server had."""
    first = b"" if whole else b"SET DateStyle TO DEFAULT;"
    expected = message("Q", first + b"SET DateStyle=E'" + style + b"';\0")
    assert make((b"", style)).ask(query(), status="align") == expected


def test_set_escapes_quotes_and_backslashes(make: Make) -> None:
    out = make((rb"a'b\c'\ ", b"ISO, MDY")).ask(query(), status="align")
    assert out == message("Q", rb"SET application_name=E'a''b\\c''\\ ';" + b"\0")


def test_request_is_held_until_the_values_are_accepted(make: Make) -> None:
    pair = make(X)
    assert pair.ask(query(), status="align") == SET_X
    assert pair.ask(SYNC, status="aligning") == b""
    assert accept(pair, ("application_name", "x")) == b""
    sent = query() + SYNC
    assert pair.bench.take_woken() == [(pair.client, pair.server, sent, "ok")]
    assert pair.requests == b"QS"
    assert pair.say(SELECTED, ready()) == SELECTED + ready()
    assert pair.free


def test_set_travels_with_the_request_once_accepted(make: Make) -> None:
    pair = make(X)
    pair.ask(query(), status="align")
    accept(pair, ("application_name", "x"))
    pair.say(SELECTED)
    other = pair.bench.add_client(DEFAULTS)  # resets the server's value
    pair.bench.client_feed(other, query())
    pair.say(parameter("application_name", ""), message("C", b"SET\0"), ready())
    assert pair.say(SELECTED) == SELECTED
    assert pair.ask(query()) == SET_X + query()
    assert accept(pair, ("application_name", "x")) == b""
    assert pair.say(SELECTED) == SELECTED
    assert pair.free


def test_value_in_the_words_of_the_server_is_taken_over(make: Make) -> None:
    pair = make((b"", b"iso"))
    pair.ask(query(), status="align")
    assert accept(pair) == parameter("DateStyle", "ISO, MDY")  # unchanged: no report
    pair.say(SELECTED)
    assert pair.ask(query()) == query()


def test_value_set_by_the_client_follows_it(make: Make) -> None:
    pair = make()
    pair.ask(query("set application_name to x"))
    told = parameter("application_name", "x")
    assert pair.say(told, COMPLETE, ready()) == told + COMPLETE + ready()
    pair.bench.drop_server(pair.server)
    pair.server = pair.bench.add_server(DEFAULTS)
    assert pair.ask(query()) == SET_X + query()


@pytest.mark.parametrize("cut", [0, 4, 5, 14])
def test_refused_set_fails_with_the_error_of_the_server(make: Make, cut: int) -> None:
    """The pair may only be given up when the client has the whole error."""
    pair = make(X)
    pair.ask(query(), status="align")
    whole = error("invalid value")
    out = pair.say(whole[:cut])
    assert out + pair.say(whole[cut:], status="align_failed") == whole


def test_refused_set_in_front_of_a_request_fails_the_same(make: Make) -> None:
    pair = make(X)
    pair.ask(query(), status="align")
    accept(pair, ("application_name", "x"))
    pair.say(SELECTED)
    pair.bench.drop_server(pair.server)
    pair.server = pair.bench.add_server(DEFAULTS)
    assert pair.ask(query()) == SET_X + query()
    assert pair.say(error(), ready(), status="align_failed") == error()


def test_interned_values_are_freed_with_the_last_user(probe: ModuleType) -> None:
    bench = probe.Bench()
    assert bench.parameter_counts() == (0, 0)
    server = bench.add_server(DEFAULTS)
    before = bench.parameter_counts()
    for value in (b"a", b"b"):
        client = bench.add_client((value, b"iso"))
        bench.client_feed(client, query())
        bench.server_feed(
            server, parameter("application_name", value.decode()) + COMPLETE + ready()
        )
        bench.server_feed(server, parameter("DateStyle", "German") + SELECTED)
        bench.drop_client(client)
    last = parameter("application_name", "") + parameter("DateStyle", "ISO, MDY")
    bench.server_feed(server, last)
    assert bench.parameter_counts() == before
    bench.drop_server(server)
    assert bench.parameter_counts() == (0, 0)


def test_untracked_and_unusable_values_are_passed_on_only(pair: Pair) -> None:
    before = pair.bench.parameter_counts()
    reports = [
        parameter("search_path", "x"),
        parameter("application_name", "y" * 4097),
        message("S", struct.pack("17s", b"application_name") + b"\xc3\xa9\0"),
    ]
    pair.ask(query())
    assert pair.say(*reports) == b"".join(reports)
    assert pair.bench.parameter_counts() == before
