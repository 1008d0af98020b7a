# SPDX-License-Identifier: MIT
"""The hot path: four system calls per transaction and no Python at all."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.integration.harness import InProcess, closing_all
from tests.wire_client import (
    SYNC,
    WireClient,
    bind,
    codes,
    describe,
    execute,
    extended,
    parse,
    query,
)

TRANSACTIONS = 2_000
CLIENTS = 8
SWEEPS_PER_S = 3

SIMPLE = query("SELECT 1")
EXTENDED = extended("SELECT 1") + SYNC
BATCH = extended("SELECT 1") * 4 + SYNC
PREPARED = bind(b"1", statement="ready") + describe() + execute() + SYNC


def warm_up(clients: list[WireClient], request: bytes) -> None:
    """Together, so that every server is opened."""
    for _ in range(20):
        for client in clients:
            client.send(request)
        for client in clients:
            client.read_until("Z")


@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [
        (SIMPLE, "TDCZ"),
        (EXTENDED, "12TDCZ"),
        (BATCH, "12TDC" * 4 + "Z"),
        (PREPARED, "2TDCZ"),
    ],
    ids=["simple", "extended", "pipeline", "prepared"],
)
def test_a_transaction_costs_four_calls(
    worker_in_process: Callable[..., InProcess], request_bytes: bytes, answer: str
) -> None:
    worker = worker_in_process(default_pool_size=2)
    with closing_all([worker.client() for _ in range(CLIENTS)]) as clients:
        for client in clients:
            client.ask(parse("SELECT $1::int", "ready"), SYNC)
        warm_up(clients, request_bytes)
        before, began = worker.counters(), time.monotonic()
        for i in range(TRANSACTIONS):
            assert codes(clients[i % CLIENTS].ask(request_bytes)) == answer
        after, took = worker.counters(), time.monotonic() - began
        grown = {name: after[name] - before[name] for name in after}
        assert grown["recvs"] == 2 * TRANSACTIONS
        assert grown["sends"] == 2 * TRANSACTIONS
        assert grown["watches"] == 0
        # a sweep wakes Python, and so may the timer of the next one
        assert grown["python"] <= 2 * (took * SWEEPS_PER_S + 1)
        assert grown["parameter_sets"] == grown["parameter_values"] == 0


def test_concurrent_clients_cost_no_python_either(
    worker_in_process: Callable[..., InProcess],
) -> None:
    worker = worker_in_process(default_pool_size=2)
    with closing_all([worker.client() for _ in range(CLIENTS)]) as clients:
        warm_up(clients, SIMPLE)
        before, began = worker.counters(), time.monotonic()
        for _ in range(TRANSACTIONS // CLIENTS):
            for client in clients:
                client.send(SIMPLE)
            for client in clients:
                assert codes(client.read_until("Z")) == "TDCZ"
        after, took = worker.counters(), time.monotonic() - began
        grown = {name: after[name] - before[name] for name in after}
        assert grown["sends"] == 2 * TRANSACTIONS
        # on a busy machine an answer may come in two pieces
        assert 0 <= grown["recvs"] - 2 * TRANSACTIONS <= TRANSACTIONS // 100
        assert grown["python"] <= 2 * (took * SWEEPS_PER_S + 1)


def test_clients_with_other_parameters_cost_no_python(
    worker_in_process: Callable[..., InProcess],
) -> None:
    worker = worker_in_process(default_pool_size=1)
    zones = ["UTC", "Asia/Tokyo", "Europe/Berlin"]
    with closing_all([worker.client(TimeZone=zone) for zone in zones]) as clients:
        warm_up(clients, SIMPLE)
        before, began = worker.counters(), time.monotonic()
        for _ in range(200):
            for zone, client in zip(zones, clients, strict=True):
                assert client.value("SHOW TimeZone") == zone
        after, took = worker.counters(), time.monotonic() - began
        grown = {name: after[name] - before[name] for name in after}
        # the SET goes out with the query in one send
        assert grown["sends"] == 2 * 600
        assert grown["watches"] == 0
        assert grown["python"] <= 2 * (took * SWEEPS_PER_S + 1)
        assert grown["parameter_sets"] == grown["parameter_values"] == 0
