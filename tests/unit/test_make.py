# SPDX-License-Identifier: MIT
"""What `make` says before it does anything; what is installed to run."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize(
    "port", ["abc", "0", "65536", "", "-1", "7 7", "$(id)", "1;id"]
)
def test_a_port_that_is_none(port: str) -> None:
    done = subprocess.run(
        ["make", "-s", "run", f"PORT={port.replace('$', '$$')}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")},
    )
    assert done.returncode != 0
    assert done.stdout == ""
    said = done.stderr.splitlines()[0]
    assert said == (
        f'PORT must be a number from 1 to 65535, and "{port}" is none:'
        " make run PORT=7000"
    )


def names_of(requirements: list[str]) -> set[str]:
    return {one.partition("[")[0].partition(">")[0] for one in requirements}


def test_running_needs_what_is_imported_and_no_more() -> None:
    """Of the packages of others, by where they are imported."""
    imported: dict[str, set[str]] = {}
    for path in (ROOT / "pooler").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            found = []
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                found = [node.module or ""]
            for name in found:
                top = name.partition(".")[0]
                if top not in ("pooler", "_typeshed", *sys.stdlib_module_names):
                    imported.setdefault(top, set()).add(path.parent.name)
    extras = PROJECT["optional-dependencies"]
    always = {name for name, where in imported.items() if where - {"demo", "tools"}}
    assert (
        always
        == names_of(PROJECT["dependencies"])
        == {
            "click",
            "psutil",
            "pycares",
        }
    )
    assert imported["psycopg"] == {"demo", "tools"}
    assert "psycopg" in names_of(extras["demo"]) & names_of(extras["mkauth"])
