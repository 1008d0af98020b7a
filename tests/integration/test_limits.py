# SPDX-License-Identifier: MIT
"""Limits are totals over all workers, at every moment."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import DATABASE, USER, MakePooler, Pooler

WORKERS = (1, 2)


class Sampler:
    """Looks at pg_stat_activity as fast as it can; ``most`` is what it has seen."""

    def __init__(self, postgres: Postgres, where: str) -> None:
        self._postgres = postgres
        self._query = (
            "SELECT count(*) FROM pg_stat_activity"
            f" WHERE backend_type = 'client backend' AND {where}"
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.most = 0
        self.looks = 0

    def _run(self) -> None:
        with psycopg.connect(self._postgres.dsn(), autocommit=True) as connection:
            while not self._stop.is_set():
                row = connection.execute(self._query).fetchone()
                assert row is not None
                self.most = max(self.most, row[0])
                self.looks += 1

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def connected(
    pooler: Pooler, count: int, **more: str
) -> Iterator[list[psycopg.Connection[tuple[object, ...]]]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(pooler.connect(autocommit=True, **more))
            for _ in range(count)
        ]


def backends_of(*connections: psycopg.Connection[tuple[object, ...]]) -> set[object]:
    """The server of each, which all have at the same time."""
    found = set()
    with ExitStack() as stack:
        for connection in connections:
            stack.enter_context(connection.transaction())
            row = connection.execute("SELECT pg_backend_pid()").fetchone()
            assert row is not None
            found.add(row[0])
    return found


@pytest.mark.parametrize("workers", WORKERS)
def test_a_pool_serves_as_many_wherever_they_land(
    make_pooler: MakePooler, workers: int
) -> None:
    pooler = make_pooler(workers=workers, default_pool_size=2, query_wait_timeout=10)
    with connected(pooler, 8) as clients:
        for one in clients:
            for other in clients:
                if one is not other:
                    assert len(backends_of(one, other)) == 2


@pytest.mark.parametrize("workers", WORKERS)
def test_a_client_beyond_the_pool_gets_the_next_free_server(
    make_pooler: MakePooler, workers: int
) -> None:
    pooler = make_pooler(workers=workers, default_pool_size=4, query_wait_timeout=10)
    with connected(pooler, 5) as clients:
        *holders, last = clients
        for holder in holders:
            holder.execute("BEGIN")
        done = threading.Event()

        def ask() -> None:
            last.execute("SELECT 1")
            done.set()

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        assert not done.wait(0.3), "it was served beyond the limit"
        holders[2].execute("COMMIT")
        assert done.wait(5), "it waits beside an idle server"
        thread.join()
        for holder in (holders[0], holders[1], holders[3]):
            holder.execute("COMMIT")


def work(pooler: Pooler, seed: int, until_s: float) -> None:
    """Come and go, and keep servers for random times."""
    chance = random.Random(seed)
    while time.monotonic() < until_s:
        with pooler.connect(autocommit=True) as connection:
            for _ in range(chance.randrange(1, 6)):
                pause_s = chance.choice((0, 0, 0.01, 0.05))
                connection.execute(f"SELECT pg_sleep({pause_s})")


@pytest.mark.parametrize("workers", WORKERS)
def test_there_are_never_more_than_the_pool_size(
    make_pooler: MakePooler, postgres: Postgres, workers: int
) -> None:
    pooler = make_pooler(workers=workers, default_pool_size=3)
    until_s = time.monotonic() + 3
    threads = [
        threading.Thread(target=work, args=(pooler, seed, until_s), daemon=True)
        for seed in range(8)
    ]
    with Sampler(postgres, f"datname = '{DATABASE}' AND usename = '{USER}'") as sampler:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
    assert sampler.looks > 10
    assert 1 <= sampler.most <= 3
