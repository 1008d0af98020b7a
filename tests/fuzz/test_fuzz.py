# SPDX-License-Identifier: MIT
"""A short run of the fuzzers: the canaries are found, and nothing else.

The same inputs each time; `make fuzz` looks for new ones.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNS = 10_000
MOST_SECONDS = 60  # for each target
DEADLINE_S = 700
FEWEST = {
    "scan": 1000,
    "relay": 500,
    "statements": 500,
    "sql": 1000,
    "tls": 300,
    "auth": 1000,
    "login": 300,
    "server_login": 300,
}


@pytest.mark.full
@pytest.mark.timeout(DEADLINE_S + 30)
def test_short_run(tmp_path: Path) -> None:
    answer = subprocess.run(
        [ROOT / "dev" / "fuzz.sh", str(MOST_SECONDS), tmp_path],
        env={
            **os.environ,
            "PYTHON": sys.executable,
            "POOLER_FUZZ_RUNS": str(RUNS),
        },
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "canaries: found" in answer.stdout
    counts = dict(re.findall(r"^(\w+): (\d+) executions$", answer.stdout, re.MULTILINE))
    assert {name for name in FEWEST if int(counts[name]) >= FEWEST[name]} == set(FEWEST)
