# SPDX-License-Identifier: MIT
"""``disable_pqexec``: who sends a Query is sent away, whatever is under way."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.feeding import SELECTED, SYNC, batch, message, query, ready
from tests.unit.test_step import World

BEGUN = message("1") + message("2") + message("C", b"BEGIN\0") + ready("T")
ROLLBACK = query("ROLLBACK")


@pytest.fixture
def world(probe: ModuleType) -> World:
    return World(probe.Bench(cancel_abandoned=True, no_queries=True))


@pytest.mark.parametrize("cut", [0, 5, 8])
def test_a_client_without_a_server(world: World, cut: int) -> None:
    """No server is taken for it, and nobody else hears of it."""
    client, other = world.client(), world.client()
    sent = query("SELECT 1; DROP TABLE users")
    assert cut == 0 or world.ask(client, sent[:cut]) == "pqexec"
    if not cut:
        assert world.ask(client, sent) == "pqexec"
    assert world.sent() == b""
    assert world.bench.take_closed() == [("client", client, "pqexec")]
    assert world.ask(other, batch()) == "ok"


def test_a_header_in_pieces(world: World) -> None:
    client = world.client()
    assert world.ask(client, query()[:4]) == "ok"
    assert world.ask(client, query()[4:]) == "pqexec"


@pytest.mark.parametrize("open_batch", [False, True])
def test_in_a_transaction(world: World, open_batch: bool) -> None:
    """It is rolled back; what came in front of the Query goes out, the Query not."""
    client = world.client()
    world.ask(client, batch())
    world.say(BEGUN)
    before = batch() if not open_batch else batch().removesuffix(SYNC)
    world.bench.take_sent()
    world.ask(client, before + query("SELECT 1"))
    taken = world.bench.take_sent()
    to_server = b"".join(data for kind, _, data in taken if kind == "server")
    assert b"Q\0\0" not in to_server.removesuffix(ROLLBACK)
    assert world.bench.take_closed() == [("client", client, "pqexec")]


def test_the_extended_protocol_goes_on(world: World) -> None:
    client = world.client()
    assert world.ask(client, batch()) == "ok"
    assert world.sent() == batch()


def test_off_by_default(probe: ModuleType) -> None:
    world = World(probe.Bench(cancel_abandoned=True))
    assert world.ask(world.client(), query()) == "ok"
    assert world.say(SELECTED) == SELECTED
