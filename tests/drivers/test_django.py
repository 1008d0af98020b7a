# SPDX-License-Identifier: MIT
"""Django's test runner makes, copies and drops its databases through the pooler.

With the pooler's default settings. It logs in to ``postgres`` for that, and its tests
to what it has made; its processes get a copy each.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pooler.demo.postgres import Postgres
from tests.integration.harness import HOST, Pooler

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

SETTINGS = """
DATABASES = {{
    "default": {{
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "{host}",
        "PORT": {port},
        "USER": "django",
        "NAME": "site",
    }}
}}
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "shop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SECRET_KEY = "of a test"
USE_TZ = True
"""
MODELS = """
from django.db import models


class Item(models.Model):
    name = models.CharField(max_length=20, unique=True)
"""
TESTS = """
from django.contrib.auth.models import User
from django.db import connection
from django.test import TestCase, TransactionTestCase
from shop.models import Item


class InTransactions:
    def test_rows(self):
        Item.objects.create(name="a")
        User.objects.create_user("u")
        self.assertEqual(list(Item.objects.values_list("name", flat=True)), ["a"])

    def test_empty(self):
        self.assertEqual(Item.objects.count() + User.objects.count(), 0)
        self.assertTrue(connection.settings_dict["NAME"].startswith("test_site"))


class Rolled(InTransactions, TestCase): ...
class Truncated(InTransactions, TransactionTestCase): ...
class Other(InTransactions, TestCase): ...
class Another(InTransactions, TransactionTestCase): ...
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a virtualenv that has Django."""
    venv = tmp_path_factory.mktemp("django") / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run(
        [venv / "bin/pip", "install", "-q", "Django>=5.2,<5.3", "psycopg[binary]>=3.1"],
        check=True,
    )
    return venv / "bin" / "python"


@pytest.fixture(scope="module")
def pooler(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pooler]:
    """``pool_mode`` and all that concerns pools are what they are by default."""
    postgres.psql("CREATE ROLE django LOGIN CREATEDB")
    made = Pooler(
        tmp_path_factory.mktemp("site"),
        postgres.port,
        {"*": ""},
        {"pool_mode": "session", "default_pool_size": 20, "workers": 2},
    )
    try:
        yield made.start()
    finally:
        made.finish()


@pytest.mark.parametrize("processes", [1, 2])
def test_its_runner(
    pooler: Pooler, postgres: Postgres, python: Path, tmp_path: Path, processes: int
) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/__init__.py").touch()
    (tmp_path / "shop/models.py").write_text(MODELS)
    (tmp_path / "shop/tests.py").write_text(TESTS)
    settings = SETTINGS.format(host=HOST, port=pooler.port)
    (tmp_path / "settings.py").write_text(settings)
    for _ in range(2):  # what the first run has dropped is made again
        done = subprocess.run(
            [python, "-m", "django", "test", f"--parallel={processes}", "--noinput"],
            cwd=tmp_path,
            env=os.environ | {"DJANGO_SETTINGS_MODULE": "settings"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Ran 8 tests" in done.stderr
        left = postgres.psql("SELECT datname FROM pg_database WHERE datname ~ 'site'")
        assert left == []
