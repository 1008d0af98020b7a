# SPDX-License-Identifier: MIT
"""The files of packaging/ say what the program does."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
SERVICE = PACKAGING / "systemd" / "pooler.service"
# systemd-analyze of version 252 and newer; 0 is the best, 10 the worst.
MOST_EXPOSED = 1.7


def test_the_score_of_the_unit_is_what_the_documentation_says(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze")
    unit = tmp_path / "pooler.service"
    # Before 253 the type is unknown, which says nothing about security.
    unit.write_text(SERVICE.read_text().replace("notify-reload", "notify"))
    said = subprocess.run(
        [analyze, "security", "--offline=yes", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    score = re.search(r"Overall exposure level for pooler.service: ([0-9.]+)", said)
    assert score is not None, said
    assert float(score[1]) <= MOST_EXPOSED


def test_unit_and_program_agree() -> None:
    unit = dict(
        line.split("=", 1)
        for line in SERVICE.read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    assert unit["ExecStart"] == "/usr/bin/pooler /etc/pooler/pooler.ini"
    # The master forwards signals to its children.
    assert unit["KillMode"] == "mixed"
    users = (PACKAGING / "systemd" / "pooler.sysusers").read_text()
    assert f"u {unit['User']} " in users
