# SPDX-License-Identifier: MIT
"""Clients reach a worker that serves, and all workers have their part of them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import psutil
import pytest

from tests.integration.harness import MakePooler, Pooler, is_alive, many, wait_until
from tests.wire_client import ConnectionEnded

# How long a new client may wait for a worker that has just stopped: it is noticed
# after a second, and this machine is busy.
A_MOMENT_S = 5.0


def clients_by_worker(pooler: Pooler) -> dict[int, int]:
    """Client connections that each worker holds."""
    counts = {}
    for pid in pooler.worker_pids():
        with contextlib.suppress(psutil.Error):
            counts[pid] = sum(
                one.laddr.port == pooler.port and one.status != psutil.CONN_LISTEN
                for one in psutil.Process(pid).net_connections("tcp")
            )
    return counts


def assert_fair(counts: dict[int, int], total: int) -> None:
    assert sum(counts.values()) == total
    assert max(counts.values()) <= 1.25 * total / len(counts) + 2, counts


def longest_login_s(pooler: Pooler, count: int) -> float:
    longest = 0.0
    for _ in range(count):
        begun = time.monotonic()
        with pooler.client():
            longest = max(longest, time.monotonic() - begun)
    return longest


def serves_anew(pooler: Pooler, before: list[int]) -> bool:
    """Whether a worker that was not there before gets a client."""
    with pooler.client():
        counts = clients_by_worker(pooler)
    return any(count for pid, count in counts.items() if pid not in before)


@pytest.mark.parametrize("workers", [2, 4])
def test_long_lived_clients(make_pooler: MakePooler, workers: int) -> None:
    pooler = make_pooler(workers=workers)
    with many(pooler, 200):
        assert_fair(clients_by_worker(pooler), 200)


def test_a_new_worker_gets_its_part(make_pooler: MakePooler) -> None:
    pooler = make_pooler(workers=2)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(many(pooler, 40))
        before = pooler.worker_pids()
        victim = before[0]
        left = 40 - clients_by_worker(pooler)[victim]
        # Long enough at work, or its successor would be late.
        wait_until(lambda: time.time() - psutil.Process(victim).create_time() > 1.1)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not is_alive(victim))
        pooler.wait_log("killed by SIGKILL")
        wait_until(lambda: serves_anew(pooler, before), "its successor serves")
        more = stack.enter_context(many(pooler, left))
        wait_until(lambda: sum(clients_by_worker(pooler).values()) == 2 * left)
        assert_fair(clients_by_worker(pooler), 2 * left)
        assert len(first) == 40
        assert len(more) == left


def test_who_was_passed_on_works_like_any_other(make_pooler: MakePooler) -> None:
    """One worker holds all that are there; its door is used by most that come."""
    pooler = make_pooler(workers=2)
    with many(pooler, 30) as clients:
        for client in clients:
            assert client.rows("select 1") == [[b"1"]]


def test_a_stopped_worker_is_passed_by_and_killed(make_pooler: MakePooler) -> None:
    pooler = make_pooler(workers=2, worker_stuck_timeout=3)
    before = pooler.worker_pids()
    victim = before[0]
    os.kill(victim, signal.SIGSTOP)
    assert longest_login_s(pooler, 20) < A_MOMENT_S
    pooler.wait_log("worker_stuck_timeout), killing it (1 so far)")
    wait_until(lambda: serves_anew(pooler, before), "it is replaced")


def test_a_stopped_worker_goes_on(make_pooler: MakePooler) -> None:
    """Its sockets are its own again, and nothing is accepted twice."""
    pooler = make_pooler(workers=2, worker_stuck_timeout=0)
    victim = pooler.worker_pids()[0]
    for _ in range(2):
        os.kill(victim, signal.SIGSTOP)
        try:
            assert longest_login_s(pooler, 15) < A_MOMENT_S
        finally:
            os.kill(victim, signal.SIGCONT)
        with many(pooler, 40):
            wait_until(lambda: min(clients_by_worker(pooler).values()) > 10)
            assert_fair(clients_by_worker(pooler), 40)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_leaves_alone_gets_no_clients(
    make_pooler: MakePooler, signum: int
) -> None:
    pooler = make_pooler(workers=2, pool_mode="session", default_pool_size=20)
    with many(pooler, 20) as clients:
        for client in clients[:4]:
            client.rows("select 1")  # keeps its server, and so its worker
        victim = max(clients_by_worker(pooler).items(), key=lambda row: row[1])[0]
        os.kill(victim, signum)
        assert longest_login_s(pooler, 20) < A_MOMENT_S
    wait_until(lambda: victim not in pooler.worker_pids())


def test_a_worker_that_is_killed_again_and_again(make_pooler: MakePooler) -> None:
    """Its part of the new clients goes to the living one, whatever it waits for."""
    pooler = make_pooler(workers=2)
    survivor = pooler.worker_pids()[0]
    enough = threading.Event()
    kills = []

    def kill() -> None:
        while not enough.is_set():
            for pid in pooler.worker_pids():
                if pid != survivor:
                    os.kill(pid, signal.SIGKILL)
                    kills.append(pid)
            enough.wait(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    longest = 0.0
    lost = served = 0
    try:
        while len(set(kills)) < 6 or served < 100:
            begun = time.monotonic()
            try:
                with pooler.client() as client:
                    client.rows("select 1")
                    served += 1
            except (OSError, ConnectionEnded):
                lost += 1  # the one that was killed had accepted it
            longest = max(longest, time.monotonic() - begun)
    finally:
        enough.set()
        killer.join()
    assert longest < A_MOMENT_S
    assert lost <= 2 * len(set(kills))
