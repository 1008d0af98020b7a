# SPDX-License-Identifier: MIT
"""Whether the user that we have become can load what the children need. Layer: master.

Root can read everything; who is another then may find that the packages are in a
directory of root's, where each child would fail at its imports, again and again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from pooler.errors import ConfigError

MOST_BYTES = 4096


def check(user: str, in_child: Callable[[], None]) -> None:
    """Load it in a child, once; ConfigError if that fails.

    The parent never loads it. ``in_child``: is called there first.
    """
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        in_child()
        os.write(write_fd, _problem().encode("utf-8", "replace")[:MOST_BYTES])
        os._exit(0)
    os.close(write_fd)
    with open(read_fd, "rb") as answer:
        problem = answer.read().decode("utf-8", "replace")
    _, status = os.waitpid(pid, 0)
    if status and not problem:
        problem = f"the process that tried ended with {status}"
    if problem:
        package = Path(__file__).parents[1]
        places = dict.fromkeys(map(str, (package, sys.prefix, sys.base_prefix)))
        raise ConfigError(
            f"{user} cannot load what the workers need: {problem} (that user must be"
            f" able to read {', '.join(places)})",
            setting="user",
        )


def _problem() -> str:
    """What is wrong; "" if nothing is."""
    try:
        from pooler.console import process as _console
        from pooler.worker import process as _worker
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    del _console, _worker
    return ""
