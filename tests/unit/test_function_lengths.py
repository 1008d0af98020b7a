# SPDX-License-Identifier: MIT
"""Where functions begin and end, as dev/function_lengths.py finds it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from dev import function_lengths
from dev.function_lengths import (
    FOLDERS,
    MAX_LINES,
    Function,
    complaints,
    cython_functions,
    functions,
    python_functions,
)

ROOT = Path(__file__).resolve().parents[2]

BOTH = {
    "nested": (
        """\
        def outer():
            def inner():
                return 1

            return inner
        """,
        [("outer", 1, 5), ("inner", 2, 3)],
    ),
    "method": (
        """\
        class A:
            x = 1

            def one(self):
                return 1

            def two(self):
                return 2


        y = 3
        """,
        [("one", 4, 5), ("two", 7, 8)],
    ),
    "signature of lines": (
        """\
        def f(
            a,
            b=(1, 2),
        ):
            return a


        def g(a,
              b):
            return {
                a: b,
        }
        """,
        [("f", 1, 5), ("g", 8, 12)],
    ),
    "decorators do not count": (
        """\
        @decorate(
            with_this=1,
        )
        @again
        def f():
            return 1
        """,
        [("f", 5, 6)],
    ),
    "no function in a string": (
        '''\
        def f():
            """One.

        def g():
            return 1
            """
            text = "def h():"  # def i():
            return 'it\\'s' """
        def j(): \\"""
        """


        x = 1
        ''',
        [("f", 1, 10)],
    ),
    "comments and blank lines inside": (
        """\
        def f():
            # above

        # at the margin
            x = 1

            # below
            return x


        # of something else
        x = 1
        """,
        [("f", 1, 8)],
    ),
    "a line that goes on": (
        """\
        def f(a, b):
            return a + \\
        b
        """,
        [("f", 1, 3)],
    ),
    "asynchronous": (
        """\
        async def f():
            await g()
        """,
        [("f", 1, 2)],
    ),
}

CYTHON = {
    "cdef class": (
        """\
        @cython.final
        cdef class A(B):
            cdef int x
            cdef readonly tuple y

            def __cinit__(self):
                self.x = f(1)

            cdef int one(self) noexcept nogil:
                if self.x:
                    return 1

                return 2

            @property
            def two(self):
                return self.x
        """,
        [("__cinit__", 6, 7), ("one", 9, 13), ("two", 16, 17)],
    ),
    "signature of lines": (
        """\
        cdef inline const uint8_t *find(
            ClientConn *c, (int, int) pair,
            int (*compare)(int) noexcept nogil,
        ) noexcept nogil:
            return NULL
        cpdef object g(int a,
                       int b): # why
            return a
        """,
        [("find", 1, 5), ("g", 6, 8)],
    ),
    "only declared": (
        """\
        cdef extern from "x.h" nogil:
            int read(int fd)
            ctypedef int (*callback)(int)

        cdef int f(
            int a,
        ) except? -1 nogil
        cdef packed struct S:
            int a
        cdef enum E:
            A = 1
        cpdef enum F:
            B = 1
        cdef int (*pointer)(int)
        cdef int x = f(1)
        """,
        [],
    ),
    "under a condition": (
        """\
        if x:
            cdef int f():
                return 1
        else:
            cdef int g() except -1:
                return 2
        """,
        [("f", 2, 3), ("g", 5, 6)],
    ),
    "a comment at the end": (
        """\
        cdef int f():
            return 1
            # why

        # of something else
        """,
        [("f", 1, 3)],
    ),
    "types with brackets": (
        """\
        cdef (int, int) f(x):
            return 1, 2
        cdef int[:] g(int[:] x):
            return x
        """,
        [("f", 1, 2), ("g", 3, 4)],
    ),
}


def each(cases: dict[str, tuple[str, list[tuple[str, int, int]]]]) -> list[object]:
    return [
        pytest.param(dedent(source), [Function(*row) for row in rows], id=name)
        for name, (source, rows) in cases.items()
    ]


@pytest.mark.parametrize(("source", "expected"), each(BOTH))
def test_python(source: str, expected: list[Function]) -> None:
    found = sorted(python_functions(source), key=lambda one: one.first_line)
    assert found == expected


@pytest.mark.parametrize(("source", "expected"), [*each(BOTH), *each(CYTHON)])
def test_cython(source: str, expected: list[Function]) -> None:
    assert list(cython_functions(source)) == expected


@pytest.mark.full
def test_both_ways_agree() -> None:
    """Most of Python is Cython too, and here are thousands of functions to try."""
    seen = 0
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            source = path.read_text()
            by_ast = {one.first_line: one for one in python_functions(source)}
            for one in cython_functions(source):
                other = by_ast.pop(one.first_line)
                assert other.name == one.name, path
                # A comment at the end is no part of the syntax tree.
                assert other.last_line <= one.last_line, path
                seen += 1
            # What is left has its body on the last line of its signature.
            assert all(one.length < 10 for one in by_ast.values()), path
    assert seen > 1000


def body(lines: int) -> str:
    return "".join(f"    x = {n}\n" for n in range(lines - 1))


@pytest.mark.parametrize("suffix", [".py", ".pyx", ".pxd"])
@pytest.mark.parametrize("folder", ["pooler/io", "tests", "benchmarks/lib", "dev"])
def test_what_is_said(tmp_path: Path, folder: str, suffix: str) -> None:
    path = (tmp_path / folder / "a").with_suffix(suffix)
    path.parent.mkdir(parents=True)
    path.write_text("\n\ndef f():\n" + body(MAX_LINES) + "\n\n")
    assert complaints(tmp_path) == []
    path.write_text("\n\ndef f():\n" + body(MAX_LINES + 1) + "\n\n")
    name = path.relative_to(tmp_path)
    assert complaints(tmp_path) == [f"{name}:3: f is 61 lines long, at most 60"]


def test_exit_code(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    program = [sys.executable, function_lengths.__file__, str(tmp_path)]
    assert subprocess.run(program, capture_output=True, check=False).returncode == 0
    (tmp_path / "dev" / "a.py").write_text("def f():\n" + body(70))
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == "dev/a.py:1: f is 70 lines long, at most 60\n"


def test_functions_come_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("def f():\n    def g():\n        pass\ndef h():\n    pass\n")
    assert [one.name for one in functions(path)] == ["f", "g", "h"]
