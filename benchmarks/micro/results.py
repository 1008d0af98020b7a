# SPDX-License-Identifier: MIT
"""The document of a run: what was measured, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import orjson

FORMAT: Final = 1
FOLDER: Final = Path(__file__).resolve().parent / "results"


class ResultsError(Exception):
    """A file that is no results document."""


@dataclass(frozen=True, slots=True)
class Row:
    """One work. ``None`` is: not measured."""

    name: str
    per: str
    ns: float | None
    instructions: float | None


@dataclass(frozen=True, slots=True)
class Results:
    """A run of all works."""

    metadata: dict[str, Any]
    rows: list[Row]

    def save(self, name: str) -> Path:
        """Write the document, return where it is."""
        path = path_of(name)
        document = {"format": FORMAT, "metadata": self.metadata, "rows": self.rows}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            orjson.dumps(
                document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
            )
        )
        return path

    @classmethod
    def load(cls, name: str) -> Self:
        """Read a document."""
        path = path_of(name)
        try:
            document = orjson.loads(path.read_bytes())
            if document["format"] != FORMAT:
                raise ResultsError(f"{path}: format {document['format']} is not known")
            rows = [Row(**row) for row in document["rows"]]
            return cls(dict(document["metadata"]), rows)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ResultsError(f"{path}: no results: {error!r}") from error


def path_of(name: str) -> Path:
    """Return where a result of this name is."""
    return FOLDER / f"{name}.json"
