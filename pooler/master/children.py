# SPDX-License-Identifier: MIT
"""What the master knows of its children. Layer: master."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass

from pooler.ipc.worker_start import EXIT_BOOT_FAILURE


@dataclass(slots=True)
class Child:
    """A living process."""

    pid: int
    started_s: float
    # Own, closed when the byte or the end of file came.
    ready_fd: int | None
    ready: bool = False


@dataclass(slots=True)
class Slot:
    """A place for a child; empty between a death and the next birth."""

    index: int
    title: str
    child: Child | None = None
    # Deaths at birth in a row; they set the next pause.
    failures: int = 0
    restart_at_s: float | None = None

    def obituary(self, child: Child, code: int) -> str:
        """What the log says of a death."""
        if code == EXIT_BOOT_FAILURE:
            cause = "cannot work with this configuration"
        elif code < 0:
            try:
                cause = f"killed by {signal.Signals(-code).name}"
            except ValueError:
                cause = f"killed by signal {-code}"
        else:
            cause = f"exited with code {code}"
        return f"{self.title} (pid {child.pid}) {cause}"


@dataclass(frozen=True, slots=True)
class Pipe:
    """Both ends of a pipe that never blocks and no program inherits."""

    read_fd: int
    write_fd: int

    @classmethod
    def open(cls) -> Pipe:
        """Make one; OSError."""
        return cls(*os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))

    def close(self) -> None:
        """Close what is not closed yet."""
        for fd in (self.read_fd, self.write_fd):
            with contextlib.suppress(OSError):
                os.close(fd)


def name_process(name: str) -> None:
    """Show what this process is to ps and top; the kernel keeps 15 bytes."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "wb") as file:
        file.write(name.encode()[:15])
