# SPDX-License-Identifier: MIT
"""psql: the backslash commands that talk to the server in their own way."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.drivers.target import TIMEOUT_S, Target
from tests.integration.harness import wait_until


@pytest.fixture
def program(target: Target) -> Path:
    found = target.postgres.installation.tool("psql")
    assert found is not None, "psql is missing: apt-get install postgresql-client"
    return found


def psql(target: Target, program: Path, script: str) -> list[str]:
    """Run a script; the lines it printed. Any error fails the test."""
    options = ["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-"]
    return target.run([program, *options], text=script).stdout.splitlines()


@contextmanager
def running(
    target: Target, program: Path, script: str
) -> Iterator[subprocess.Popen[str]]:
    """A psql that goes on until the test is over."""
    process = subprocess.Popen(
        [program, "-X", "-A", "-t", "-f", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=target.environment(),
    )
    try:
        assert process.stdin is not None
        process.stdin.write(script)
        process.stdin.close()
        process.stdin = None
        yield process
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)


class Terminal:
    """An interactive psql: reading a file it ends at Ctrl-C, here it goes on."""

    def __init__(self, target: Target, program: Path) -> None:
        self._fd, slave = pty.openpty()
        self._process = subprocess.Popen(
            [program, "-X", "-A", "-t", "-n"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=target.environment(TERM="dumb", PAGER="cat"),
            start_new_session=True,
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        self.wait_for("=> ")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(TIMEOUT_S)
        os.close(self._fd)

    def type(self, line: str) -> None:
        os.write(self._fd, line.encode() + b"\n")

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def wait_for(self, text: str) -> None:
        """Read what it prints, until this has come."""
        deadline = time.monotonic() + TIMEOUT_S
        seen = ""
        while text not in seen:
            left_s = deadline - time.monotonic()
            ready = select.select([self._fd], [], [], max(left_s, 0))[0]
            assert ready, f"{text!r} not in {seen!r}"
            seen += os.read(self._fd, 65536).decode(errors="replace")


def test_script(target: Target, program: Path) -> None:
    """Variables, conditions, a transaction and \\d, which asks the catalogs."""
    target.table("things", "id int PRIMARY KEY, name text")
    lines = psql(
        target,
        program,
        """
        BEGIN;
        INSERT INTO things VALUES (1, 'naïve 東京');
        COMMIT;
        SELECT count(*) AS found FROM things \\gset
        \\if :found
        \\echo found :found
        \\endif
        SELECT 1 \\; SELECT 2;
        \\d things
        \\timing on
        SELECT name FROM things;
        """,
    )
    assert lines[:3] == ["found 1", "1", "2"]
    assert "naïve 東京" in lines
    assert "id|integer||not null|" in lines


def test_copy(target: Target, program: Path, tmp_path: Path) -> None:
    target.table("copied", "id int, name text")
    source, taken = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("".join(f'{n},"naïve {n}"\n' for n in range(20_000)))
    lines = psql(
        target,
        program,
        f"""
        \\copy copied FROM '{source}' CSV
        \\copy (SELECT id, name FROM copied ORDER BY id) TO '{taken}' CSV
        COPY copied FROM STDIN;
77\tlast
\\.
        SELECT count(*) FROM copied;
        """,
    )
    assert lines == ["20001"]
    assert taken.read_text() == source.read_text().replace('"', "")


def test_large_objects(target: Target, program: Path, tmp_path: Path) -> None:
    source, taken = tmp_path / "in", tmp_path / "out"
    source.write_bytes(bytes(range(256)) * 2000)
    psql(
        target,
        program,
        f"""
        \\lo_import '{source}' 'a comment'
        \\set large :LASTOID
        \\lo_export :large '{taken}'
        \\lo_unlink :large
        """,
    )
    assert taken.read_bytes() == source.read_bytes()


def test_gexec(target: Target, program: Path) -> None:
    lines = psql(
        target,
        program,
        """
        SELECT format('CREATE TABLE made_%s AS SELECT %s AS n', n, n)
          FROM generate_series(1, 20) n \\gexec
        SELECT count(*) FROM pg_tables WHERE tablename LIKE 'made%';
        SELECT 'SELECT 1', 'SELECT 2' \\gexec
        """,
    )
    assert lines == ["20", "1", "2"]


def test_cursor_by_fetch_count(target: Target, program: Path) -> None:
    lines = psql(
        target,
        program,
        "\\set FETCH_COUNT 100\nSELECT generate_series(1, 5000);",
    )
    assert lines == [str(number) for number in range(1, 5001)]


def test_bind_and_parse_by_gdesc(target: Target, program: Path) -> None:
    """\\gdesc describes a statement by the extended protocol."""
    lines = psql(target, program, "SELECT 1 AS a, 'x'::text AS b \\gdesc")
    assert lines == ["a|integer", "b|text"]


def test_watch(target: Target, program: Path) -> None:
    """It repeats until Ctrl-C; psql 15 cannot count."""
    target.table("watched", "at timestamptz")
    script = "INSERT INTO watched VALUES (now()) \\watch 0.05\nSELECT 'after';\n"
    with running(target, program, script) as process:
        seen = "SELECT count(DISTINCT at) >= 5 FROM watched"
        wait_until(lambda: target.value(seen), "\\watch repeats")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=TIMEOUT_S)
    assert "after" in output.splitlines()


@pytest.mark.parametrize("begin", ["", "BEGIN;"])
def test_cancel_by_ctrl_c(target: Target, program: Path, begin: str) -> None:
    with Terminal(target, program) as terminal:
        for _ in range(3):
            terminal.type(f"{begin} SELECT pg_sleep(25);")
            target.wait_for_query("SELECT pg_sleep")
            terminal.interrupt()
            terminal.wait_for("canceling statement due to user request")
            terminal.type("ROLLBACK; SELECT 40 + 2;")
            terminal.wait_for("42")


def test_cancel_of_copy_out(target: Target, program: Path) -> None:
    with Terminal(target, program) as terminal:
        terminal.type("\\copy (SELECT generate_series(1, 2000000000)) TO '/dev/null'")
        target.wait_for_query("COPY")
        terminal.interrupt()
        terminal.wait_for("canceling statement due to user request")
        terminal.type("SELECT 40 + 2;")
        terminal.wait_for("42")


def test_killed(target: Target, program: Path) -> None:
    """SIGKILL in a transaction: rolled back, and its query cancelled."""
    target.table("killed", "id int")
    script = "BEGIN; INSERT INTO killed VALUES (1); SELECT pg_sleep(25);"
    with running(target, program, script) as process:
        target.wait_for_query("%pg_sleep(25)")
        process.kill()
        process.wait(TIMEOUT_S)
    if target.mode == "direct":
        target.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE usename = '{target.user}'"
        )
    wait_until(lambda: not target.runs("%pg_sleep"), "cancelled", 5)
    assert target.value("SELECT count(*) FROM killed") == 0


def test_reconnect(target: Target, program: Path) -> None:
    lines = psql(target, program, "\\c - - - -\n" * 10 + "SELECT 1;\n")
    assert lines[-1] == "1"


def test_notifications(target: Target, program: Path) -> None:
    if not target.session:
        pytest.skip("LISTEN belongs to the session")
    lines = psql(target, program, "LISTEN news;\nNOTIFY news, 'flash';\nSELECT 1;")
    assert any("flash" in line for line in lines)
