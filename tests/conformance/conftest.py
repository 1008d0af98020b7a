# SPDX-License-Identifier: MIT
"""Fixtures: one PostgreSQL, and a pooler of one server in each pool mode."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pooler.demo.postgres import Postgres
from tests.conformance.bed import Bed


@pytest.fixture(scope="session")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """PostgreSQL as it is found, and the poolers before it."""
    with Postgres() as server, Bed(server, tmp_path_factory.mktemp("bed")) as made:
        yield made
