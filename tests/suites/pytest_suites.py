# SPDX-License-Identifier: MIT
"""Suites that pytest runs as they come: of asyncpg, psycopg2, pg8000, PyGreSQL."""

from __future__ import annotations

from pathlib import Path

from tests.suites import fetch
from tests.suites.suite import Command, Suite
from tests.suites.ways import Needs, Target

OPTIONS = "-p pytest_lines -p no:cacheprovider -q -rfE --tb=native --timeout=40"
PYTEST: tuple[str | Path, ...] = (fetch.PYTHON, "-m", "pytest", *OPTIONS.split())
# The files of the project that they lie in are none of their business.
ALONE = ("-c", "/dev/null", "--rootdir=.")


def fetch_asyncpg() -> Path:
    """The tests of the release that the virtualenv has."""
    digest = "45e64e56714d888330b884aad1dfb363d0bf43fb343e3d1a8968525f3bade478"
    return fetch.source("asyncpg==0.32.0", digest, ["tests"])


def run_asyncpg(target: Target) -> Command:
    """Its test cases take the server of libpq's variables if there is one."""
    ignored = [f"--ignore=tests/test_{name}.py" for name in ASYNCPG_OTHER]
    return Command((*PYTEST, *ALONE, *ignored, "tests"), fetch_asyncpg(), {})


# About the source text of the project, and about clusters that it starts itself.
ASYNCPG_OTHER = ("_environment", "_sourcecode", "subinterpreters")


def fetch_psycopg2() -> Path:
    """The tests of the release that the virtualenv has."""
    digest = "d36784fc2dae69523ba4b79c7d1d1b4d6e83e87836874f111262f4db940b16a6"
    return fetch.source("psycopg2==2.9.13", digest, ["tests"])


def run_psycopg2(target: Target) -> Command:
    """Its tests take the server of libpq's variables, but for the database.

    The functions ``test_suite`` are no tests, so only classes are collected.
    """
    arguments = (*PYTEST, *ALONE, "-o", "python_functions=none", "tests")
    variables = {"PSYCOPG2_TESTDB": target.database}
    return Command(arguments, fetch_psycopg2(), variables)


def fetch_pg8000() -> Path:
    """The tests of the release that the virtualenv has."""
    digest = "553b240256d4b2d8f0ad2af28d07df1f9980247f74ac98d2c2b573762ec1ff1b"
    return fetch.source("pg8000==1.31.6", digest, ["test"])


def run_pg8000(target: Target) -> Command:
    """Its tests log in as postgres; those of logins want a server set up for them."""
    ignored = [f"--ignore=test/{one}/auth" for one in ("dbapi", "legacy", "native")]
    ignored.append("--ignore-glob=*/test_benchmarks.py")
    arguments = (*PYTEST, *ALONE, *ignored, "--ignore=test/test_readme.py", "test")
    return Command(arguments, fetch_pg8000(), {})


def fetch_pygresql() -> Path:
    """The tests of the release that is compiled for the virtualenv."""
    fetch.installed("PyGreSQL==6.1.0", "libpq-dev", "gcc")
    digest = "d5ae8e68bf33c0ba0566a6d708ff68296fddda7d2f7dd6cce7bfd5cc6fd5b2f8"
    return fetch.source("PyGreSQL==6.1.0", digest, ["tests"])


def run_pygresql(target: Target) -> Command:
    """Its tests take the server of libpq's variables.

    Those of LISTEN wait for notifications without an end.
    """
    notified = ["--ignore=tests/test_classic_notification.py"]
    ignored = notified if target.way == "transaction" else []
    return Command((*PYTEST, *ALONE, *ignored, "tests"), fetch_pygresql(), {})


ASYNCPG = Suite(fetch_asyncpg, run_asyncpg)
PSYCOPG2 = Suite(
    fetch_psycopg2, run_psycopg2, Needs(preparation="CREATE EXTENSION hstore")
)
PG8000 = Suite(
    fetch_pg8000,
    run_pg8000,
    Needs(("postgres",), "CREATE EXTENSION hstore", "postgres"),
)
PYGRESQL = Suite(fetch_pygresql, run_pygresql)
