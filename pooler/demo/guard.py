# SPDX-License-Identifier: MIT
"""How a started server ends: its last words, its guard. Demo layer.

Nothing may be left behind, however the starting process ends. So each
directory has a *guard*: a small process that holds the reading end of a pipe.
When the starter dies, even by SIGKILL, the kernel closes the pipe, and the guard
ends the registered processes and removes the directory. A process forked from
the starter without exec holds the pipe open too and delays this until it ends.

``python -m pooler.demo.guard DIRECTORY`` is the guard process; it runs for hours and
must stay small, so this module imports nothing but the standard library.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

LOG_TAIL_LINES = 20

# PostgreSQL documentation, "Shutting Down the Server": SIGINT is the fast
# shutdown, SIGQUIT the immediate one.
STOP_STEPS = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0))
GUARD_STEPS = ((signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))


class Guard:
    """Ends processes and removes a directory when this process is gone.

    A registered process gets SIGQUIT, then SIGKILL. ``close()`` makes the guard
    do its work now and waits for it.
    """

    def __init__(self, directory: Path) -> None:
        # A session of its own: Ctrl-C in the terminal must not end the guard.
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-E",
                "-S",
                "-m",
                "pooler.demo.guard",
                os.fspath(directory),
            ],
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def watch(self, pid: int) -> None:
        """Register a child of this process that has not been waited for."""
        self._write(f"{pid}\n".encode())

    def close(self) -> None:
        """Let the guard finish; harmless when it is already gone."""
        self._write(b"\n")
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(sum(seconds for _, seconds in GUARD_STEPS) + 5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self, line: bytes) -> None:
        pipe = self._process.stdin
        if pipe is None or pipe.closed:
            return
        try:
            pipe.write(line)
            pipe.flush()
        except BrokenPipeError:
            # Somebody ended the guard; an orderly stop works without it.
            return


def guard_main(directory: Path, lines: Iterator[str]) -> None:
    """Body of the guard process: read pids until the other end is gone."""
    handles: list[int] = []
    for line in lines:
        if not line.strip():
            break
        try:
            # A handle, not the number: the number may be another process later.
            handles.append(os.pidfd_open(int(line)))
        except OSError:
            # Ended already, or a kernel before 5.3: nothing can be held.
            continue
    for step, seconds in GUARD_STEPS:
        handles = _signal_and_wait(handles, step, seconds)
    remove_tree(directory)


def _signal_and_wait(handles: Sequence[int], step: int, seconds: float) -> list[int]:
    """Signal the processes behind ``handles``; return those still alive after."""
    left = set(handles)
    for handle in handles:
        try:
            signal.pidfd_send_signal(handle, step)
        except ProcessLookupError:
            left.discard(handle)
    deadline = time.monotonic() + seconds
    while left and (remaining := deadline - time.monotonic()) > 0:
        poll = select.poll()
        for handle in left:
            poll.register(handle, select.POLLIN)
        left -= {handle for handle, _ in poll.poll(remaining * 1000)}
    return sorted(left)


def remove_tree(directory: Path) -> None:
    """Remove a directory that a dying process may still add a file to."""
    for _ in range(5):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return


def log_tail(path: Path, offset: int = 0) -> str:
    """Return the last lines of a log, for an error message."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            text = file.read().decode(errors="replace")
    except OSError as error:
        return f"(no log: {error})"
    return "\n".join(text.splitlines()[-LOG_TAIL_LINES:]) or "(the log is empty)"


if __name__ == "__main__":
    guard_main(Path(sys.argv[1]), iter(sys.stdin.readline, ""))
