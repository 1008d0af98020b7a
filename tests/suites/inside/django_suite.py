# SPDX-License-Identifier: MIT
"""Settings of Django's own tests, and a runner that writes one line for each test.

Two databases, because some tests want another one beside the default.
"""

from __future__ import annotations

import json
import os
import unittest
from typing import Any

from django.test.runner import DiscoverRunner


def _database(name: str) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": os.environ["PGHOST"],
        "PORT": os.environ["PGPORT"],
        "USER": os.environ["PGUSER"],
        "NAME": name,
        # As its manual says for transaction pooling: a cursor on the server that is
        # declared WITH HOLD belongs to a session.
        "DISABLE_SERVER_SIDE_CURSORS": os.environ["SUITE_WAY"] == "transaction",
        "CONN_MAX_AGE": 0,
    }


DATABASES = {"default": _database("suites"), "other": _database("suites_other")}
SECRET_KEY = "tests"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TEST_RUNNER = "django_suite.Runner"


class Lines(unittest.TextTestResult):
    """Writes the outcome of each test; the failure of a subtest is its test's."""

    def _write(self, test: unittest.TestCase, outcome: str) -> None:
        with open(os.environ["SUITE_RESULTS"], "a") as file:
            file.write(json.dumps({"name": test.id(), "outcome": outcome}) + "\n")

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self._write(test, "passed")

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._write(test, "failed")

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._write(test, "failed")

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._write(test, "failed")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._write(test, "skipped")

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self._write(test, "skipped")


class Runner(DiscoverRunner):  # type: ignore[misc]
    """Django's, with these lines."""

    def get_resultclass(self) -> type[unittest.TextTestResult]:
        return Lines
