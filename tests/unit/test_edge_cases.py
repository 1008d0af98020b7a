# SPDX-License-Identifier: MIT
"""docs/edge-cases.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = sorted(
    set(
        re.findall(
            r"`(test_\w+\.py)::(\w+)`",
            (ROOT / "docs" / "edge-cases.md").read_text(),
        )
    )
)


def test_the_page_names_tests() -> None:
    assert len(NAMED) > 50


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_named_test_exists(file: str, name: str) -> None:
    found = list((ROOT / "tests").rglob(file))
    assert found, f"no file {file}"
    text = "".join(path.read_text() for path in found)
    assert re.search(rf"^\s*(?:async )?(?:def|class) {name}\b", text, re.M)
