# SPDX-License-Identifier: MIT
"""Run the differential test by hand: python -m tests.differential --seed 1."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from pooler.demo.postgres import Postgres
from tests.differential.bed import POSTGRES_SETTINGS, Bed
from tests.differential.generator import KINDS
from tests.differential.messages import read
from tests.differential.play import replay
from tests.differential.run import run


def main() -> int:
    """Exit code 1 when there is a difference."""
    parser = argparse.ArgumentParser(prog="tests.differential", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--exchanges", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--keep-going", action="store_true")
    parser.add_argument("--also-expected", action="store_true")
    parser.add_argument("--only", action="append", choices=list(KINDS), metavar="KIND")
    parser.add_argument("--replay", type=Path, metavar="FILE")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        Postgres(settings=POSTGRES_SETTINGS) as server,
        Bed(server, Path(directory)) as bed,
    ):
        if given.replay:
            difference = replay(bed, read(given.replay.read_text()))
            print(difference.report() if difference else "no difference")
            return int(difference is not None)
        found = run(
            bed,
            given.seed,
            kinds=given.only or tuple(KINDS),
            exchanges=given.exchanges or (0 if given.minutes else 1000),
            seconds=given.minutes * 60,
            keep_going=given.keep_going,
            also_expected=given.also_expected,
            tell=lambda text: print(text, flush=True),
        )
    print(found)
    for text in found.ended:
        print(text)
    for name, count in sorted(found.counts.items()):
        print(f"  {count:4} {name}")
    return int(bool(found.differences))


if __name__ == "__main__":
    sys.exit(main())
