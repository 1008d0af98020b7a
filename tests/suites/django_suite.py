# SPDX-License-Identifier: MIT
"""Django's own tests of its applications that use the database."""

from __future__ import annotations

from pathlib import Path

from tests.suites import fetch
from tests.suites.suite import Command, Suite
from tests.suites.ways import DATABASE, Needs, Target

VERSION = "Django==5.2.19"
DIGEST = "ad03d8abc51dbff95ebf34b27123cf0c26a3b62db7ba0cd520783686362533d1"
OPTIONS = "runtests.py --settings=django_suite --parallel=1 --keepdb --noinput"
APPLICATIONS = """
    aggregation annotations async backends basic bulk_create cache composite_pk
    constraints custom_pk datatypes db_functions delete distinct_on_fields expressions
    expressions_case expressions_window extra_regress get_or_create indexes inspectdb
    introspection lookup many_to_many many_to_one migrations model_fields
    multiple_database postgres_tests prefetch_related queries raw_query schema
    select_for_update serializers transaction_hooks transactions update
"""


def fetch_tests() -> Path:
    """The tests of the release that the virtualenv has."""
    return fetch.source(VERSION, DIGEST, ["tests"])


def run_tests(target: Target) -> Command:
    """They make and keep databases of their own: Rotation holds servers of them."""
    return Command(
        (fetch.PYTHON, *OPTIONS.split(), *APPLICATIONS.split()),
        fetch_tests() / "tests",
        {"SUITE_WAY": target.way},
    )


DJANGO = Suite(
    fetch_tests,
    run_tests,
    Needs((DATABASE, "suites_other", "test_suites", "test_suites_other")),
)
