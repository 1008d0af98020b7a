# SPDX-License-Identifier: MIT
"""``python -m pooler.demo`` is what ``make run`` runs."""

from pooler.demo.run import main

if __name__ == "__main__":
    main()
