# SPDX-License-Identifier: MIT
"""psqlODBC through pyodbc: a script of our own, because Debian packages no tests."""

from __future__ import annotations

from tests.suites import fetch
from tests.suites.suite import FOLDER, INSIDE, Command, Suite
from tests.suites.ways import Target


def fetch_driver() -> None:
    """The driver and its manager from Debian, pyodbc in the virtualenv."""
    fetch.debian(("odbc-postgresql", "unixodbc"))
    fetch.environment()


def run_script(target: Target) -> Command:
    """The script takes the server from libpq's variables."""
    return Command((fetch.PYTHON, INSIDE / "odbc_suite.py"), FOLDER, {})


ODBC = Suite(fetch_driver, run_script)
