#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Find functions that are too long: function_lengths.py [ROOT].

A function's lines are those from its ``def`` (not its decorators) to its last one,
docstring, comments and functions inside it included. Python is read by ``ast``, Cython
by indentation. Prints one line per function that is too long; exits 1 if there are any.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("pooler", "tests", "benchmarks", "dev")
MAX_LINES = 60

TOKEN = re.compile(
    r"""
    (?P<string> (?P<quotes>\"{3}|'{3}) (?:\\.|[^\\])*? (?P=quotes)
              | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' )
    | (?P<comment> \#[^\n]* )
    | (?P<continued> \\\n )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
# The name is the first word right before a bracket.
SIGNATURE = re.compile(
    r"(?:async\s+def|def|cdef|cpdef)\b(?P<type>.*?\W)(?P<name>\w+)\("
)
NO_FUNCTION = re.compile(r"\b(?:class|cppclass|struct|union|enum|extern)\b")


class Function(NamedTuple):
    """A function and the lines that it takes."""

    name: str
    first_line: int
    last_line: int

    @property
    def length(self) -> int:
        """How many lines it has."""
        return self.last_line - self.first_line + 1


class Statement(NamedTuple):
    """What stands between two ends of line that count: not in strings or brackets."""

    first_line: int
    last_line: int
    indentation: int
    code: str  # without indentation and comments, strings empty; "" for a comment


def python_functions(source: str) -> Iterator[Function]:
    """All functions of a Python file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Function(node.name, node.lineno, node.end_lineno or node.lineno)


def cython_statements(source: str) -> Iterator[Statement]:
    """All statements and lines with only a comment of a Cython file."""
    line = first_line = 1
    raw = code = ""
    depth = 0  # of open brackets
    for token in TOKEN.finditer(source + "\n"):
        text = token.group()
        if text == "\n" and depth <= 0:
            if raw.strip():
                indentation = len(raw) - len(raw.lstrip())
                yield Statement(first_line, line, indentation, code.strip())
            line += 1
            first_line, raw, code, depth = line, "", "", 0
            continue
        raw += text
        line += text.count("\n")
        if token["string"]:
            code += '""'
        elif token["other"]:
            code += " " if text == "\n" else text
            depth += (text in "([{") - (text in ")]}")


def cython_functions(source: str) -> Iterator[Function]:
    """All functions of a Cython file that have a body of lines."""
    statements = list(cython_statements(source))
    for number, start in enumerate(statements):
        found = SIGNATURE.match(start.code)
        if not found or start.code[-1] != ":" or NO_FUNCTION.search(found["type"]):
            continue
        last_line = start.last_line
        for one in statements[number + 1 :]:
            if one.indentation > start.indentation:
                last_line = one.last_line
            elif one.code:
                break
        yield Function(found["name"], start.first_line, last_line)


def functions(path: Path) -> list[Function]:
    """All functions of a file, in its order."""
    source = path.read_text()
    found = python_functions if path.suffix == ".py" else cython_functions
    return sorted(found(source), key=lambda one: one.first_line)


def complaints(root: Path) -> list[str]:
    """A line for each function that is too long."""
    return [
        f"{path.relative_to(root)}:{one.first_line}: {one.name} is"
        f" {one.length} lines long, at most {MAX_LINES}"
        for folder in FOLDERS
        for path in sorted((root / folder).rglob("*"))
        if path.suffix in (".py", ".pyx", ".pxd")
        for one in functions(path)
        if one.length > MAX_LINES
    ]


def main() -> int:
    """Look through the folders."""
    found = complaints(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
    for text in found:
        print(text)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
