# SPDX-License-Identifier: MIT
"""The step by example: how connections end, what is left behind, what time does."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from pooler.session.records import ClientState, ServerState
from tests.feeding import (
    BATCH_DONE,
    COMPLETE,
    COPY_IN,
    FLUSH,
    NO_DATA,
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
BIND_COMPLETE = message("2")
TO_COPY = PARSE_COMPLETE + BIND_COMPLETE + NO_DATA + COPY_IN
ROLLBACK, DISCARD = query("ROLLBACK"), query("DISCARD ALL")
CANCELLED = error("canceling statement due to user request", "ERROR", "57014")
SET_X = message("Q", b"SET application_name=E'x';\0")
X = (b"x", b"ISO, MDY")
SECOND_US = 1_000_000


class World:
    """A pool with one server, which cancels what vanished clients have left."""

    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.server = bench.add_server(DEFAULTS)

    def client(self, parameters: tuple[bytes, ...] = DEFAULTS) -> int:
        return int(self.bench.add_client(parameters))

    def ask(self, client: int, *messages: bytes) -> str:
        """Feed a client; its status."""
        return str(self.bench.client_feed(client, b"".join(messages))[2])

    def say(self, *messages: bytes) -> bytes:
        """Feed the server; what a client has got."""
        return bytes(self.bench.server_feed(self.server, b"".join(messages))[1])

    def sent(self) -> bytes:
        """What the server was sent since the last call."""
        return b"".join(
            data for kind, _, data in self.bench.take_sent() if kind == "server"
        )

    def told(self, client: int) -> bytes:
        """What a client was sent since the last call."""
        return b"".join(
            data
            for kind, i, data in self.bench.take_sent()
            if (kind, i) == ("client", client)
        )

    def has_left(self, client: int) -> bool:
        return bool(self.bench.client_state(client)[0] == ClientState.CLIENT_CLOSED)

    def is_in(self, state: ServerState) -> bool:
        """Whether the server is in this state."""
        return bool(self.bench.server_state(self.server)[0] == state)

    def clean(self) -> None:
        """The server is rolled back, reset and idle again."""
        said = self.sent()
        if said.endswith(ROLLBACK):
            self.say(message("C", b"ROLLBACK\0"), ready())
            said = self.sent()
        assert said == DISCARD
        self.say(message("C", b"DISCARD ALL\0"), ready())
        assert self.is_in(ServerState.SERVER_IDLE)


@pytest.fixture
def world(probe: ModuleType) -> World:
    return World(probe.Bench(cancel_abandoned=True))


# ------------------------------------------------------------ sends that fail


@pytest.mark.parametrize("cut", range(len(SELECTED)))
def test_nothing_of_a_server_is_lost_with_its_client(world: World, cut: int) -> None:
    """The read ends anywhere, also inside a header, and the send of it fails."""
    client, other = world.client(), world.client()
    world.ask(client, query())
    world.sent()
    world.bench.make_broken(client)
    world.say(SELECTED[:cut])
    assert world.has_left(client) == (cut > 4)
    if not world.has_left(client):
        world.bench.drop_client(client)
    if cut < len(SELECTED):
        assert world.bench.take_cancels() == [world.server]
        world.bench.cancelled(world.server)
    world.say(SELECTED[cut:])
    world.clean()
    assert world.ask(other, query()) == "ok"
    assert world.say(SELECTED) == SELECTED
    assert world.bench.take_closed() == [("client", client, "client_eof")]


def test_a_slow_client_keeps_its_server_until_it_has_its_answer(world: World) -> None:
    client, other = world.client(), world.client()
    world.ask(client, query())
    world.bench.make_slow(client)
    world.say(SELECTED)
    assert world.ask(other, query()) == "wait"
    assert world.bench.take_in(client) == SELECTED
    assert world.bench.take_woken() == [(other, world.server, query(), "ok")]


# ------------------------------------------------------------ goodbye


def test_goodbye_waits_for_the_answers(world: World) -> None:
    client = world.client()
    world.ask(client, query(), batch(), SYNC, TERMINATE)
    world.say(SELECTED)
    assert not world.has_left(client)
    assert world.say(BATCH_DONE, ready()) == BATCH_DONE + ready()
    assert world.has_left(client)
    assert world.is_in(ServerState.SERVER_IDLE)


FAILURE = message("D", b"P\1pooler: client left\0")


@pytest.mark.parametrize("flush", [FLUSH, b""])
def test_goodbye_inside_a_batch(world: World, flush: bytes) -> None:
    """PostgreSQL closes at once, and commits nothing of it."""
    client = world.client()
    world.ask(client, batch("insert"), flush, TERMINATE)
    assert world.sent() == batch("insert") + flush + FLUSH
    assert world.say(BATCH_DONE) == BATCH_DONE
    assert world.has_left(client)
    assert world.sent() == FAILURE + SYNC
    world.say(error(), ready())
    world.clean()
    assert world.bench.take_cancels() == []


def test_goodbye_behind_the_answers_of_a_batch(world: World) -> None:
    client = world.client()
    world.ask(client, parse(), FLUSH)
    world.say(PARSE_COMPLETE)
    world.ask(client, TERMINATE)
    assert world.has_left(client)


def test_goodbye_behind_a_failed_batch(world: World) -> None:
    client = world.client()
    world.ask(client, batch(), FLUSH)
    world.say(error())
    world.ask(client, TERMINATE)
    assert world.has_left(client)
    assert world.sent().endswith(FLUSH + SYNC)
    world.say(ready())
    world.clean()


@pytest.mark.parametrize(
    ("asked", "answer"), [(query("copy"), COPY_IN), (batch("copy") + SYNC, TO_COPY)]
)
def test_goodbye_inside_a_copy(world: World, asked: bytes, answer: bytes) -> None:
    client = world.client()
    world.ask(client, asked)
    world.say(answer)
    world.ask(client, copy_data(), TERMINATE)
    assert world.has_left(client)
    assert message("f", b"client left\0") in world.sent()


def test_goodbye_in_a_transaction(world: World) -> None:
    client = world.client()
    world.ask(client, query("begin"))
    world.say(COMPLETE, ready("T"))
    world.ask(client, TERMINATE)
    assert world.has_left(client)
    world.clean()


@pytest.mark.parametrize("executed", [True, False])
def test_a_batch_of_a_vanished_client_is_never_committed(
    world: World, executed: bool
) -> None:
    client = world.client()
    world.ask(client, batch("insert"), FLUSH)
    if executed:
        world.say(BATCH_DONE)
    world.sent()
    world.bench.drop_client(client)
    assert world.sent() == FAILURE + SYNC
    assert world.bench.take_cancels() == ([] if executed else [world.server])


# ------------------------------------------------------------ vanished while waiting


def occupied(world: World) -> int:
    """A client that has the only server."""
    client = world.client()
    world.ask(client, query())
    return client


def test_what_came_before_a_goodbye_is_carried_out(world: World) -> None:
    """Though the client has closed its connection without reading an answer."""
    occupied(world)
    client = world.client()
    assert world.ask(client, query("insert")) == "wait"
    world.bench.make_broken(client)
    world.bench.hang_up(client, TERMINATE)
    assert not world.has_left(client)
    world.sent()
    world.say(SELECTED)
    assert world.sent() == query("insert")
    world.say(COMPLETE, ready())
    assert world.has_left(client)
    assert world.bench.take_cancels() == []
    assert world.is_in(ServerState.SERVER_IDLE)


@pytest.mark.parametrize("last", [b"", TERMINATE[:3], query("more")])
def test_a_client_that_vanishes_without_a_word_is_not_served(
    world: World, last: bytes
) -> None:
    occupied(world)
    client = world.client()
    world.ask(client, query("insert"))
    world.bench.hang_up(client, last)
    assert world.has_left(client)
    world.sent()
    world.say(SELECTED)
    assert world.sent() == b""


# ------------------------------------------------------------ cancel


def test_cancel_of_a_client_that_waits(world: World) -> None:
    occupied(world)
    client = world.client()
    world.ask(client, query())
    assert world.bench.cancel(client) is None
    assert b"C57014\0" in world.told(client)
    assert world.bench.client_state(client)[0] == ClientState.CLIENT_IDLE


def test_cancel_while_our_set_is_tried(world: World) -> None:
    """Its request was not sent yet, so it is answered here."""
    client = world.client(X)
    assert world.ask(client, query("1")) == "align"
    assert world.sent() == SET_X
    assert world.bench.cancel(client) is None
    told = world.told(client)
    assert b"C57014\0" in told
    assert told.endswith(ready())
    assert world.bench.cancel(client) is None, "there is nothing left to cancel"
    assert world.told(client) == b""
    world.say(parameter("application_name", "x"), message("C", b"SET\0"), ready())
    assert world.sent() == b""
    assert world.is_in(ServerState.SERVER_IDLE)
    assert world.ask(client, query("2")) == "ok"
    assert world.say(SELECTED) == SELECTED


@pytest.mark.parametrize("cut", range(5, len(query("1"))))
def test_cancel_while_our_set_is_tried_and_more_is_to_come(
    world: World, cut: int
) -> None:
    """PostgreSQL has not begun with what is not all there: nothing to cancel."""
    client = world.client(X)
    assert world.ask(client, query("1")[:cut]) == "align"
    assert world.bench.cancel(client) is None
    assert world.told(client) == b""
    world.ask(client, query("1")[cut:])
    world.say(parameter("application_name", "x"), message("C", b"SET\0"), ready())
    assert world.sent() == query("1")
    assert world.say(SELECTED) == SELECTED


def test_cancel_while_our_set_runs_in_front_of_the_request(world: World) -> None:
    """PostgreSQL is asked once the SET is done, or it would be hit instead."""
    client = world.client(X)
    world.ask(client, query("1"))
    accepted = parameter("application_name", "x") + message("C", b"SET\0") + ready()
    world.say(accepted)
    world.say(SELECTED)
    other = world.client()
    world.ask(other, query())
    world.say(parameter("application_name", ""), message("C", b"SET\0"), ready())
    world.say(SELECTED)
    assert world.ask(client, query("2")) == "ok"
    assert world.sent().endswith(SET_X + query("2"))
    assert world.bench.cancel(client) is None
    assert world.bench.take_cancels() == []
    world.say(accepted)
    assert world.bench.take_cancels() == [world.server]
    world.bench.cancelled(world.server)
    assert world.say(CANCELLED, ready()) == CANCELLED + ready()


def test_cancel_of_what_runs(world: World) -> None:
    client = occupied(world)
    assert world.bench.cancel(client) == world.server
    world.say(CANCELLED, ready())
    assert world.is_in(ServerState.SERVER_ACTIVE), "the request may still strike"
    world.bench.cancelled(world.server)
    assert world.is_in(ServerState.SERVER_IDLE)


# ------------------------------------------------------------ deadlines


def test_query_wait_timeout(world: World) -> None:
    world.bench.limit(query_wait_us=2 * SECOND_US)
    occupied(world)
    client = world.client()
    world.ask(client, query())
    world.bench.wait_until(int(1.9 * SECOND_US))
    assert not world.has_left(client)
    world.bench.wait_until(int(2.05 * SECOND_US))
    assert world.has_left(client)


def test_who_is_served_in_time_is_left_alone(world: World) -> None:
    world.bench.limit(query_wait_us=2 * SECOND_US)
    occupied(world)
    client = world.client()
    world.ask(client, query())
    world.say(SELECTED)
    world.bench.wait_until(10 * SECOND_US)
    assert not world.has_left(client)


def test_a_query_of_ours_that_is_not_answered(world: World) -> None:
    world.bench.limit(tested_us=3 * SECOND_US)
    client = world.client()
    world.ask(client, query("begin"))
    world.say(COMPLETE, ready("T"))
    world.bench.drop_client(client)
    world.bench.wait_until(2 * SECOND_US)
    world.say(COMPLETE, ready())  # the ROLLBACK; the reset has its time from here
    world.bench.wait_until(int(4.9 * SECOND_US))
    assert world.is_in(ServerState.SERVER_TESTED)
    world.bench.wait_until(int(5.1 * SECOND_US))
    assert world.is_in(ServerState.SERVER_CLOSED)


def test_what_was_cancelled_too_early_is_cancelled_again(world: World) -> None:
    world.bench.limit(tested_us=3 * SECOND_US)
    world.bench.drop_client(occupied(world))
    for turn in range(1, 5):
        assert world.bench.take_cancels() == [world.server]
        world.bench.cancelled(world.server)
        world.bench.wait_until(turn * 400_000)
    world.bench.wait_until(4 * SECOND_US)
    assert world.is_in(ServerState.SERVER_CLOSED)


def test_work_of_a_client_that_said_goodbye_takes_its_time(world: World) -> None:
    """PostgreSQL would go on with it; it is not cancelled for being long."""
    world.bench.limit(tested_us=3 * SECOND_US)
    client = world.client()
    world.ask(client, query(), TERMINATE)
    world.bench.drop_client(client)
    world.bench.wait_until(30 * SECOND_US)
    assert world.is_in(ServerState.SERVER_TESTED)
    assert world.bench.take_cancels() == []
    world.sent()
    world.say(row(), COMPLETE, ready())
    world.clean()
