# SPDX-License-Identifier: MIT
"""node-postgres and postgres.js, run by node; the checks are in node/*.mjs."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.drivers.target import FETCH, Target, results

pytestmark = pytest.mark.full

SCRIPTS = Path(__file__).parent / "node"
PACKAGES = Path(os.environ.get("NODE_DRIVERS", Path(sys.prefix, "node_drivers")))


@pytest.fixture(scope="module")
def node() -> str:
    found = shutil.which("node")
    assert found is not None, f"node is missing: install it, then {FETCH}"
    assert (PACKAGES / "node_modules").is_dir(), f"no packages in {PACKAGES}: {FETCH}"
    return found


@pytest.mark.parametrize(("script", "least"), [("pg.mjs", 11), ("postgres.mjs", 10)])
def test_driver(target: Target, node: str, script: str, least: int) -> None:
    done = target.run([node, SCRIPTS / script], NODE_DRIVERS=str(PACKAGES))
    found = results(done.stdout)
    failed = {name: outcome for name, outcome in found.items() if outcome != "ok"}
    assert not failed, "\n".join(f"{name}: {said}" for name, said in failed.items())
    assert len(found) == least + target.session
