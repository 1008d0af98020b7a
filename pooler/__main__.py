# SPDX-License-Identifier: MIT
"""``python -m pooler`` is the ``pooler`` command."""

import os
import signal
import sys

# Installed under this name the command is PgBouncer's: files may have any name.
PGBOUNCER = "pgbouncer"
# Words that are no files: pooler.tools.commands has them.
SUBCOMMANDS = frozenset(
    {"check", "console", "mkauth", "pause", "reload", "resume", "shutdown"}
)


def main() -> None:
    """Load the command and run it."""
    # Ctrl-C before there is anything to end: not with a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    name = os.path.basename(sys.argv[0])
    if name != PGBOUNCER and sys.argv[1:2] and sys.argv[1] in SUBCOMMANDS:
        from pooler.tools import commands

        commands.main()
    from pooler import cli

    cli.main()


if __name__ == "__main__":
    main()
