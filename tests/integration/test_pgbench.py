# SPDX-License-Identifier: MIT
"""pgbench: many clients, few servers, every query mode, no error."""

from __future__ import annotations

import re
import subprocess
import threading

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import (
    DATABASE,
    HOST,
    USER,
    MakePooler,
    backends,
    wait_until,
)

TIMEOUT_S = 60
SERVERS = 20


def pgbench(postgres: Postgres, port: int, *arguments: str) -> str:
    """Run it; its report. Any error of any client fails the test."""
    program = postgres.installation.tool("pgbench")
    assert program is not None
    target = ["-h", HOST, "-p", str(port), "-U", USER, "-n", *arguments, DATABASE]
    done = subprocess.run(
        [program, *target],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "error" not in done.stderr.lower(), done.stderr[-2000:]
    assert re.search(r"number of failed transactions: 0 ", done.stdout), done.stdout
    return done.stdout


def processed(report: str) -> int:
    found = re.search(r"actually processed: (\d+)", report)
    assert found, report
    return int(found[1])


@pytest.mark.parametrize(
    ("mode", "arguments", "per_client"),
    [
        ("simple", ["-S"], 50),
        ("extended", ["-S", "-M", "extended"], 50),
        ("prepared", ["-S", "-M", "prepared"], 50),
        ("simple", ["-N"], 10),
        ("extended", ["-N", "-M", "extended"], 10),
        ("prepared", ["-N", "-M", "prepared"], 10),
    ],
    ids=[
        "select",
        "select-extended",
        "select-prepared",
        "update",
        "update-extended",
        "update-prepared",
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_many_clients_few_servers(
    postgres: Postgres,
    make_pooler: MakePooler,
    workers: int,
    mode: str,
    arguments: list[str],
    per_client: int,
) -> None:
    pooler = make_pooler(workers=workers, default_pool_size=SERVERS)
    wait_until(lambda: not backends(postgres), "servers of earlier tests are gone")
    reports: list[str] = []
    count = ["-c", "200", "-j", "2", "-t", str(per_client)]
    load = threading.Thread(
        target=lambda: reports.append(
            pgbench(postgres, pooler.port, *count, *arguments)
        )
    )
    load.start()
    most = 0
    while load.is_alive():
        most = max(most, len(backends(postgres)))
        load.join(0.05)
    assert reports, "pgbench failed"
    assert processed(reports[0]) == 200 * per_client
    assert 1 <= most <= SERVERS
    assert 1 <= len(backends(postgres)) <= SERVERS


@pytest.mark.parametrize("workers", [1, 2])
def test_a_connection_for_each_transaction(
    postgres: Postgres, make_pooler: MakePooler, workers: int
) -> None:
    pooler = make_pooler(workers=workers, default_pool_size=SERVERS)
    report = pgbench(
        postgres, pooler.port, "-C", "-S", "-c", "20", "-j", "2", "-t", "50"
    )
    assert processed(report) == 1000
    wait_until(lambda: pooler.sockets_of_workers() == 0, "no client is left")
    assert len(backends(postgres)) <= SERVERS
