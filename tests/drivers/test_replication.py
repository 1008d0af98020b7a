# SPDX-License-Identifier: MIT
"""Replication clients: each has a server of its own, which ends with it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import psycopg2
import psycopg2.extras
import pytest

from tests.drivers.target import REPLICATOR, TIMEOUT_S, Target
from tests.integration.harness import DATABASE, HOST, backends, wait_until

SLOT = "driver_slot"


@pytest.fixture(autouse=True)
def nothing_left(target: Target) -> Iterator[None]:
    """Every walsender ends with its client; slots of failed tests are dropped."""
    yield
    try:
        wait_until(lambda: walsenders(target) == 0, "walsenders end", 10)
    finally:
        target.sql(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE backend_type = 'walsender'"
        )
        target.sql(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
        )


def walsenders(target: Target, state: str = "%") -> int:
    count: int = target.value(
        "SELECT count(*) FROM pg_stat_activity a LEFT JOIN pg_stat_replication r"
        " USING (pid) WHERE backend_type = 'walsender'"
        f" AND coalesce(r.state, '') LIKE '{state}'"
    )
    return count


def tool(target: Target, name: str) -> Path:
    found = target.postgres.installation.tool(name)
    assert found is not None, f"{name} is missing: apt-get install postgresql-client"
    return found


@contextmanager
def running(
    target: Target, name: str, *arguments: str | Path
) -> Iterator[subprocess.Popen[str]]:
    """A program that streams until the test is over."""
    process = subprocess.Popen(
        [tool(target, name), "-U", REPLICATOR, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=target.environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C, at which these programs end in good order."""
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output


def dsn(target: Target, more: str) -> str:
    return (
        f"host={HOST} port={target.port} user={REPLICATOR} dbname={DATABASE}"
        f" connect_timeout=10 {more}"
    )


@pytest.mark.parametrize("wal", ["stream", "fetch"])
def test_basebackup(target: Target, tmp_path: Path, wal: str) -> None:
    """With "stream" a second connection takes the WAL meanwhile."""
    folder = tmp_path / "backup"
    common = ["-U", REPLICATOR, "-D", str(folder), "--no-sync", "-c", "fast"]
    target.run([tool(target, "pg_basebackup"), *common, "-X", wal])
    assert (folder / "PG_VERSION").is_file()
    verified = target.run([tool(target, "pg_verifybackup"), folder])
    assert "successfully verified" in verified.stdout


def test_basebackup_as_tar(target: Target) -> None:
    """To standard output: one COPY stream of tens of megabytes."""
    done = subprocess.run(
        [
            *(tool(target, "pg_basebackup"), "-U", REPLICATOR, "-D", "-"),
            *("-F", "tar", "-X", "fetch", "-c", "fast", "--no-manifest"),
        ],
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
        env=target.environment(),
    )
    assert done.returncode == 0, done.stderr
    assert b"PG_VERSION" in done.stdout
    assert len(done.stdout) > 10_000_000


def test_receivewal(target: Target, tmp_path: Path) -> None:
    """Physical streaming from a slot, for a segment or two."""
    target.table("written", "id int")
    slot = ["-S", SLOT, "-D", str(tmp_path), "--no-loop"]
    program = [str(tool(target, "pg_receivewal")), "-U", REPLICATOR, *slot]
    target.run([*program, "--create-slot"])
    with running(target, "pg_receivewal", *slot, "--no-sync") as process:
        wait_until(lambda: walsenders(target, "streaming") == 1, "it streams")
        for number in range(2):
            target.sql(f"INSERT INTO written VALUES ({number})")
            target.sql("SELECT pg_switch_wal()")

        def whole() -> int:
            return len([one for one in tmp_path.iterdir() if one.suffix == ""])

        wait_until(lambda: whole() >= 2, "two segments have come")
        assert pool_serves(target)
        interrupt(process)
    wait_until(lambda: walsenders(target) == 0, "its server ends", 5)


def test_receivewal_killed(target: Target, tmp_path: Path) -> None:
    with running(target, "pg_receivewal", "-D", tmp_path, "--no-loop") as process:
        wait_until(lambda: walsenders(target, "streaming") == 1, "it streams")
        process.kill()
        process.wait(TIMEOUT_S)
    wait_until(lambda: walsenders(target) == 0, "its server ends", 5)
    assert pool_serves(target)


