# SPDX-License-Identifier: MIT
"""SQLAlchemy's tests of databases, once for each driver of PostgreSQL; Alembic's."""

from __future__ import annotations

import functools
from pathlib import Path

from tests.suites import fetch
from tests.suites.pytest_suites import PYTEST
from tests.suites.suite import Command, Suite
from tests.suites.ways import Needs, Target

VERSION = "sqlalchemy==2.1.9"
DIGEST = "d700a8b2edfb26282a470333d6bc4a454c4acda4d201a3bea7b72fa76c217d28"
# Its tests import the library from beside them, hence `lib`.
KEPT = ("test", "lib", "setup.cfg", "pyproject.toml")
DRIVERS = ("psycopg", "psycopg2", "asyncpg", "pg8000")
# What sends SQL; the rest compiles it only.
CHOSEN = (
    "test/dialect/test_suite.py",
    "test/dialect/postgresql",
    "test/engine/test_execute.py",
    "test/engine/test_reflection.py",
    "test/engine/test_transaction.py",
    "test/sql/test_insert_exec.py",
    "test/sql/test_query.py",
    "test/sql/test_resultset.py",
    "test/sql/test_sequences.py",
    "test/sql/test_update.py",
)
# One kind of range is enough: each has more than a thousand tests.
RANGES = ("DateRange", "DateTimeRange", "DateTimeTZRange", "Int8Range", "NumRange")
LEFT_OUT = " and ".join(f"not {name}" for name in RANGES)
# Its README.unittests asks for these.
PREPARATION = """
    CREATE EXTENSION hstore;
    CREATE EXTENSION citext;
    CREATE SCHEMA test_schema;
    CREATE SCHEMA test_schema_2
"""


def fetch_tests() -> Path:
    """The tests of the release that the virtualenv has."""
    return fetch.source(VERSION, DIGEST, KEPT)


def run_tests(driver: str, target: Target) -> Command:
    """Its own plugin of pytest takes the driver from the URL."""
    url = f"postgresql+{driver}:{target.url}"
    options = ("--backend-only", "--maxfail=100000", "-k", LEFT_OUT, "--dburi", url)
    return Command((*PYTEST, *options, *CHOSEN), fetch_tests(), {})


SUITES = {
    f"sqlalchemy-{driver}": Suite(
        fetch_tests,
        functools.partial(run_tests, driver),
        Needs(preparation=PREPARATION),
    )
    for driver in DRIVERS
}

ALEMBIC_VERSION = "alembic==1.20.1"
ALEMBIC_DIGEST = "83490def1f723413db5096591f7609ac52544805be93849170088ed04f5a2e0b"


def fetch_alembic() -> Path:
    """They load a plugin from the library beside them."""
    fetch.environment()
    fetch.installed("Mako==1.4.3")
    kept = ("tests", "alembic", "setup.cfg", "pyproject.toml")
    return fetch.source(ALEMBIC_VERSION, ALEMBIC_DIGEST, kept)


def run_alembic(target: Target) -> Command:
    """Those that send SQL."""
    options = ("--backend-only", "--maxfail=100000")
    url = f"postgresql+psycopg:{target.url}"
    return Command((*PYTEST, *options, "--dburi", url, "tests"), fetch_alembic(), {})


ALEMBIC = Suite(
    fetch_alembic,
    run_alembic,
    Needs(preparation="CREATE SCHEMA test_schema; CREATE EXTENSION btree_gist"),
)
