# SPDX-License-Identifier: MIT
"""More clients than can be: what they get, and what the others notice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import psutil
import pytest

from tests.integration.chaos import SLOT_BITS, slots_of
from tests.integration.harness import (
    InProcess,
    MakePooler,
    closing_all,
    wait_until,
)
from tests.wire_client import query, startup


def test_who_says_nothing_takes_no_place(make_pooler: MakePooler) -> None:
    """As health checks of load balancers, and worse."""
    pooler = make_pooler(workers=2, max_client_conn=3, tcp_defer_accept=1)
    with (
        closing_all([pooler.wire() for _ in range(40)]),
        closing_all([pooler.client() for _ in range(3)]) as clients,
    ):
        assert all(client.value("SELECT 1") == "1" for client in clients)
        assert pooler.sockets_of_workers() == 3


def test_full_is_said_at_once(make_pooler: MakePooler) -> None:
    pooler = make_pooler(workers=2, max_client_conn=4)
    with closing_all([pooler.client() for _ in range(4)]):
        for _ in range(10):
            begun = time.monotonic()
            with pooler.wire() as late:
                late.send(startup("app", "bench"))
                fields = late.read_fatal()
            assert fields["C"] == "53300"
            assert fields["M"] == "no more connections allowed (max_client_conn)"
            assert time.monotonic() - begun < 2


def test_a_flooded_pool_starves_no_other(make_pooler: MakePooler) -> None:
    """Two hundred clients that ask without end for two servers; one of another pool."""
    pooler = make_pooler({"bench": "", "other": "dbname=bench"}, default_pool_size=2)
    enough = threading.Event()
    with (
        closing_all([pooler.client() for _ in range(200)]) as flood,
        pooler.client("other") as quiet,
    ):

        def ask_on() -> None:
            """All ask, then all read: more wait at each time than can be served."""
            while not enough.is_set():
                for client in flood:
                    client.send(query("SELECT 1"))
                for client in flood:
                    client.read_until("Z")

        thread = threading.Thread(target=ask_on)
        thread.start()
        try:
            waits = []
            for _ in range(100):
                begun = time.monotonic()
                assert quiet.value("SELECT 1") == "1"
                waits.append(time.monotonic() - begun)
        finally:
            enough.set()
            thread.join()
    # the thread above takes turns with us, so this says no more than "at all times"
    assert sorted(waits)[50] < 0.5
    assert max(waits) < 3


@pytest.mark.full
def test_a_hundred_thousand_connections_leave_nothing(make_pooler: MakePooler) -> None:
    """Some log in, some say nothing, some half; over two workers that pass them on."""
    pooler = make_pooler(workers=2, log_connections=0, log_disconnections=0)

    def come(count: int) -> None:
        for number in range(count):
            with pooler.wire() as client:
                if number % 4 == 0:
                    client.login("app", "bench")
                elif number % 4 == 1:
                    client.send(startup("app", "bench")[:10])

    def descriptors() -> int:
        return sum(psutil.Process(pid).num_fds() for pid in pooler.worker_pids())

    come(2_000)
    wait_until(lambda: pooler.sockets_of_workers() == 0, "all have gone")
    fds, memory = descriptors(), pooler.rss_bytes()
    come(98_000)
    wait_until(lambda: pooler.sockets_of_workers() == 0, "all have gone")
    wait_until(lambda: descriptors() <= fds, "no descriptor is left")
    assert pooler.rss_bytes() < memory + 4_000_000


def test_who_is_passed_on_to_a_worker_without_descriptors(
    make_pooler: MakePooler,
) -> None:
    """Each is served or told, none is closed without a word; then all is as before."""
    pooler = make_pooler(workers=2)
    with closing_all([pooler.client() for _ in range(12)]) as clients:
        assert all(client.value("SELECT 1") == "1" for client in clients)
    wait_until(lambda: pooler.sockets_of_workers() == 0, "all have gone")
    victim = psutil.Process(pooler.worker_pids()[0])
    before = victim.rlimit(psutil.RLIMIT_NOFILE)
    victim.rlimit(psutil.RLIMIT_NOFILE, (victim.num_fds() + 4, before[1]))
    with closing_all([]) as clients:
        for _ in range(40):
            clients.append(pooler.wire())
            clients[-1].send(startup("app", "bench"))
        served = 0
        for client in clients:
            first = client.read()
            if first.code == "E":
                assert first.fields["C"] == "53300"
            else:
                client.read_greeting()
                served += 1
        assert 10 < served < 40
    victim.rlimit(psutil.RLIMIT_NOFILE, before)
    with closing_all([pooler.client() for _ in range(40)]) as clients:
        assert all(client.value("SELECT 1") == "1" for client in clients)


def test_a_worker_without_descriptors_learns_the_welcome_from_others(
    make_pooler: MakePooler,
) -> None:
    """A login needs no server where another worker has one."""
    pooler = make_pooler(workers=2)
    with pooler.client() as first:
        slot = first.key[0] & SLOT_BITS
        (victim_pid,) = (
            pid for other, pid in slots_of(pooler).items() if other != slot
        )
        victim = psutil.Process(victim_pid)
        before = victim.rlimit(psutil.RLIMIT_NOFILE)
        # one client has room, and no server
        victim.rlimit(psutil.RLIMIT_NOFILE, (victim.num_fds() + 1, before[1]))
        came_to = set()
        for _ in range(12):
            with pooler.client() as client:
                came_to.add(client.key[0] & SLOT_BITS)
        assert len(came_to) == 2
        victim.rlimit(psutil.RLIMIT_NOFILE, before)


MIB = 1 << 20
PIPELINE = 100


@pytest.mark.parametrize("budget", [0, MIB])
def test_what_clients_send_ahead_has_a_budget(
    worker_in_process: Callable[..., InProcess], budget: int
) -> None:
    """Beyond it the rest waits in the kernel: nobody is lost, each answer is right."""
    worker = worker_in_process(default_pool_size=1, max_buffer_memory=budget)
    before = worker.counters()["buffer_bytes"]
    with (
        worker.client() as holder,
        closing_all([worker.client() for _ in range(60)]) as clients,
    ):
        holder.ask(query("BEGIN"))

        def waits(before: int) -> bool:
            return worker.engine.pool_stats(0)["waiting"] > before

        for number, client in enumerate(clients):
            ask = f"SELECT {number} /* {'x' * 1000} */"
            client.send(query(ask) * PIPELINE)
            wait_until(partial(waits, number), "it waits")
        held = worker.counters()["buffer_bytes"] - before
        if budget:
            assert held < budget + 60 * 4100 + 128 * 1024
        else:
            assert held > 3 * MIB
        holder.ask(query("COMMIT"))
        for number, client in enumerate(clients):
            for _ in range(PIPELINE):
                [row] = [one.row for one in client.read_until("Z") if one.code == "D"]
                assert row == [str(number).encode()]
    wait_until(lambda: worker.counters()["buffer_bytes"] <= before, "all is given back")
