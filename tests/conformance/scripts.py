# SPDX-License-Identifier: MIT
"""All protocol scripts; ``script`` says what one is."""

from __future__ import annotations

from tests.conformance.script import Script
from tests.conformance.scripts_copy import copy_scripts
from tests.conformance.scripts_ends import end_scripts
from tests.conformance.scripts_extended import extended_scripts
from tests.conformance.scripts_prepared import prepared_scripts
from tests.conformance.scripts_simple import simple_scripts

# What the scripts need, once per database.
SETUP = "CREATE TABLE IF NOT EXISTS conf (a int, b text)"


def all_scripts() -> list[Script]:
    """Every script; their names differ."""
    scripts = [
        *simple_scripts(),
        *extended_scripts(),
        *prepared_scripts(),
        *copy_scripts(),
        *end_scripts(),
    ]
    assert len({script.name for script in scripts}) == len(scripts)
    return scripts
