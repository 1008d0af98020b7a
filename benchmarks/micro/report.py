# SPDX-License-Identifier: MIT
"""Tables for the terminal: a run, and a run beside an earlier one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.micro.results import Results, Row

# Instructions hardly vary from run to run, so that this is a change of the code.
NOTABLE: Final = 0.10
# Counts and times compare only where these are equal.
CIRCUMSTANCES: Final = ("cpu_model", "kernel", "python", "cython", "compiler")
TEXT_COLUMNS: Final = {"work", "per", "more than 10 %"}
FILE_WIDTH: Final = 120


def amount(value: float | None) -> str:
    """Return a number of instructions or ns with some three digits."""
    if value is None:
        return ""
    digits = 2 if value < 10 else 1 if value < 1000 else 0
    return f"{value:,.{digits}f}"


def show(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table."""
    console = Console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    table = Table(box=box.SIMPLE, show_edge=False, padding=(0, 1, 0, 0))
    for title in header:
        table.add_column(title, justify="left" if title in TEXT_COLUMNS else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def show_run(run: Results) -> None:
    """Print what was measured."""
    show(
        ("work", "per", "ns", "instructions"),
        [(r.name, r.per, amount(r.ns), amount(r.instructions)) for r in run.rows],
    )


def show_compared(run: Results, base: Results, base_name: str) -> None:
    """Print a run beside an earlier one; ratios are now divided by then."""
    earlier = {row.name: row for row in base.rows}
    table = []
    for now in run.rows:
        then = earlier.pop(now.name, None) or Row(now.name, now.per, None, None)
        ratio = _ratio(now.instructions, then.instructions)
        table.append(
            (
                now.name,
                now.per,
                amount(then.ns),
                amount(now.ns),
                _shown(_ratio(now.ns, then.ns)),
                amount(then.instructions),
                amount(now.instructions),
                _shown(ratio),
                _mark(ratio),
            )
        )
    show(
        (
            "work",
            "per",
            f"ns {base_name}",
            "ns",
            "ratio",
            f"instr. {base_name}",
            "instr.",
            "ratio",
            "more than 10 %",
        ),
        table,
    )
    for name in earlier:
        print(f"{name} is in {base_name} only")
    for key in CIRCUMSTANCES:
        before, after = base.metadata.get(key), run.metadata.get(key)
        if before != after:
            print(f"{key} was {before}, is {after}")


def _ratio(now: float | None, then: float | None) -> float | None:
    return now / then if now is not None and then else None


def _shown(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _mark(ratio: float | None) -> str:
    if ratio is None or abs(ratio - 1) <= NOTABLE:
        return ""
    return "MORE" if ratio > 1 else "LESS"
