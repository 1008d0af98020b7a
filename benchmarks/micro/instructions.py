# SPDX-License-Identifier: MIT
"""Count instructions: ``python -m benchmarks.micro.instructions [NAME...]``.

Unlike time they hardly depend on what else the machine does. Valgrind's callgrind
counts N and 2 N repetitions of each work; the difference divided by N has no part of
what happens once.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import orjson

from benchmarks.lib.peers import ROOT
from benchmarks.micro.report import amount, show
from benchmarks.micro.works import BY_NAME, WORKS, Work

DEADLINE_S = 900
DIGITS = 2  # more are noise
MARKS = 3  # of each work, see marked.py
TOTALS = re.compile(r"^totals: (\d+)$", re.MULTILINE)


class CountError(Exception):
    """Instructions cannot be counted; says why."""


def missing() -> str | None:
    """Say how to get valgrind if it is not installed."""
    if shutil.which("valgrind"):
        return None
    return "valgrind is not installed (apt-get install valgrind)"


def count(works: Sequence[Work]) -> dict[str, float]:
    """Return the instructions of one item of each work, by name."""
    if why := missing():
        raise CountError(why)
    with tempfile.TemporaryDirectory() as folder:
        dumps = Path(folder) / "dump"
        done = subprocess.run(
            [
                "valgrind",
                "--tool=callgrind",
                f"--callgrind-out-file={dumps}",
                "--dump-before=*_loops_*mark",
                sys.executable,
                "-m",
                "benchmarks.micro.marked",
                *(work.name for work in works),
            ],
            cwd=ROOT,
            # The same everywhere: texts and addresses are hashed, and the
            # environment's size moves addresses.
            env={"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        if done.returncode:
            raise CountError(f"valgrind failed:\n{done.stderr[-4000:]}")
        # Dump K was written at mark K, and has what was counted since the one before.
        return {
            work.name: round(
                (_total(dumps, at + 3) - _total(dumps, at + 2))
                / (work.repetitions * work.items),
                DIGITS,
            )
            for at, work in zip(range(0, MARKS * len(works), MARKS), works, strict=True)
        }


def _total(dumps: Path, number: int) -> int:
    """Return the instructions of one dump."""
    try:
        text = dumps.with_name(f"{dumps.name}.{number}").read_text()
    except FileNotFoundError:
        raise CountError("callgrind has not seen the marks of the loops") from None
    found = TOTALS.search(text)
    if found is None:
        raise CountError("callgrind has written no totals")
    return int(found[1])


@click.command()
@click.argument("names", nargs=-1, type=click.Choice([*BY_NAME]), metavar="[NAME]...")
@click.option("--json", "path", type=click.Path(path_type=Path, dir_okay=False))
def main(names: Sequence[str], path: Path | None) -> None:
    """Count the instructions of works, by default of all."""
    works = [BY_NAME[name] for name in names] or list(WORKS)
    try:
        counts = count(works)
    except CountError as error:
        raise click.ClickException(str(error)) from error
    show(
        ("work", "per", "instructions"),
        [(work.name, work.per, amount(counts[work.name])) for work in works],
    )
    if path is not None:
        path.write_bytes(
            orjson.dumps(
                [
                    {"name": w.name, "per": w.per, "instructions": counts[w.name]}
                    for w in works
                ],
                option=orjson.OPT_INDENT_2,
            )
        )


if __name__ == "__main__":
    main()
