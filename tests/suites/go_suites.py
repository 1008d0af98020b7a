# SPDX-License-Identifier: MIT
"""The tests of lib/pq, sqlx, and pgx with its parts, from Debian's source packages."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from tests.suites import fetch
from tests.suites.suite import FOLDER, Command, Suite
from tests.suites.ways import Needs, Target

# Where Debian puts sources; tests run without modules, hence without downloads.
GOPATH = "/usr/share/gocode"
MODULES = {"GO111MODULE": "off", "GOPATH": GOPATH, "GOFLAGS": ""}
PQ = ("github.com/lib/pq", "github.com/lib/pq/hstore")
PGX = tuple(
    f"github.com/jackc/{name}"
    for name in (
        "pgx/v4",
        "pgx/v4/pgxpool",
        "pgx/v4/stdlib",
        "pgconn",
        "pgconn/stmtcache",
    )
)


def variables(target: Target) -> Mapping[str, str]:
    """What their tests take a server from, besides libpq's variables."""
    url = f"postgres:{target.url}?sslmode=disable"
    return {
        "PGX_TEST_DATABASE": url,
        "PGX_TEST_CONN_STRING": url,
        "SQLX_POSTGRES_DSN": url,
        "SQLX_MYSQL_DSN": "skip",
        "SQLX_SQLITE_DSN": "skip",
    }


def run_tests(packages: Sequence[str], target: Target) -> Command:
    """One package after another: they use the same tables.

    The timeout ends a package: a test that waits for ever for a notification costs
    those that come behind it.
    """
    options = ["test", "-json", "-count=1", "-p=1", "-vet=off", "-timeout=4m"]
    environment = {
        **MODULES,
        **variables(target),
        "GOCACHE": str(FOLDER / "go-cache"),
        "PGSSLMODE": "disable",
    }
    return Command(("go", *options, *packages), FOLDER, environment)


LIBPQ = Suite(
    fetch.debian_packages("golang-go", "golang-github-lib-pq-dev"),
    functools.partial(run_tests, PQ),
    Needs(preparation="CREATE EXTENSION hstore"),
    go=True,
)
PGX_SUITE = Suite(
    fetch.debian_packages(
        "golang-go",
        "golang-github-jackc-pgx-v4-dev",
        "golang-github-stretchr-testify-dev",
    ),
    functools.partial(run_tests, PGX),
    Needs(preparation="CREATE EXTENSION hstore; CREATE DOMAIN uint64 AS numeric(20,0)"),
    go=True,
)
SQLX = Suite(
    fetch.debian_packages("golang-go", "gcc", "golang-github-jmoiron-sqlx-dev"),
    functools.partial(run_tests, ("github.com/jmoiron/sqlx",)),
    go=True,
)
