# SPDX-License-Identifier: MIT
"""Run works for callgrind: ``python -m benchmarks.micro.marked NAME...``.

For each, three marks: before N repetitions, between them and 2 N more, behind these.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from benchmarks.micro._loops import mark
from benchmarks.micro.works import BY_NAME


def main(names: Iterable[str]) -> None:
    """Repeat each work once unmarked: Python adapts code that has run some times."""
    for name in names:
        work = BY_NAME[name]
        repeat = work.prepare()
        repeat(work.repetitions)
        mark()
        repeat(work.repetitions)
        mark()
        repeat(2 * work.repetitions)
        mark()


if __name__ == "__main__":
    main(sys.argv[1:])
