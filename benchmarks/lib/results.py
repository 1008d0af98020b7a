# SPDX-License-Identifier: MIT
"""The results document: measurements and metadata, to JSON and back.

Nothing is averaged away: the file holds each measurement of each round.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import orjson

from benchmarks.lib.percentiles import Latency

FORMAT = 1


class ResultsError(Exception):
    """A file that is no results document."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One case on one target in one round. ``None`` is: not measured here."""

    case: str
    target: str
    round: int
    command: tuple[str, ...] = ()
    elapsed_s: float = 0.0
    transactions: int = 0
    tps: float | None = None
    latency: Latency | None = None
    peer_cpu_us: float | None = None
    postgres_cpu_us: float | None = None
    generator_cpu_us: float | None = None
    generator_busy: float | None = None  # share of its threads
    foreign_busy: float | None = None  # share of the machine, by other processes
    stolen: float | None = None  # share of the machine, by the hypervisor
    client_pss_bytes: float | None = None
    client_rss_bytes: float | None = None
    processes: int | None = None
    storm_s: float | None = None  # until all were logged in
    slowdown: float | None = None  # mean latency meanwhile, divided by that before
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Results:
    """A run of the benchmark."""

    metadata: dict[str, Any]
    measurements: list[Measurement] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the document."""
        document = {"format": FORMAT, **_as_document(self)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a document; its completeness is judged elsewhere."""
        try:
            document = orjson.loads(path.read_bytes())
            if document["format"] != FORMAT:
                raise ResultsError(f"{path}: format {document['format']} is not known")
            rows = [_measurement(row) for row in document["measurements"]]
            return cls(dict(document["metadata"]), rows)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise ResultsError(f"{path}: not a results file: {error!r}") from error


def _as_document(results: Results) -> dict[str, Any]:
    return {"metadata": results.metadata, "measurements": results.measurements}


def _measurement(row: dict[str, Any]) -> Measurement:
    latency = row.pop("latency", None)
    return Measurement(
        **{
            **row,
            "command": tuple(row.get("command", ())),
            "errors": tuple(row.get("errors", ())),
            "latency": Latency(**latency) if latency else None,
        }
    )
