# SPDX-License-Identifier: MIT
"""An empty text that stands in for a statement: when, and what becomes of it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import ModuleType

import pytest

from tests.unit.test_prepare import World
from tests.wire_client import (
    FLUSH,
    SYNC,
    bind,
    codes,
    describe,
    execute,
    message,
    parse,
    query,
)
from tests.wire_client import text as cstring

Make = Callable[..., World]
INT = 23


@pytest.fixture
def make(probe: ModuleType) -> Make:
    """A client whose statement ``a`` the server lacks that it works on now."""

    def world(sql: str, *types: int, begun: tuple[str, ...] = ()) -> World:
        made = World(probe.Bench(8, (), 100), 2, 2)
        raw = struct.pack(f"!H{len(types)}I", len(types), *types)
        made.ask(0, message("P", cstring("a") + cstring(sql) + raw), SYNC)
        made.ask(1, query("begin"))
        for asked in begun:
            made.ask(0, query(asked))
        return made

    return world


def run(*values: bytes) -> bytes:
    return bind(*values, statement="a") + execute() + SYNC


def stood_in(world: World) -> bool:
    """Whether the last Parse was an empty text with one parameter."""
    parses = [one.body for one in world.sent if one.code == "P"]
    return parses == [b"p_1\0\0" + struct.pack("!HI", 1, INT)]


def test_a_wrong_number_of_values(make: Make) -> None:
    world = make("one$1", INT)
    world.ask(0, run(b"1", b"2"))
    assert (world.went, stood_in(world)) == ("PBES", True)
    said = world.ask(0, run(b"1"))
    assert (world.went, stood_in(world)) == ("CPBES", False)
    assert b"one$1" in said
    world.ask(0, run(b"1", b"2"))  # the server has it now
    assert world.went == "BES"


@pytest.mark.parametrize("values", [(), (b"1",), (b"1", b"2")])
def test_any_bind_in_a_failed_transaction(make: Make, values: tuple[bytes]) -> None:
    world = make("one$1", INT, begun=("begin", "fail"))
    world.ask(0, run(*values))
    assert (world.went, stood_in(world)) == ("PBES", True)
    world.ask(0, query("rollback"))
    assert b"one$1" in world.ask(0, run(b"1"))
    assert world.went == "CPBES"


@pytest.mark.parametrize("sql", ["commit", " ROLLBACK", "--\nend", "/**/abort", "-"])
def test_what_may_end_a_failed_transaction_is_prepared(make: Make, sql: str) -> None:
    """PostgreSQL carries it out."""
    world = make(sql, begun=("begin", "fail"))
    world.ask(0, run())
    [parsed] = [one.body for one in world.sent if one.code == "P"]
    assert sql.encode() in parsed


def test_a_bind_behind_what_has_ended_the_failed_transaction(make: Make) -> None:
    """In one batch: nobody has said yet that it is over."""
    world = make("one$1", INT, begun=("begin", "fail"))
    ended = parse("rollback") + bind() + execute()
    assert b"one$1" in world.ask(0, ended + run(b"1"))
    world = make("one$1", INT, begun=("begin", "fail"))
    world.ask(0, ended, FLUSH)  # answered, but for its ReadyForQuery
    assert b"one$1" in world.ask(0, run(b"1"))
    world = make("one$1", INT, begun=("begin", "fail"))
    world.ask(0, ended, FLUSH)
    assert b"one$1" in world.ask(0, query("execute a"))


@pytest.mark.parametrize("types", [(), (0,), (705,)])
def test_types_that_nobody_has_told_are_not_made_up(
    make: Make, types: tuple[int, ...]
) -> None:
    world = make("one$1", *types, begun=("begin", "fail"))
    world.ask(0, run(b"1", b"2"))
    [parsed] = [one.body for one in world.sent if one.code == "P"]
    assert b"one$1" in parsed


def test_a_describe_needs_to_know_that_there_are_no_rows(make: Make) -> None:
    world = make("one")
    world.ask(0, describe("a", "S"), SYNC)
    assert b"one" in world.sent[0].body
    assert codes(world.sent) == "PDS"


def test_a_deallocate(make: Make) -> None:
    world = make("one")
    assert world.ask(0, query("deallocate a")) == (
        message("C", b"DEALLOCATE\0") + message("Z", b"I")
    )
    assert world.sent[0].body == b"p_1\0\0\0\0"
    assert sorted(world.bench.server_names(i) for i in (0, 1)) == [[], [b"p_1"]]
    assert world.bench.client_names(0) == {}
