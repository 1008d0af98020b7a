# SPDX-License-Identifier: MIT
"""Compile the extension modules, and show how far it has come.

Each module is translated to C and then compiled; both leave a file whose time tells.
(The modules themselves are put in place at the very end.)
The estimate is what the work so far has taken.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

COMMAND = (sys.executable, "setup.py", "-q", "build_ext", "--inplace")
# What the two halves cost, in the same unit: measured, on two cores.
TRANSLATE, COMPILE = 1.0, 2.0
LINE_EVERY_S = 15.0


def is_newer(path: Path, since: float) -> bool:
    """Whether a file is there and was written since then."""
    try:
        return path.stat().st_mtime >= since
    except OSError:
        return False


class Progress:
    """Of all modules: how much is done of what has to be."""

    def __init__(self, sources: list[Path]) -> None:
        self._sources = sources
        self._began = time.time()
        # File systems keep coarser times than the clock.
        self._since = self._began - 1
        self._last_line = self._began

    def text(self) -> str:
        """Return how far it has come."""
        translated = sum(
            is_newer(one.with_suffix(".c"), self._since) for one in self._sources
        )
        compiled = sum(
            any(
                is_newer(place / one.with_suffix(".o"), self._since)
                for place in Path("build").glob("temp.*")
            )
            for one in self._sources
        )
        total = len(self._sources)
        done = (TRANSLATE * translated + COMPILE * compiled) / (
            (TRANSLATE + COMPILE) * total
        )
        spent_s = time.time() - self._began
        left = "about two minutes in all"
        if done > 0.1:
            left = f"about {spent_s / done - spent_s:.0f} s left"
        return (
            f"compiling: {translated} of {total} modules translated,"
            f" {compiled} compiled, {left}"
        )

    def show(self) -> None:
        """On a terminal one line that changes, else a line now and then."""
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\033[K{self.text()}")
        elif time.time() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.time()
            sys.stderr.write(f"{self.text()}\n")
        sys.stderr.flush()

    def clear(self) -> None:
        """Leave the terminal's line to whoever is next."""
        if sys.stderr.isatty():
            sys.stderr.write("\r\033[K")


def main() -> int:
    """Run the build; what it says is shown when it has failed."""
    jobs = str(os.cpu_count() or 1)
    progress = Progress(sorted(Path("pooler").rglob("*.pyx")))
    log = Path("build") / "compile.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as output:
        build = subprocess.Popen(
            COMMAND,
            stdout=output,
            stderr=output,
            env=os.environ | {"POOLER_JOBS": jobs},
        )
        while True:
            try:
                code = build.wait(0.5)
                break
            except subprocess.TimeoutExpired:
                progress.show()
            except KeyboardInterrupt:
                build.terminate()
                build.wait()
                progress.clear()
                return 130
    progress.clear()
    if code:
        sys.stderr.write(log.read_text(errors="replace"))
    return code


if __name__ == "__main__":
    sys.exit(main())
