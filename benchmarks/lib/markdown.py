# SPDX-License-Identifier: MIT
"""Publish results in a Markdown file, or refuse: a number needs its circumstances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from benchmarks.lib.metadata import REQUIRED_KEYS
from benchmarks.lib.report import grid
from benchmarks.lib.results import Results
from benchmarks.lib.summary import summarise

MIN_ROUNDS: Final = 5
BEGIN: Final = "<!-- benchmark:begin -->"
END: Final = "<!-- benchmark:end -->"


class RefusedError(Exception):
    """Results that must not be published; ``reasons`` says all of why."""

    def __init__(self, reasons: Iterable[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("not published: " + "; ".join(self.reasons))


def refusals(results: Results) -> list[str]:
    """Return every reason not to publish; empty means that it may be."""
    metadata = results.metadata
    reasons = [f"metadata lacks {key}" for key in REQUIRED_KEYS if key not in metadata]
    if metadata.get("commit") is None and "commit" in metadata:
        reasons.append("the commit is not known")
    if metadata.get("quick"):
        reasons.append("it was a quick run")
    if not results.measurements:
        reasons.append("there are no measurements")
    rounds = Counter((row.case, row.target) for row in results.measurements)
    reasons += [
        f"{case} on {target} has {count} rounds, fewer than {MIN_ROUNDS}"
        for (case, target), count in rounds.items()
        if count < MIN_ROUNDS
    ]
    failed = Counter(
        (row.case, row.target) for row in results.measurements if row.errors
    )
    reasons += [
        f"{case} on {target} has errors in {count} rounds"
        for (case, target), count in failed.items()
    ]
    return reasons


def section(results: Results) -> str:
    """Return the Markdown of results that may be published; else ``RefusedError``."""
    reasons = refusals(results)
    if reasons:
        raise RefusedError(reasons)
    parts = [_circumstances(results.metadata)]
    for table in summarise(results):
        laid = grid(table)
        parts += [
            f"\n### {laid.title}\n",
            _line(laid.header),
            _line("---" if index == 0 else "--:" for index in range(len(laid.header))),
            *(_line(row) for row in laid.rows),
            *(f"\n{note}" for note in laid.notes),
        ]
    return "\n".join(parts) + "\n"


def publish(results: Results, path: Path) -> None:
    """Replace what is between the markers of a file."""
    text = section(results)
    page = path.read_text()
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise RefusedError([f"{path} has not one {BEGIN} and one {END}"])
    head, _, rest = page.partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        raise RefusedError([f"{path} has {END} before {BEGIN}"])
    path.write_text(f"{head}{BEGIN}\n{text}{END}{tail}")


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _circumstances(metadata: dict[str, Any]) -> str:
    dirty = " with uncommitted changes" if metadata["dirty"] else ""
    load = ", ".join(f"{value:.2f}" for value in metadata["load_average"])
    peers = ", ".join(
        f"{target['name']} {target['version']}"
        if target["version"] not in target["name"]
        else target["name"]
        for target in metadata["targets"]
    )
    items = {
        "date": metadata["date"],
        "commit": f"`{metadata['commit'][:12]}`{dirty}",
        "CPU": f"{metadata['cpu_model']}, {metadata['cores']} cores,"
        f" governor {metadata['governor'] or 'not readable'}",
        "kernel": metadata["kernel"],
        "built with": f"Python {metadata['python']}, Cython {metadata['cython']},"
        f" {metadata['compiler']}",
        "PostgreSQL": f"{metadata['postgres']}; {metadata['pgbench']}",
        "targets": peers,
        "measured": f"{metadata['rounds']} interleaved rounds of"
        f" {metadata['seconds']} s; median (lowest-highest)",
        "load average at the start": load,
    }
    return "\n".join(f"- {name}: {value}" for name, value in items.items())
