# SPDX-License-Identifier: MIT
"""The engine's own promises towards Python, without a server."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pooler.io.engine import Engine
from pooler.wire.messages import HELD

PACKAGE = Path(__file__).resolve().parents[2] / "pooler"


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine(["application_name"])
    yield made
    made.close()


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("names", "options"),
    [
        ([f"p{n}" for n in range(17)], {}),
        (["x" * 64], {}),
        ([], {"recv_bytes": 65_536}),
        ([], {"statement_prefix": b""}),
        ([], {"statement_prefix": b"x" * 99}),
        ([], {"recv_bytes": "many"}),
        (None, {}),
    ],
)
def test_a_constructor_that_raises_leaves_nothing(
    names: object, options: dict[str, object]
) -> None:
    """Least of all a closed descriptor 0."""
    os.fstat(0)
    before = open_descriptors()
    with pytest.raises((TypeError, ValueError)):
        Engine(names, **options)  # type: ignore[arg-type]
    assert open_descriptors() == before
    os.fstat(0)


def test_what_cannot_be_watched_any_more_is_an_error(engine: Engine) -> None:
    """Not a busy loop: epoll_wait fails at once when its descriptor is gone."""
    os.close(engine.fileno())
    with pytest.raises(OSError, match="Bad file descriptor"):
        engine.run(None)
    engine.close()


def test_notices_come_in_portions(engine: Engine) -> None:
    """So that those who are served do not wait for everybody who logs in."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(200)
    listener.setblocking(False)
    port = listener.getsockname()[1]
    engine.add_listener(listener.detach(), shared=False)
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    for client in clients:
        client.sendall(b"x")
    seen: list[int] = []
    while len(seen) < len(clients):
        assert engine.run(10)
        rows = engine.take_notices()
        assert 0 < len(rows) <= 2
        seen += [handle for _, handle, *_ in rows]
    assert sorted(seen) == sorted(set(seen))
    assert engine.run(0) == []
    for client in clients:
        client.close()


def test_a_turn_serves_few_of_a_crowd_that_logs_in(engine: Engine) -> None:
    """All of them are ready at once; who is at work is not behind them in the turn."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(400)
    listener.setblocking(False)
    port = listener.getsockname()[1]
    engine.add_listener(listener.detach(), shared=False)
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
    deadline_s = time.monotonic() + 20
    while engine.counters()["accepts"] < len(clients):
        assert time.monotonic() < deadline_s
        engine.run(0.1)
    for client in clients:
        client.sendall(b"x")
    served: list[int] = []
    while sum(served) < len(clients):
        assert time.monotonic() < deadline_s
        before = engine.counters()["recvs"]
        engine.run(1)
        served.append(engine.counters()["recvs"] - before)
    # The first ones came before there was a crowd.
    assert max(served) <= 32 + 2
    assert sorted(served)[-2] <= 2
    for client in clients:
        client.close()


def test_close_is_idempotent(engine: Engine) -> None:
    engine.close()
    engine.close()


def test_what_cannot_be_taken_over_is_still_the_callers(engine: Engine) -> None:
    """A regular file cannot be watched: its descriptor is neither kept nor closed."""
    with open(__file__, "rb") as file:
        for take_over in (engine.link_open, lambda fd: engine.add_listener(fd, False)):
            with pytest.raises(MemoryError):
                take_over(file.fileno())
            os.fstat(file.fileno())
    assert engine.counters()["links"] == 0


def test_a_link_that_cannot_become_a_server_is_closed(engine: Engine) -> None:
    pool = engine.pool_create(1)
    for pool_id, values in ((pool + 1, [None]), (pool, [b"x" * 5000])):
        ours, theirs = socket.socketpair()
        theirs.close()
        ours.setblocking(False)
        handle = engine.link_open(ours.detach())
        with pytest.raises((LookupError, ValueError)):
            engine.server_adopt(handle, pool_id, values)
        with pytest.raises(LookupError):
            engine.link_take(handle)
        assert engine.counters()["links"] == 0
        assert engine.counters()["parameter_sets"] == 0


def test_every_limit_of_what_is_held_fits_the_receive_buffer() -> None:
    """Else a message could be held for ever: the engine checks against the largest."""
    found = {
        f"{path.stem}.{name}": int(value)
        for path in PACKAGE.rglob("*.p[yx][xd]")
        for name, value in re.findall(
            r"^    (\w*(?:HELD|NAMES)_\w*BYTES) = (\d+)", path.read_text(), re.MULTILINE
        )
        if path.parent.name != "io"
    }
    most = found.pop("_wire.HELD_MOST_BYTES")
    assert {"from_server.TYPES_HELD_BYTES", "parse.PARSE_HELD_BYTES"} <= set(found)
    assert {name for name, value in found.items() if value > most} == set()
    assert most >= HELD
    Engine([], recv_bytes=2 * most).close()
