# SPDX-License-Identifier: MIT
"""``python -m pooler.demo`` is what ``make run`` runs."""

import signal

if __name__ == "__main__":
    # Ctrl-C before there is anything to clear away: not with a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pooler.demo.run import main

    main()
