# SPDX-License-Identifier: MIT
"""The suites by name; a new one is a new row."""

from __future__ import annotations

from collections.abc import Mapping

from tests.suites import sqlalchemy_suites
from tests.suites.django_suite import DJANGO
from tests.suites.go_suites import LIBPQ, PGX_SUITE, SQLX
from tests.suites.node_suite import NODE
from tests.suites.odbc_suite import ODBC
from tests.suites.pytest_suites import ASYNCPG, PG8000, PSYCOPG2, PYGRESQL
from tests.suites.suite import Suite

SUITES: Mapping[str, Suite] = {
    "asyncpg": ASYNCPG,
    "psycopg2": PSYCOPG2,
    "pg8000": PG8000,
    "pygresql": PYGRESQL,
    "pq": LIBPQ,
    "pgx": PGX_SUITE,
    "sqlx": SQLX,
    "node": NODE,
    "odbc": ODBC,
    "django": DJANGO,
    **sqlalchemy_suites.SUITES,
    "alembic": sqlalchemy_suites.ALEMBIC,
}
