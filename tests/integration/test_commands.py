# SPDX-License-Identifier: MIT
"""The command line: ``pooler check``, ``console``, ``reload``, ``mkauth``, and root."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pooler
from pooler.__main__ import SUBCOMMANDS
from pooler.demo.postgres import Postgres
from pooler.tools.commands import group
from tests.integration.harness import ENVIRONMENT, HOST, Pooler, free_port


def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pooler", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=more.pop("cwd", None),
        env=ENVIRONMENT | more,
        input=more.get("STDIN", ""),
    )


def test_every_subcommand_is_known_and_in_the_help() -> None:
    assert set(group.commands) == SUBCOMMANDS
    help_text = run("--help").stdout
    for name in SUBCOMMANDS:
        assert f"pooler {name}" in " ".join(help_text.split())


def test_check_tells_all_that_is_wrong(tmp_path: Path) -> None:
    users, rules, ini = (tmp_path / name for name in ("users", "hba", "p.ini"))
    users.write_text('"a" "1"\nbroken\n"b" "2"\nalso broken\n')
    rules.write_text("host all all 10.0.0.0/8 md5\nhost all\nhost all all all nono\n")
    ini.write_text(
        "[databases]\na = host=h prt=5 pool_sze=1\na = host=h\nb host\n[pgbouncer]\n"
        "listen_prot = 1\nlisten_port = 70000\nauth_type = hba\n"
        f"auth_file = {users}\nauth_hba_file = {rules}\nmax_client_conn = 1\n[user]\n"
        "x = pool_size=1\n"
    )
    done = run("check", ini)
    assert done.returncode == 1
    assert done.stderr == ""
    *errors, summary = done.stdout.splitlines()
    for place, text in (
        (f"{ini}:2", 'unknown key "prt"; did you mean "port"?'),
        (f"{ini}:2", 'unknown key "pool_sze"; did you mean "pool_size"?'),
        (f"{ini}:3", f"second entry of this name; the first is at {ini}:2"),
        (f"{ini}:4", 'expected "=" after the name'),
        (f"{ini}:6", 'unknown setting "listen_prot"; did you mean "listen_port"?'),
        (f"{ini}:7", "listen_port: "),
        (f"{ini}:12", 'did you mean "users"?'),
        (f"{users}:2", 'expected "user" "secret"'),
        (f"{users}:4", 'expected "user" "secret"'),
        (f"{rules}:2", "users are missing"),
        (f"{rules}:3", "unknown method 'nono'"),
    ):
        assert any(f"error: {place}: " in one and text in one for one in errors), text
    assert summary == f"{ini}: 11 errors, no warnings"


def test_check_of_a_good_file_and_of_none(tmp_path: Path) -> None:
    ini = tmp_path / "p.ini"
    ini.write_text("[databases]\na = host=h\n[pgbouncer]\nauth_type = any\n")
    done = run("check", ini)
    assert (done.returncode, done.stdout) == (0, f"{ini}: no errors, no warnings\n")
    done = run("check", tmp_path / "none.ini")
    assert done.returncode == 1
    assert "cannot read: No such file or directory" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="for root only")
def test_root_by_mistake_is_refused(tmp_path: Path) -> None:
    ini = tmp_path / "p.ini"
    text = "[databases]\n[pgbouncer]\nauth_type = any\nunix_socket_dir =\n"
    ini.write_text(text)
    done = run(ini)
    assert done.returncode == 1
    assert "FATAL user: pooler should not run as root" in done.stderr
    # Meant: then the next problem is the one that is told.
    ini.write_text(text + "user = root\npidfile = /no/such/dir/pid\n")
    done = run(ini)
    assert done.returncode == 1
    assert "running as root, with all its privileges" in done.stderr
    assert "FATAL pidfile: " in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="for root only")
def test_a_user_that_cannot_read_the_packages() -> None:
    """Told once at the start; it used to be told by every child, again and again."""
    with tempfile.TemporaryDirectory() as made:
        packages = Path(made) / "packages"
        packages.mkdir(mode=0o700)
        (packages / "pooler").symlink_to(Path(pooler.__file__).parent)
        ini = Path(made) / "p.ini"
        ini.write_text(
            "[databases]\n[pgbouncer]\nauth_type = any\nunix_socket_dir =\n"
            f"listen_addr = {HOST}\nlisten_port = {free_port()}\nuser = nobody\n"
        )
        done = run(ini, PYTHONPATH=str(packages), cwd=made)
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if " LOG " not in line]
    assert len(told) == 1
    assert "FATAL user: nobody cannot load what the workers need: " in told[0]


def test_under_the_name_pgbouncer_there_are_no_subcommands(tmp_path: Path) -> None:
    program = tmp_path / "pgbouncer"
    program.write_text(
        f"#!{sys.executable}\nfrom pooler.__main__ import main\nmain()\n"
    )
    program.chmod(0o755)
    for arguments, code, text in (
        (("check",), 1, "check: cannot read: No such file or directory"),
        (("-V",), 0, "PgBouncer 1."),
    ):
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=ENVIRONMENT,
        )
        assert done.returncode == code
        assert text in done.stdout + done.stderr


@pytest.fixture(scope="module")
def running(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pooler]:
    directory = tmp_path_factory.mktemp("commands")
    made = Pooler(
        directory,
        postgres.port,
        settings={
            "unix_socket_dir": "@pooler-test",
            "auth_type": "scram-sha-256",
            "admin_users": "boss",
        },
        userlist='"boss" "secret"\n"app" "other"\n',
    )
    made.start()
    yield made
    made.finish()


def test_console_by_the_unix_socket_and_by_tcp(running: Pooler, tmp_path: Path) -> None:
    done = run("console", "-f", running.ini, "-c", "SHOW VERSION", "-c", "SHOW NOTHING")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].strip() == "version"
    assert lines[2].startswith("PgBouncer 1.")
    assert lines[3] == "(1 row)"
    assert done.stderr.startswith("ERROR:  invalid command 'SHOW NOTHING'")
    done = run(
        "console", "-f", running.ini, STDIN="show version;\n\nSET log_stats = 0\n"
    )
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "SET log_stats=0"

    ini = tmp_path / "tcp.ini"
    ini.write_text(
        f"[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {running.port}\n"
        "unix_socket_dir =\nauth_type = any\n"
    )
    asked = ("console", "-f", ini, "-U", "boss", "-c", "SHOW VERSION")
    assert run(*asked, PGPASSWORD="secret").returncode == 0
    done = run(*asked, PGPASSWORD="wrong")
    assert done.returncode == 1
    assert "SASL authentication failed" in done.stderr
    assert done.stderr.count("\n") == 1


def test_reload_and_its_failure(running: Pooler) -> None:
    done = run("reload", "-f", running.ini)
    assert (done.returncode, done.stdout) == (0, "RELOAD\n")
    text = running.ini.read_text()
    try:
        running.ini.write_text(text + "no_such_setting = 1\n")
        done = run("reload", "-f", running.ini)
    finally:
        running.ini.write_text(text)
    assert done.returncode == 1
    assert done.stderr == "ERROR:  RELOAD failed, see logs for additional details\n"


def test_shutdown(postgres: Postgres, tmp_path: Path) -> None:
    pooler = Pooler(
        tmp_path, postgres.port, settings={"unix_socket_dir": "@pooler-end"}
    )
    pooler.start()
    done = run("shutdown", "-f", pooler.ini, "--wait-for", "clients")
    assert (done.returncode, done.stdout) == (0, "SHUTDOWN\n")
    assert pooler.wait() == 0
    done = run("shutdown", "-f", pooler.ini)
    assert done.returncode == 1
    assert "no pooler answers at @pooler-end/.s.PGSQL." in done.stderr


def test_mkauth(postgres: Postgres, tmp_path: Path) -> None:
    postgres.psql('CREATE ROLE "with""quote" LOGIN PASSWORD \'x\'')
    postgres.psql("CREATE ROLE too_late LOGIN PASSWORD 'x' VALID UNTIL '2001-01-01'")
    try:
        path = tmp_path / "users.txt"
        dsn = postgres.dsn("postgres", "postgres")
        done = run("mkauth", path, dsn)
        assert done.returncode == 0, done.stderr
        assert path.stat().st_mode & 0o777 == 0o600
        lines = path.read_text().splitlines()
        assert '"too_late" "" ""' in lines
        assert any(one.startswith('"with""quote" "SCRAM-SHA-256$') for one in lines)
        path.chmod(0o640)
        assert ", unchanged" in run("mkauth", path, dsn).stdout
        path.write_text("old")
        assert ", written" in run("mkauth", path, dsn).stdout
        assert path.stat().st_mode & 0o777 == 0o640
    finally:
        postgres.psql('DROP ROLE "with""quote"')
        postgres.psql("DROP ROLE too_late")
    done = run("mkauth", path, f"host={HOST} port={free_port()} dbname=x")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
