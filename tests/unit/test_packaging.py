# SPDX-License-Identifier: MIT
"""The files of packaging/ say what the program does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import click
import pytest

from pooler.__main__ import SUBCOMMANDS
from pooler.cli import _command as serve
from pooler.tools.commands import group

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
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


def test_the_manual_names_all_that_the_command_line_takes() -> None:
    text = (PACKAGING / "man" / "pooler.1").read_text().replace("\\-", "-")
    shell = click.Context(group)
    commands = [group.get_command(shell, name) for name in group.list_commands(shell)]
    taken = [
        name
        for command in (serve, *commands)
        for one in (command.params if command else ())
        if isinstance(one, click.Option)
        for name in one.opts
    ]
    assert len(taken) > 15
    missing = {name for name in taken if not re.search(rf"(?<!\w){name}\b", text)}
    missing |= {name for name in SUBCOMMANDS if f"\n.B pooler {name}\n" not in text}
    assert missing == set()
    man = shutil.which("man")
    if man is not None:
        page = PACKAGING / "man" / "pooler.1"
        done = subprocess.run(
            [man, "--warnings", "-l", page], capture_output=True, text=True, check=True
        )
        assert done.stderr == ""


def test_the_debian_package_stops_and_restarts_what_it_takes_away() -> None:
    """debhelper's --no-start alone stops it at an upgrade, and not at its removal."""
    debian = PACKAGING / "deb" / "debian"
    assert "--no-start --restart-after-upgrade" in (debian / "rules").read_text()
    stops = "deb-systemd-invoke stop pooler.socket pooler.service"
    assert stops in (debian / "prerm").read_text()


def setup_py(where: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "-q", *map(str, arguments)],
        cwd=where,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"POOLER_WITHOUT_EXTENSIONS": ""},
    )


def test_the_source_distribution_has_every_source_and_nothing_compiled(
    tmp_path: Path,
) -> None:
    """Without the .pyx files a wheel made from it would have no extension module."""
    done = setup_py(
        ROOT, "egg_info", "--egg-base", tmp_path, "sdist", "--dist-dir", tmp_path
    )
    assert done.returncode == 0, done.stderr
    (made,) = tmp_path.glob("pooler-*.tar.gz")
    with tarfile.open(made) as archive:
        names = {one.partition("/")[2] for one in archive.getnames()}
    ours = {
        path.relative_to(ROOT).as_posix()
        for suffix in (".py", ".pyi", ".pyx", ".pxd", ".typed")
        for path in (ROOT / "pooler").rglob(f"*{suffix}")
    }
    assert {"setup.py", "pyproject.toml", "LICENSE", "README.md"} <= names
    assert ours <= names
    assert not [one for one in names if one.endswith((".c", ".so", ".pyc"))]


def test_what_has_no_extension_sources_is_not_built(tmp_path: Path) -> None:
    shutil.copy(ROOT / "setup.py", tmp_path)
    (tmp_path / "pooler").mkdir()
    done = setup_py(tmp_path, "build_ext")
    assert done.returncode != 0
    assert "setup.py: no .pyx file in pooler/" in done.stderr