def test_recvlogical(target: Target, tmp_path: Path) -> None:
    """What a client of the pool writes is decoded for a client of replication."""
    target.table("decoded", "id int PRIMARY KEY, name text")
    output = tmp_path / "changes"
    slot = ["-d", DATABASE, "-S", SLOT]
    program = [str(tool(target, "pg_recvlogical")), "-U", REPLICATOR, *slot]
    target.run([*program, "--create-slot", "-P", "test_decoding"])
    more = ["--start", "--no-loop", "-f", str(output), "-s", "1", "-F", "0"]
    with running(target, "pg_recvlogical", *slot, *more) as process:
        wait_until(lambda: walsenders(target, "streaming") == 1, "it streams")
        for number in range(50):
            with target.pooler.connect() as conn:
                conn.execute(f"INSERT INTO decoded VALUES ({number}, 'naïve 東京')")
        wait_until(lambda: output.read_text().count("INSERT") == 50, "50 rows come")
        interrupt(process)
    assert "table public.decoded: INSERT: id[integer]:49" in output.read_text()
    wait_until(lambda: walsenders(target) == 0, "its server ends", 5)
    target.run([*program, "--drop-slot"])
    assert target.sql("SELECT * FROM pg_replication_slots") == []


def test_logical_by_psycopg2(target: Target) -> None:
    """A driver that sends feedback in the COPY BOTH stream and ends it by itself."""
    target.table("decoded_too", "id int PRIMARY KEY")
    conn = psycopg2.connect(
        dsn(target, ""), connection_factory=psycopg2.extras.LogicalReplicationConnection
    )
    try:
        cursor = conn.cursor()
        cursor.create_replication_slot(SLOT, output_plugin="test_decoding")
        cursor.start_replication(slot_name=SLOT, decode=True, status_interval=1)
        target.sql("INSERT INTO decoded_too VALUES (7)")
        seen: list[str] = []

        def read() -> bool:
            message = cursor.read_message()
            if message is not None:
                seen.append(message.payload)
                cursor.send_feedback(flush_lsn=message.data_start)
            return any("id[integer]:7" in one for one in seen)

        wait_until(read, "the change comes")
    finally:
        conn.close()
    wait_until(lambda: walsenders(target) == 0, "its server ends", 5)


@pytest.mark.parametrize("kind", ["database", "true"])
def test_commands(target: Target, kind: str) -> None:
    """Replication commands by simple query; with "database" SQL as well."""
    with psycopg.connect(
        dsn(target, f"replication={kind}"),
        autocommit=True,
        cursor_factory=psycopg.ClientCursor,
    ) as conn:
        found = conn.execute("IDENTIFY_SYSTEM").fetchone()
        assert found is not None
        assert found[3] == (DATABASE if kind == "database" else None)
        # Without a database there is no encoding: psycopg gives bytes.
        level = "logical" if kind == "database" else b"logical"
        assert conn.execute("SHOW wal_level").fetchone() == (level,)
        if kind == "database":
            assert conn.execute("SELECT 1").fetchone() == (1,)
        assert walsenders(target) == 1
        with pytest.raises(psycopg.errors.SyntaxError):
            conn.execute("START_REPLICATION nonsense")
        assert conn.execute("SHOW wal_level").fetchone() == (level,)


def test_role_without_the_right(target: Target) -> None:
    """What PostgreSQL says reaches the client."""
    with pytest.raises(psycopg.OperationalError, match=r"replication role|REPLICATION"):
        psycopg.connect(
            f"host={HOST} port={target.port} user={target.user} dbname={DATABASE}"
            " replication=database connect_timeout=10"
        )
    assert pool_serves(target)


def test_pool_is_not_touched(target: Target) -> None:
    """A walsender is never given to others; it takes a place of its pool."""
    with psycopg.connect(dsn(target, ""), autocommit=True) as own:
        own.execute("SELECT 1")
        before = backends(target.postgres, user=REPLICATOR)
        many = [
            psycopg.connect(dsn(target, "replication=database"), autocommit=True)
            for _ in range(2)
        ]
        try:
            assert walsenders(target) == 2
            assert own.execute("SELECT 2").fetchone() == (2,)
            assert backends(target.postgres, user=REPLICATOR) == before
        finally:
            for one in many:
                one.close()
        wait_until(lambda: walsenders(target) == 0, "their servers end", 5)
        assert own.execute("SELECT 3").fetchone() == (3,)
        assert backends(target.postgres, user=REPLICATOR) == before


def pool_serves(target: Target) -> bool:
    """A client of the pool gets an ordinary backend, with the replicator's name too."""
    for user in (target.user, REPLICATOR):
        with target.pooler.connect(user=user, autocommit=True) as conn:
            query = "SELECT backend_type FROM pg_stat_activity WHERE pid = %s"
            pid = conn.execute("SELECT pg_backend_pid()").fetchone()
            assert pid is not None
            assert target.postgres.psql(query % pid) == [("client backend",)]
    return True
