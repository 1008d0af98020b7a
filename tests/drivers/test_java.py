# SPDX-License-Identifier: MIT
"""pgjdbc, run by java; the checks are in java/Driver.java."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.drivers.target import FETCH, Target, results

pytestmark = pytest.mark.full

PROGRAM = Path(__file__).parent / "java" / "Driver.java"
JAR = Path(os.environ.get("POOLER_PGJDBC", "/usr/share/java/postgresql.jar"))
CHECKS = 11


@pytest.fixture(scope="module")
def java() -> str:
    found = shutil.which("java")
    assert found is not None, f"java is missing: install a JDK, then {FETCH}"
    assert JAR.is_file(), f"pgjdbc is not at {JAR}: {FETCH}"
    return found


@pytest.mark.parametrize("threshold", ["", "1"], ids=["default", "at-once"])
def test_driver(target: Target, java: str, threshold: str) -> None:
    """From the ``threshold``-th time on pgjdbc gives a statement a name."""
    command = [java, "-cp", str(JAR), str(PROGRAM)]
    done = target.run(command, PREPARE_THRESHOLD=threshold)
    found = results(done.stdout)
    failed = {name: outcome for name, outcome in found.items() if outcome != "ok"}
    assert not failed, f"{failed}\n{done.stderr[-3000:]}"
    assert len(found) == CHECKS + target.session
