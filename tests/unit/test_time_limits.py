# SPDX-License-Identifier: MIT
"""Time limits of clients and servers, by the step, with a clock of the test's own."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from pooler.session.records import ClientState, PoolMode, ServerState
from tests.feeding import (
    BATCH_DONE,
    BIND,
    COMPLETE,
    COPY_IN,
    FLUSH,
    SELECTED,
    batch,
    copy_data,
    message,
    parse,
    query,
    ready,
)

DEFAULTS = (b"", b"ISO, MDY")
SECOND_US = 1_000_000
TICK_US = 20_000
BEGUN = message("C", b"BEGIN\0") + ready("T")
LIMITS = {
    "query_us": "query timeout",
    "xact_us": "transaction timeout",
    "idle_xact_us": "idle transaction timeout",
}


class World:
    """A pool with one server; its clock begins at 0."""

    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.now_us = 0
        self.server = bench.add_server(DEFAULTS)

    def client(self) -> int:
        client = int(self.bench.add_client(DEFAULTS))
        self.bench.take_sent()
        return client

    def ask(self, client: int, *messages: bytes) -> None:
        self.bench.client_feed(client, b"".join(messages))

    def say(self, *messages: bytes) -> None:
        self.bench.server_feed(self.server, b"".join(messages))

    def wait(self, seconds: float) -> None:
        """Let time go by."""
        self.now_us += int(seconds * SECOND_US)
        self.bench.wait_until(self.now_us)

    def is_here(self, client: int) -> bool:
        return bool(self.bench.client_state(client)[0] != ClientState.CLIENT_CLOSED)

    def server_is(self, state: ServerState) -> bool:
        return bool(self.bench.server_state(self.server)[0] == state)

    def told(self, client: int) -> bytes:
        sent = self.bench.take_sent()
        return b"".join(
            data for kind, i, data in sent if (kind, i) == ("client", client)
        )

    def lasts(self, client: int, seconds: float) -> None:
        """The client goes after so many seconds from now, and no sooner."""
        self.wait(seconds - 0.05)
        assert self.is_here(client)
        self.wait(0.1)
        assert not self.is_here(client)


@pytest.fixture
def world(probe: ModuleType) -> World:
    return World(probe.Bench(cancel_abandoned=True))


@pytest.fixture(params=[PoolMode.MODE_SESSION, PoolMode.MODE_TRANSACTION])
def any_mode(world: World, request: pytest.FixtureRequest) -> World:
    world.bench.set_mode(request.param)
    return world


# ------------------------------------------------------------ query_timeout


def test_a_query_is_cancelled_and_its_server_closed(any_mode: World) -> None:
    world = any_mode
    world.bench.limit(query_us=2 * SECOND_US, tested_us=9 * SECOND_US)
    client = world.client()
    world.ask(client, query())
    world.lasts(client, 2)
    assert world.bench.take_cancels() == [world.server]
    assert world.server_is(ServerState.SERVER_TESTED)
    world.bench.cancelled(world.server)
    world.say(message("E", b"SERROR\0C57014\0Mcanceled\0\0"), ready())
    assert world.server_is(ServerState.SERVER_CLOSED)


def test_the_time_of_a_query_counts_from_what_its_client_sends(any_mode: World) -> None:
    world = any_mode
    world.bench.limit(query_us=2 * SECOND_US)
    client = world.client()
    world.wait(5)
    world.ask(client, parse(), FLUSH)
    world.wait(1.5)
    world.ask(client, BIND, FLUSH)
    world.lasts(client, 2)


def test_copy_in_goes_on_as_long_as_data_comes(any_mode: World) -> None:
    world = any_mode
    world.bench.limit(query_us=2 * SECOND_US)
    client = world.client()
    world.ask(client, query("copy t from stdin"))
    world.say(COPY_IN)
    for _ in range(4):
        world.wait(1.5)
        world.ask(client, copy_data())
    world.lasts(client, 2)


def test_idle_in_a_transaction_is_no_query(any_mode: World) -> None:
    world = any_mode
    world.bench.limit(query_us=2 * SECOND_US)
    client = world.client()
    world.ask(client, query("begin"))
    world.say(BEGUN)
    world.wait(10)
    assert world.is_here(client)
    world.ask(client, query())
    world.lasts(client, 2)


def test_what_is_answered_in_time_is_left_alone(any_mode: World) -> None:
    world = any_mode
    world.bench.limit(query_us=2 * SECOND_US, xact_us=3 * SECOND_US)
    clients = [world.client()]
    for _ in range(10):
        world.ask(clients[0], query())
        world.wait(1.5)
        world.say(SELECTED)
    assert world.is_here(clients[0])


def test_an_unlimited_query_takes_its_time(any_mode: World) -> None:
    world = any_mode
    client = world.client()
    world.ask(client, query())
    world.wait(100_000)
    assert world.is_here(client)


# ------------------------------------------------------------ transactions


def test_a_transaction_has_its_time_in_all(any_mode: World) -> None:
    world = any_mode
    world.bench.limit(xact_us=3 * SECOND_US)
    client = world.client()
    world.wait(10)
    world.ask(client, query("begin"))
    world.say(BEGUN)
    for _ in range(2):
        world.wait(1.4)
        world.ask(client, query())
        world.say(SELECTED[: -len(ready())], ready("T"))
    world.lasts(client, 0.2)


def test_transactions_in_a_pipeline_are_measured_each(any_mode: World) -> None:
    world = any_mode
    world.bench.limit(xact_us=3 * SECOND_US)
    client = world.client()
    world.ask(client, *[query()] * 5)
    for _ in range(4):
        world.wait(2)
        world.say(SELECTED)
    world.lasts(client, 3)


def test_the_next_client_of_a_server_begins_anew(world: World) -> None:
    world.bench.limit(
        xact_us=3 * SECOND_US, query_us=3 * SECOND_US, idle_xact_us=3 * SECOND_US
    )
    client = world.client()
    world.ask(client, query("begin"))
    world.say(BEGUN)
    world.bench.drop_client(client)
    world.wait(1)
    world.say(message("C", b"ROLLBACK\0"), ready())
    world.say(message("C", b"DISCARD ALL\0"), ready())
    other = world.client()
    world.wait(1)
    world.ask(other, query("begin"))
    world.say(BEGUN)
    world.lasts(other, 3)


@pytest.mark.parametrize("status", ["T", "E"])
def test_idle_in_a_transaction(any_mode: World, status: str) -> None:
    world = any_mode
    world.bench.limit(idle_xact_us=2 * SECOND_US)
    client = world.client()
    world.ask(client, query("begin"))
    world.wait(9)  # that is PostgreSQL's time
    world.say(message("C", b"BEGIN\0"), ready(status))
    world.wait(1.5)
    world.ask(client, query())
    world.wait(9)
    world.say(SELECTED[: -len(ready())], ready(status))
    world.lasts(client, 2)
    assert world.bench.take_cancels() == []
    assert world.server_is(ServerState.SERVER_CLOSED)


def test_idle_outside_of_a_transaction_is_not_idle_in_one(any_mode: World) -> None:
    world = any_mode
    world.bench.limit(idle_xact_us=2 * SECOND_US, xact_us=SECOND_US)
    client = world.client()
    world.ask(client, query("begin"))
    world.say(BEGUN)
    world.ask(client, query("commit"))
    world.say(message("C", b"COMMIT\0"), ready())
    world.wait(60)
    assert world.is_here(client)


# ------------------------------------------------------------ clients


def test_a_client_that_is_idle(any_mode: World) -> None:
    world = any_mode
    world.bench.limit(client_idle_us=2 * SECOND_US)
    silent, client = world.client(), world.client()
    world.wait(1.5)
    world.ask(client, query())
    world.wait(1)
    assert not world.is_here(silent)
    world.wait(30)
    assert world.is_here(client), "it waits for PostgreSQL"
    world.say(SELECTED)
    world.lasts(client, 2)


def test_a_client_in_a_transaction_is_not_idle(any_mode: World) -> None:
    world = any_mode
    world.bench.limit(client_idle_us=2 * SECOND_US)
    client = world.client()
    world.ask(client, query("begin"))
    world.say(BEGUN)
    world.wait(60)
    assert world.is_here(client)
    world.ask(client, query("commit"))
    world.say(message("C", b"COMMIT\0"), ready())
    world.lasts(client, 2)


def test_a_batch_that_is_open_is_not_idle(any_mode: World) -> None:
    world = any_mode
    world.bench.limit(client_idle_us=2 * SECOND_US)
    client = world.client()
    world.ask(client, batch(), FLUSH)
    world.say(BATCH_DONE)
    world.wait(60)
    assert world.is_here(client)


def test_who_waits_is_told_once_and_dropped_then(world: World) -> None:
    world.bench.limit(query_wait_us=9 * SECOND_US, wait_notify_us=5 * SECOND_US)
    busy, client = world.client(), world.client()
    world.ask(busy, query())
    world.wait(1)
    world.ask(client, query())
    world.wait(4.9)
    assert world.told(client) == b""
    world.wait(0.2)
    told = world.told(client)
    assert told.startswith(b"N")
    assert b"SNOTICE\0" in told
    assert b"No server connection available in postgres backend" in told
    world.wait(3.5)
    assert world.told(client) == b""
    world.lasts(client, 0.4)


def test_a_notice_without_any_limit(world: World) -> None:
    world.bench.limit(wait_notify_us=SECOND_US)
    busy, client = world.client(), world.client()
    world.ask(busy, query())
    world.ask(client, query())
    world.wait(1.1)
    assert world.told(client).startswith(b"N")
    world.wait(100_000)
    assert world.told(client) == b""
    world.say(SELECTED, SELECTED)
    assert world.is_here(client)


def test_the_wait_counts_for_query_timeout(world: World) -> None:
    world.bench.limit(query_us=2 * SECOND_US, query_wait_us=9 * SECOND_US)
    busy, client = world.client(), world.client()
    world.ask(busy, query())
    world.wait(1)
    world.ask(client, query())
    world.wait(0.5)
    world.ask(busy, query())  # so it is not over
    world.lasts(client, 1.5)


# ------------------------------------------------------------ servers


def test_a_server_that_is_idle(world: World) -> None:
    world.bench.limit(server_idle_us=10 * SECOND_US)
    client = world.client()
    world.wait(6)
    world.ask(client, query())
    world.say(SELECTED)
    world.wait(9.9)
    assert world.server_is(ServerState.SERVER_IDLE)
    world.wait(0.2)
    assert world.server_is(ServerState.SERVER_CLOSED)


def test_a_server_at_work_is_not_idle(any_mode: World) -> None:
    world = any_mode
    world.bench.limit(server_idle_us=10 * SECOND_US)
    client = world.client()
    world.ask(client, query())
    world.wait(600)
    assert world.server_is(ServerState.SERVER_ACTIVE)


def test_servers_that_were_opened_together_end_one_by_one(probe: ModuleType) -> None:
    bench = probe.Bench(max_servers=10)
    bench.limit(lifetime_us=100 * SECOND_US)
    servers = [bench.add_server(DEFAULTS) for _ in range(10)]
    bench.wait_until(100 * SECOND_US - 1)
    assert bench.take_closed() == []
    left = []
    for second in range(100, 112):
        bench.wait_until(second * SECOND_US)
        states = [bench.server_state(i)[0] for i in servers]
        left.append(states.count(ServerState.SERVER_IDLE))
    assert left[-1] == 0
    assert len(set(left)) > 6, left


def test_a_server_in_a_transaction_ends_behind_it(any_mode: World) -> None:
    world = any_mode
    world.bench.limit(lifetime_us=100 * SECOND_US)
    client = world.client()
    world.ask(client, query("begin"))
    world.say(BEGUN)
    world.wait(500)
    assert world.server_is(ServerState.SERVER_ACTIVE)
    world.ask(client, query("commit"))
    world.say(message("C", b"COMMIT\0"), ready())
    world.bench.drop_client(client)
    assert world.server_is(ServerState.SERVER_CLOSED)


def test_a_server_for_single_use(any_mode: World) -> None:
    world = any_mode
    world.bench.limit(single_use=True)
    client = world.client()
    world.wait(60)
    assert world.server_is(ServerState.SERVER_IDLE)
    world.ask(client, query())
    world.say(SELECTED)
    world.bench.drop_client(client)
    assert world.server_is(ServerState.SERVER_CLOSED)


def test_what_a_client_has_left_is_kept_for_it(probe: ModuleType) -> None:
    world = World(probe.Bench(clean_changed=True))
    world.bench.limit(server_idle_us=5 * SECOND_US, lifetime_us=50 * SECOND_US)
    client = world.client()
    for _ in range(2):
        world.ask(client, query("create temporary table t (a int)"))
        world.wait(60)
        world.say(COMPLETE, ready())
        world.wait(60)
        assert world.server_is(ServerState.SERVER_IDLE)
    world.bench.drop_client(client)
    assert world.server_is(ServerState.SERVER_CLOSED) or world.server_is(
        ServerState.SERVER_TESTED
    )


# ------------------------------------------------------------ changed while they run


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_counts_for_those_who_are_there(any_mode: World, limit: str) -> None:
    world = any_mode
    client, other = world.client(), world.client()
    world.ask(client, query("begin"))
    if limit == "idle_xact_us":
        world.say(BEGUN)
    world.wait(10)
    world.bench.limit(**{limit: 2 * SECOND_US})
    world.lasts(client, 2)
    assert world.is_here(other)


@pytest.mark.parametrize("limit", [*LIMITS, "client_idle_us"])
def test_a_limit_that_is_taken_back(any_mode: World, limit: str) -> None:
    world = any_mode
    world.bench.limit(**{limit: 2 * SECOND_US})
    client = world.client()
    if limit != "client_idle_us":
        world.ask(client, query("begin"))
    if limit == "idle_xact_us":
        world.say(BEGUN)
    world.wait(1)
    world.bench.limit()
    world.wait(60)
    assert world.is_here(client)


def test_who_is_idle_and_who_waits_get_new_limits(world: World) -> None:
    busy, waiting, idle = world.client(), world.client(), world.client()
    world.ask(busy, query())
    world.ask(waiting, query())
    world.wait(10)
    world.bench.limit(client_idle_us=2 * SECOND_US, query_wait_us=11 * SECOND_US)
    world.lasts(waiting, 1)
    world.lasts(idle, 0.95)
    assert world.is_here(busy)


def test_a_server_gets_a_new_age(world: World) -> None:
    world.wait(100)
    world.bench.limit(lifetime_us=50 * SECOND_US)
    world.wait(0.1)
    assert world.server_is(ServerState.SERVER_CLOSED)
