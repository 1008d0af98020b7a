# SPDX-License-Identifier: MIT
"""Replication clients: each has a server of its own, which ends with it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from pooler.demo.postgres import Postgres
from tests.integration.harness import Pooler, wait_until


def tool(postgres: Postgres, pooler: Pooler, name: str, *words: str) -> list[str]:
    program = postgres.installation.tool(name)
    assert program is not None, f"{name} is not installed beside PostgreSQL"
    where = ["-h", pooler.host, "-p", str(pooler.port), "-U", "postgres"]
    return [str(program), *where, *words]


def run(command: list[str]) -> None:
    done = subprocess.run(command, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def senders(postgres: Postgres) -> int:
    return len(postgres.psql("SELECT pid FROM pg_stat_replication"))


def test_physical(
    primary: Postgres, make_pooler: Callable[..., Pooler], tmp_path: Path
) -> None:
    pooler = make_pooler({"*": f"host=127.0.0.1 port={primary.port}"})
    target = tmp_path / "copy"
    run(tool(primary, pooler, "pg_basebackup", "-D", str(target), "-c", "fast"))
    assert (target / "PG_VERSION").is_file()
    assert (target / "backup_manifest").is_file()
    wait_until(lambda: senders(primary) == 0, "the servers end with their clients")


def test_logical(primary: Postgres, make_pooler: Callable[..., Pooler]) -> None:
    pooler = make_pooler({"*": f"host=127.0.0.1 port={primary.port}"})

    def receive(*words: str) -> list[str]:
        slot = ("-d", "postgres", "--slot", "tested", *words)
        return tool(primary, pooler, "pg_recvlogical", *slot)

    run(receive("--create-slot", "-P", "test_decoding"))
    primary.psql("CREATE TABLE sent (id int)")
    with subprocess.Popen(
        receive("--start", "-f", "-", "-F", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as receiver:
        assert receiver.stdout is not None
        wait_until(lambda: senders(primary) == 1, "the receiver is there")
        primary.psql("INSERT INTO sent VALUES (42)")
        seen: list[str] = []
        while not seen or "42" not in seen[-1]:
            seen.append(receiver.stdout.readline())
            assert seen[-1], f"it ended: {seen}"
        receiver.terminate()
        receiver.wait(10)
    wait_until(lambda: senders(primary) == 0, "its server ends with it")
    run(receive("--drop-slot"))
    with pooler.wire().login("postgres", "postgres") as client:
        assert client.value("SELECT count(*) FROM sent") == "1"
