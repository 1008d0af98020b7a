# SPDX-License-Identifier: MIT
"""``python -m pooler`` is the ``pooler`` command."""

import signal


def main() -> None:
    """Load the command and run it."""
    # Ctrl-C before there is anything to end: not with a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pooler import cli

    cli.main()


if __name__ == "__main__":
    main()
