# SPDX-License-Identifier: MIT
"""``python -m pooler`` is the ``pooler`` command."""

from pooler.cli import main

if __name__ == "__main__":
    main()
