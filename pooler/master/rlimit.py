# SPDX-License-Identifier: MIT
"""The limit of open files, which is the limit of connections. Layer: master.

Every worker may end up with all the clients, so the need is counted for one
process and not divided by the number of workers.
"""

from __future__ import annotations

import resource

from pooler import log

# Listeners, pipes, inboxes, log files and a few for libraries.
OWN_FDS = 64


def raise_file_limit(max_client_conn: int, max_server_conn: int) -> None:
    """Raise the soft limit to the hard one; warn when both are still too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as error:
            log.write(
                log.WARNING, f"could not raise the file descriptor limit: {error}"
            )
    need = max_client_conn + max_server_conn + OWN_FDS
    log.write(
        log.LOG,
        f"kernel file descriptor limit: {_number(soft)} (hard: {_number(hard)});"
        f" max_client_conn: {max_client_conn}, max expected fd use: {need}",
    )
    if soft != resource.RLIM_INFINITY and need > soft:
        log.write(
            log.WARNING,
            f"max expected fd use {need} exceeds the limit of {soft}:"
            " raise LimitNOFILE (ulimit -n) or lower max_client_conn",
        )


def _number(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)
