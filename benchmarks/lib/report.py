# SPDX-License-Identifier: MIT
"""Tables of a summary: cells are made once, for the terminal and for Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.lib.cases import CASES_BY_NAME
from benchmarks.lib.percentiles import Band
from benchmarks.lib.summary import METRICS, RATIOS, CaseTable, Metric, Row

INVALID = "INVALID"
UNBOUNDED = 10_000


@dataclass(frozen=True, slots=True)
class Grid:
    """A table as text."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def grid(table: CaseTable) -> Grid:
    """Lay a table out; a column that no row fills is left out."""
    metrics = [
        metric
        for metric in METRICS
        if any(metric.key in row.bands for row in table.rows)
    ]
    ratios = [key for key in RATIOS if any(key in row.ratios for row in table.rows)]
    case = CASES_BY_NAME.get(table.case)
    notes = [f"{row.target}: {error}" for row in table.rows for error in row.errors]
    if ratios:
        notes.insert(0, f"Ratios are to {table.baseline}.")
    return Grid(
        title=f"{table.case}: {case.about}" if case else table.case,
        header=(
            "target",
            *(metric.title for metric in metrics),
            *(RATIOS[key] for key in ratios),
        ),
        rows=tuple(_cells(row, metrics, ratios, table.baseline) for row in table.rows),
        notes=tuple(notes),
    )


def _cells(
    row: Row, metrics: list[Metric], ratios: list[str], baseline: str | None
) -> tuple[str, ...]:
    name = f"{row.target} ({INVALID})" if row.errors else row.target
    values = (_value(row.bands.get(metric.key), metric) for metric in metrics)
    compared = (
        "1" if row.target == baseline and row.ratios else _ratio(row.ratios.get(key))
        for key in ratios
    )
    return (name, *values, *compared)


def _value(band: Band | None, metric: Metric) -> str:
    if band is None:
        return ""
    median, low, high = (
        f"{value * metric.scale:,.{metric.digits}f}"
        for value in (band.median, band.low, band.high)
    )
    return median if low == high else f"{median} ({low}-{high})"


def _ratio(band: Band | None) -> str:
    """Mark a ratio whose rounds disagree about who is better: it is no claim."""
    if band is None:
        return ""
    mark = "≈" if band.contains(1.0) else ""
    return f"{mark}{band.median:.2f} ({band.low:.2f}-{band.high:.2f})"


def print_tables(console: Console, tables: list[CaseTable]) -> None:
    """Print one table per case."""
    for table in tables:
        laid = grid(table)
        shown = _layout(laid, "\n(")
        unbounded = console.options.update(max_width=UNBOUNDED)
        if console.measure(shown, options=unbounded).maximum > console.width:
            # A narrow terminal shows the medians alone; the file has everything.
            shown = _layout(laid, None)
        console.print(laid.title, style="bold", markup=False, highlight=False)
        console.print(shown)
        for note in laid.notes:
            console.print(f"  {note}", markup=False, highlight=False)
        console.print()


def _layout(laid: Grid, before_band: str | None) -> Table:
    """Return a table with each band under its median, or without bands."""
    shown = Table(
        box=box.SIMPLE,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for index, title in enumerate(laid.header):
        shown.add_column(title, justify="right" if index else "left")
    for name, *cells in laid.rows:
        parts = (cell.partition(" (") for cell in cells)
        shown.add_row(
            name,
            *(
                median + before_band + band if band and before_band else median
                for median, _, band in parts
            ),
        )
    return shown
