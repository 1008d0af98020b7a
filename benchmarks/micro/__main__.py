# SPDX-License-Identifier: MIT
"""Measure the core: ``make bench-micro``, ``python -m benchmarks.micro --help``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import orjson

from benchmarks.lib import metadata as about
from benchmarks.lib.peers import ROOT
from benchmarks.micro.instructions import CountError, count, missing
from benchmarks.micro.report import show_compared, show_run
from benchmarks.micro.results import Results, ResultsError, Row
from benchmarks.micro.works import WORKS


class Name(click.ParamType[str]):
    """The name of a stored result, which becomes the name of a file."""

    name = "NAME"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Refuse what would be a path."""
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", value):
            self.fail(f"{value!r} is no name for a result", param, ctx)
        return value


@click.command()
@click.option("--save", type=Name(), help="Store the result under this name.")
@click.option("--base", type=Name(), help="Compare with the result of this name.")
def main(save: str | None, base: str | None) -> None:
    """Take the time of all works and count their instructions."""
    try:
        earlier = None if base is None else Results.load(base)
        run = measure()
    except (CountError, ResultsError) as error:
        raise click.ClickException(str(error)) from error
    if earlier is None or base is None:
        show_run(run)
    else:
        show_compared(run, earlier, base)
    if why := missing():
        click.echo(f"Instructions were not counted: {why}.")
    if save is not None:
        click.echo(f"Stored in {os.path.relpath(run.save(save))}")


def measure() -> Results:
    """Measure all works."""
    metadata = {
        **about.machine(),
        "valgrind": about.output(["valgrind", "--version"]),
        "load_average": os.getloadavg(),
    }
    times = take_times()
    counts = {} if missing() else count(WORKS)
    return Results(
        metadata,
        [
            Row(work.name, work.per, times[work.name], counts.get(work.name))
            for work in WORKS
        ],
    )


def take_times() -> dict[str, float]:
    """Run the benchmarks: ns of one item of each work, by name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "times.json"
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "--benchmark-quiet",
                f"--benchmark-json={path}",
                Path(__file__).parent,
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise click.ClickException(f"pytest failed:\n{done.stdout}{done.stderr}")
        rows: list[dict[str, Any]] = orjson.loads(path.read_bytes())["benchmarks"]
    infos = [row["extra_info"] for row in rows]
    return {info["work"]: info["ns"] for info in infos}


if __name__ == "__main__":
    main()
