# SPDX-License-Identifier: MIT
"""Programs that watch PgBouncer, against it and against us: nothing is missing here.

They are fetched by pip and apt as their users do, hence ``full``; what cannot be had
is skipped. ``POOLER_PGBOUNCER`` names another PgBouncer than that of the system.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psycopg
import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import (
    DATABASE,
    HOST,
    USER,
    Pooler,
    free_port,
    wait_until,
)

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

ADMIN = "chief"
SYSTEM_PATH = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"
EXPORTER = "prometheus-pgbouncer-exporter"
# Of these it names versions that no wheel can be had of.
NEEDS = ("prometheus_client", "psycopg2-binary", "python-json-logger", "PyYAML")
# PgBouncer has called it reserve_pool_size since 1.24, as we do.
OLD_NAMES = re.compile("reserve_pool(_size{.*)?$")
SAME = re.compile("pool_size|max_|connections|transactions_total|queries_total")
INI = """[databases]
{database} = host={host} port={server_port}
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {directory}/users
pool_mode = transaction
admin_users = {admin}
pidfile = {directory}/pid
logfile = {directory}/log
"""


def answers(port: int) -> bool:
    with contextlib.suppress(psycopg.Error), connect(port, "pgbouncer", ADMIN):
        return True
    return False


def connect(port: int, database: str, user: str) -> psycopg.Connection:
    return psycopg.connect(
        host=HOST, port=port, dbname=database, user=user, autocommit=True
    )


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    # pytest's own are root's alone, and PgBouncer gives up root.
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture(scope="module")
def pgbouncer(postgres: Postgres, directory: Path) -> Iterator[int]:
    """Its port; one of its clients has asked something."""
    program = os.environ.get("POOLER_PGBOUNCER") or shutil.which(
        "pgbouncer", path=SYSTEM_PATH
    )
    if program is None:
        pytest.skip("there is no PgBouncer to compare with")
    port, place = free_port(), directory / "pgbouncer"
    place.mkdir()
    place.chmod(0o777)
    values = {"database": DATABASE, "host": HOST, "server_port": postgres.port}
    (place / "users").write_text(f'"{USER}" ""\n"{ADMIN}" ""\n')
    ini = place / "pgbouncer.ini"
    ini.write_text(INI.format(port=port, admin=ADMIN, directory=place, **values))
    become = ("-u", "nobody") if os.geteuid() == 0 else ()
    process = subprocess.Popen([program, "-q", *become, ini], stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(port), "PgBouncer")
        with connect(port, DATABASE, USER) as client:
            client.execute("SELECT 1")
            yield port
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(10)


@pytest.fixture(scope="module")
def ours(postgres: Postgres, directory: Path) -> Iterator[int]:
    """As ``pgbouncer``."""
    place = directory / "pooler"
    place.mkdir()
    pooler = Pooler(
        place,
        postgres.port,
        {DATABASE: ""},
        {
            "admin_users": ADMIN,
            "workers": 2,
            "default_pool_size": 20,
            "max_client_conn": 100,
        },
    )
    try:
        pooler.start()
        with pooler.client() as client:
            client.value("SELECT 1")
            yield pooler.port
    finally:
        pooler.finish()


def run(*command: object, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | more,
    )


# prometheus-pgbouncer-exporter


@pytest.fixture(scope="module")
def exporter(directory: Path) -> Path:
    venv = directory / "venv"
    run(sys.executable, "-m", "venv", venv)
    pip = (venv / "bin" / "python", "-m", "pip", "install", "-q")
    for packages in (("--no-deps", EXPORTER), NEEDS):
        done = run(*pip, *packages)
        if done.returncode:
            pytest.skip(f"pip has no {' '.join(packages)}: {done.stderr[-300:]}")
    return venv / "bin" / "pgbouncer-exporter"


def metrics(exporter: Path, directory: Path, port: int) -> dict[str, float]:
    """What it tells of one pooler, by name and labels."""
    own_port = free_port()
    config = directory / f"{port}.yml"
    config.write_text(
        f"exporter_host: {HOST}\nexporter_port: {own_port}\npgbouncers:\n"
        f"  - dsn: postgresql://{ADMIN}@{HOST}:{port}/pgbouncer\n"
    )
    process = subprocess.Popen([exporter, "--config", config], stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                url = f"http://{HOST}:{own_port}/metrics"
                with urllib.request.urlopen(url, timeout=10) as answer:
                    text = answer.read().decode()
                break
            except urllib.error.URLError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)  # until it listens
    finally:
        process.terminate()
        process.wait(10)
    lines = [line for line in text.splitlines() if line.startswith("pgbouncer_")]
    # When a counter was first seen is the exporter's own affair.
    pairs = [line.rsplit(" ", 1) for line in lines if "_created" not in line]
    return {name: float(value) for name, value in pairs}


def test_prometheus_exporter(
    exporter: Path, directory: Path, pgbouncer: int, ours: int
) -> None:
    """Every metric is there, and means the same."""
    of_pgbouncer = metrics(exporter, directory, pgbouncer)
    of_us = metrics(exporter, directory, ours)
    assert of_pgbouncer["pgbouncer_up"] == of_us["pgbouncer_up"] == 1
    assert len(of_pgbouncer) > 20
    missing = of_pgbouncer.keys() - of_us.keys()
    assert {name for name in missing if not OLD_NAMES.search(name)} == set()
    for name in of_pgbouncer.keys() & of_us.keys():
        # How often its own console was asked is another thing for each.
        if SAME.search(name) and 'database="pgbouncer"' not in name:
            assert (name, of_us[name]) == (name, of_pgbouncer[name])


# check_postgres


@pytest.fixture(scope="module")
def check_postgres(directory: Path) -> Path:
    found = shutil.which("check_postgres", path=SYSTEM_PATH)
    if found is not None:
        return Path(found)
    if shutil.which("apt-get") is None or shutil.which("perl") is None:
        pytest.skip("check_postgres needs apt-get and Perl")
    place = directory / "check_postgres"
    place.mkdir()
    done = subprocess.run(
        ["apt-get", "download", "-q", "check-postgres"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    packages = list(place.glob("*.deb"))
    if done.returncode or not packages:
        pytest.skip(f"apt-get has no check-postgres: {done.stderr[-300:]}")
    run("dpkg", "-x", packages[0], place)
    return place / "usr" / "bin" / "check_postgres"


def checked(
    check_postgres: Path, postgres: Postgres, port: int, action: str
) -> tuple[int, str]:
    """Exit code and output, without what is different each time."""
    limits = () if action.startswith("pgbouncer") else ("--warning=50",)
    if action == "pgbouncer_checksum":
        limits = ("--critical=" + "0" * 32,)
    psql = postgres.installation.tool("psql")
    assert psql is not None
    done = run(
        *("perl", check_postgres, f"--action={action}", "--dbname=pgbouncer"),
        *(f"--host={HOST}", f"--port={port}", f"--dbuser={ADMIN}", *limits),
        PATH=f"{Path(psql).parent}:{SYSTEM_PATH}",
    )
    text = done.stdout + done.stderr
    text = text.replace(str(port), "PORT")
    return done.returncode, re.sub(r"time=[0-9.]+s|checksum: \w+", "", text)


ACTIONS = [
    *(f"pgb_pool_cl_{what}" for what in ("active", "waiting")),
    *(f"pgb_pool_sv_{what}" for what in ("active", "idle", "used", "tested", "login")),
    *("pgb_pool_maxwait", "pgbouncer_backends", "pgbouncer_checksum"),
]


@pytest.mark.parametrize("action", ACTIONS)
def test_check_postgres(
    check_postgres: Path, postgres: Postgres, pgbouncer: int, ours: int, action: str
) -> None:
    theirs = checked(check_postgres, postgres, pgbouncer, action)
    assert theirs[0] == (2 if action == "pgbouncer_checksum" else 0), theirs[1]
    assert checked(check_postgres, postgres, ours, action) == theirs


# psql


def watched(postgres: Postgres, port: int, command: str) -> list[str]:
    r"""The first two heads that ``\watch`` shows."""
    psql = postgres.installation.tool("psql")
    heads: list[str] = []
    with subprocess.Popen(
        [*map(str, (psql, "-XA", "-h", HOST, "-p", port, "-U", ADMIN, "pgbouncer"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{command} \\watch 0.1\n")
            process.stdin.flush()
            while len(heads) < 2:
                line = process.stdout.readline()
                assert line
                if line.startswith(("database|", "name|")):
                    heads.append(line.strip())
        finally:
            process.kill()
    return heads


@pytest.mark.parametrize("command", ["show pools", "show stats", "show databases"])
def test_psql_watches(
    postgres: Postgres, pgbouncer: int, ours: int, command: str
) -> None:
    theirs, of_us = (watched(postgres, port, command) for port in (pgbouncer, ours))
    assert of_us[0] == of_us[1]
    missing = set(theirs[0].split("|")) - set(of_us[0].split("|"))
    assert {name for name in missing if not OLD_NAMES.search(name)} == set()


# Drivers

NAMES = """
active_sockets clients config databases dns_hosts dns_zones fds lists mem peers
peer_pools pools servers sockets state stats stats_averages stats_totals totals users
version client_encoding datestyle default_transaction_isolation
standard_conforming_strings timezone
"""
SHOWS = NAMES.split()
NEW_IN_1_25 = "client_login_count"


@pytest.mark.parametrize("show", SHOWS)
def test_columns_types_and_totals(pgbouncer: int, ours: int, show: str) -> None:
    with (
        connect(pgbouncer, "pgbouncer", ADMIN) as theirs,
        connect(ours, "pgbouncer", ADMIN) as of_us,
    ):
        version = str(theirs.execute("show version").fetchone())
        if re.search(r"1\.2[45]", version) is None:
            pytest.skip(f"compared with 1.24 and 1.25, and this is {version}")
        found = [one.execute(f"show {show}") for one in (theirs, of_us)]
        columns = [
            [(one.name, one.type_code) for one in answer.description or []]
            for answer in found
        ]
        if "1.24" in version:
            columns[1] = [one for one in columns[1] if NEW_IN_1_25 not in one[0]]
        assert columns[0]
        assert columns[1] == columns[0]
        if show == "totals":
            names = [[row[0] for row in answer.fetchall()] for answer in found]
            assert [name for name in names[1] if NEW_IN_1_25 not in name] == names[0]


def test_asyncpg_reads_every_show(ours: int) -> None:
    """By the extended protocol, binary; PgBouncer has the simple one only."""

    async def ask() -> dict[str, list[str]]:
        console = await asyncpg.connect(
            host=HOST, port=ours, user=ADMIN, database="pgbouncer"
        )
        try:
            return {
                show: [str(row) for row in await console.fetch(f"show {show}")]
                for show in SHOWS
            }
        finally:
            await console.close()

    told = asyncio.run(ask())
    for show in ("version", "config", "databases", "peers", "mem", "timezone"):
        with connect(ours, "pgbouncer", ADMIN) as console:
            rows = console.execute(f"show {show}").fetchall()
        assert len(rows) == len(told[show]), show
        for row, text in zip(rows, told[show], strict=True):
            assert all(repr(value) in text for value in row), show
