# SPDX-License-Identifier: MIT
"""Compare the pooler with its peers: ``python benchmarks/compare.py --help``."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.lib import metadata as about
from benchmarks.lib.cases import CASES, CASES_BY_NAME, TABLES_SQL, Case
from benchmarks.lib.clients import Address, raise_descriptor_limit
from benchmarks.lib.configs import MAX_CLIENTS
from benchmarks.lib.markdown import MIN_ROUNDS, RefusedError, publish
from benchmarks.lib.peers import (
    ROOT,
    PeerError,
    Target,
    direct_target,
    find_pgbouncer,
    pooler_targets,
    probe_target,
    unique_names,
)
from benchmarks.lib.pgbench import Pgbench
from benchmarks.lib.report import print_tables
from benchmarks.lib.results import Measurement, Results, ResultsError
from benchmarks.lib.runner import Placed, Runner, Step, place, plan
from benchmarks.lib.summary import summarise
from pooler.demo.postgres import Postgres, find_installation, port_is_free

DATABASE = "bench"
QUICK_ROUNDS, QUICK_SECONDS = 2, 2
FILE_WIDTH = 200
# One thread makes more than one pooler can take; on few cores a second only
# takes the processor away from what is measured.
CORES_FOR_TWO_THREADS = 4
# Below the ports of outgoing connections: `connect` uses thousands of those, and one
# of them could be the port that a target wants back at its next start.
PORT_FIRST, PORT_LAST = 10_000, 19_999
# autovacuum would be work for nobody's transaction.
SERVER_SETTINGS = {"autovacuum": "off", "shared_buffers": "256MB"}


@click.command()
@click.option(
    "--case", "case_names", multiple=True, type=click.Choice([*CASES_BY_NAME])
)
@click.option(
    "--target",
    "target_names",
    multiple=True,
    metavar="NAME",
    help="Name, or its part before the version; repeatable.",
)
@click.option(
    "--pgbouncer",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="Repeatable. Default: the one that is installed.",
)
@click.option(
    "--before",
    type=click.Path(exists=True, dir_okay=False),
    help="The pooler program of another build, shown beside as pooler-before.",
)
@click.option("--odyssey", multiple=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seconds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--quick", is_flag=True, help="A sanity look; never published.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=ROOT / "benchmarks" / "results",
)
@click.option(
    "--markdown",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Write the tables between the markers of this file.",
)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, exists=True),
    help="Show (and publish) this results file; run nothing.",
)
def main(
    case_names: Sequence[str],
    target_names: Sequence[str],
    pgbouncer: Sequence[str],
    before: str | None,
    odyssey: Sequence[str],
    rounds: int,
    seconds: int,
    quick: bool,
    output: Path,
    markdown: Path | None,
    source: Path | None,
) -> None:
    """Measure CPU, latency, throughput and memory of the pooler and its peers."""
    console = Console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    try:
        if source is not None:
            results = Results.load(source)
        else:
            if quick:
                rounds, seconds = QUICK_ROUNDS, QUICK_SECONDS
            if markdown is not None and rounds < MIN_ROUNDS:
                raise click.UsageError(
                    f"--markdown needs --rounds {MIN_ROUNDS} or more, and no --quick"
                )
            cases = [CASES_BY_NAME[name] for name in case_names] or list(CASES)
            targets = choose(
                find_targets(pgbouncer, before, odyssey, target_names), target_names
            )
            results = run(console, cases, targets, rounds, seconds, quick)
            save(console, results, output)
        show(console, results)
        if markdown is not None:
            publish(results, markdown)
    except (PeerError, RefusedError, ResultsError) as error:
        raise click.ClickException(str(error)) from error


def find_targets(
    pgbouncer: Sequence[str],
    before: str | None,
    odyssey: Sequence[str],
    wanted: Sequence[str],
) -> list[Target]:
    """Return every target there is; ours only when it is wanted."""
    targets = [direct_target(find_installation().version)]
    if not wanted or any(name.startswith("pooler") for name in wanted):
        targets += pooler_targets(core_count(), before)
    installed = find_pgbouncer()
    peers = pgbouncer or ([installed] if installed else [])
    targets += [probe_target("pgbouncer", (os.path.abspath(path),)) for path in peers]
    targets += [probe_target("odyssey", (os.path.abspath(path),)) for path in odyssey]
    return unique_names(targets)


def choose(targets: Sequence[Target], names: Sequence[str]) -> list[Target]:
    """Return the targets that were asked for, in the order of the table."""
    unknown = [
        name
        for name in names
        if not any(name in (target.name, target.brand) for target in targets)
    ]
    if unknown:
        known = ", ".join(target.name for target in targets)
        raise click.UsageError(f"no target {', '.join(unknown)}; there are: {known}")
    # `pooler` is a name as well as a brand: then it means that one target.
    exact = {target.name for target in targets}
    return [
        target
        for target in targets
        if not names
        or target.name in names
        or (target.brand in names and target.brand not in exact)
    ]


def run(
    console: Console,
    cases: Sequence[Case],
    targets: Sequence[Target],
    rounds: int,
    seconds: int,
    quick: bool,
) -> Results:
    """Start PostgreSQL, make its tables, measure everything."""
    load_average = os.getloadavg()
    raise_descriptor_limit(MAX_CLIENTS)
    cores = core_count()
    threads = 2 if cores >= CORES_FOR_TWO_THREADS else 1
    with (
        tempfile.TemporaryDirectory(prefix="pooler-bench-") as scratch,
        Postgres(settings=SERVER_SETTINGS) as postgres,
    ):
        folder = Path(scratch)
        # Targets run as another account and must reach their folders below.
        folder.chmod(0o755)
        program = postgres.installation.tool("pgbench")
        if program is None:
            raise PeerError("there is no pgbench: install PostgreSQL's client programs")
        pgbench = Pgbench(str(program), threads, folder)
        with console.status("filling the tables"):
            fill(postgres, pgbench, cases)
        runner = Runner(postgres, pgbench, cores, seconds)
        placed = place_all(targets, postgres, folder)
        for one in placed.values():
            runner.check(one)
        circumstances: dict[str, Any] = about.collect(
            postgres=postgres.installation.version,
            pgbench=str(program),
            pgbench_threads=threads,
            cores=cores,
            rounds=rounds,
            seconds=seconds,
            quick=quick,
            cases=cases,
            load_average=load_average,
        )
        circumstances["targets"] = [
            about.describe(one.target, one.files) for one in placed.values()
        ]
        steps = list(plan(cases, targets, rounds))
        return Results(circumstances, list(measure_all(console, runner, steps, placed)))


def place_all(
    targets: Sequence[Target], postgres: Postgres, folder: Path
) -> dict[str, Placed]:
    """Give every target, by its name, a folder and a port."""
    return {
        target.name: place(
            target, postgres, postgres.superuser, DATABASE, folder / target.name, port
        )
        for target, port in zip(targets, free_ports(len(targets)), strict=True)
    }


def measure_all(
    console: Console,
    runner: Runner,
    steps: Sequence[Step],
    placed: Mapping[str, Placed],
) -> Iterator[Measurement]:
    """Measure step by step, with a bar that shows how far it is."""
    rounds = max((step.round for step in steps), default=0)
    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    # Redrawn seldom: the bar shares the processors with what is measured.
    with Progress(*columns, console=console, refresh_per_second=1) as progress:
        bar = progress.add_task("", total=len(steps))
        for step in steps:
            label = f"{step.case.name} {step.round}/{rounds} {step.target.name}"
            progress.update(bar, description=label)
            yield runner.measure(step, placed[step.target.name])
            progress.advance(bar)


def fill(postgres: Postgres, pgbench: Pgbench, cases: Sequence[Case]) -> None:
    """Make the database, its tables and the scripts."""
    postgres.psql(f"CREATE DATABASE {DATABASE}")
    pgbench.fill(Address(postgres.host, postgres.port, postgres.superuser, DATABASE))
    for statement in TABLES_SQL:
        postgres.psql(statement, DATABASE)
    for case in cases:
        pgbench.write_script(case)


def save(console: Console, results: Results, output: Path) -> None:
    """Write the results under the date of the run."""
    stamp = results.metadata["date"][:19].replace(":", "")
    mark = "-quick" if results.metadata["quick"] else ""
    path = output / f"{stamp}{mark}.json"
    results.save(path)
    console.print(f"results: {path}\n", markup=False, highlight=False)


def show(console: Console, results: Results) -> None:
    """Print the tables, and that they mean little if so."""
    if results.metadata.get("quick"):
        console.print("QUICK RUN: a sanity look, not a result\n", style="bold yellow")
    print_tables(console, summarise(results))


def core_count() -> int:
    """Return the processors that we may use."""
    return len(os.sched_getaffinity(0))


def free_ports(count: int) -> list[int]:
    """Return distinct ports that nobody listens on at this moment."""
    found: set[int] = set()
    while len(found) < count:
        port = PORT_FIRST + secrets.randbelow(PORT_LAST - PORT_FIRST + 1)
        if port not in found and port_is_free(port):
            found.add(port)
    return sorted(found)


if __name__ == "__main__":
    main()
