# SPDX-License-Identifier: MIT
"""What the master hands to a child at its start. Layer: ipc; pure data."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from pooler.board.page import Page
from pooler.config.model import Config
from pooler.ipc.board import Board
from pooler.ipc.bus import Bus
from pooler.ipc.doors import Doors

# Exit codes of a child.
EXIT_OK = 0
EXIT_FAILED = 1
# "This configuration cannot work", and the log says why: at the first start the master
# gives up, later it tries again after a pause that grows, as after any death at birth.
EXIT_BOOT_FAILURE = 3

# What a child writes to ``ready_fd`` once it serves.
READY = b"R"


@dataclass(frozen=True, slots=True)
class WorkerStart:
    """Everything a worker owns from its first moment; it inherits nothing else.

    ``tcp_listeners`` are this slot's own SO_REUSEPORT sockets, ``unix_listener`` and
    ``shared_listeners`` are shared with the other workers; all are non-blocking and
    already listen. Closing them here leaves the master's copies open.

    The worker writes :data:`READY` to ``ready_fd`` and closes it. End of file on
    ``master_fd`` means that the master is gone. SIGTERM and SIGINT ask for a
    graceful end and may arrive more than once (a terminal and systemd signal every
    process, the master forwards as well): a worker does not count them. Where all end,
    the master has said so before by ``ending``. SIGQUIT
    asks for an immediate end.

    ``stand_in`` asks it to take the clients of a slot whose worker does not, too, until
    ``stand_down`` (``master/cover``). It tells the master ``leaving`` when it takes no
    more clients itself.

    A reload comes as bus message ``reload``, with the configuration to run beside it
    (``config/travel``): take it over, then ``log.follow(payload)``, and tell the master
    ``reloaded`` with ``payload["number"]``.
    """

    slot: int
    workers: int
    config: Config
    tcp_listeners: tuple[socket.socket, ...]
    unix_listener: socket.socket | None
    ready_fd: int
    master_fd: int
    bus: Bus
    board: Board
    page: Page
    # None: nothing comes from other workers, for a test.
    doors: Doors | None = None
    # Random, the same in every worker: see ClientPolicy.
    mock_key: bytes = field(default=b"", repr=False)
    shared_listeners: tuple[socket.socket, ...] = ()
    # Another pooler, which may still have clients: the master hands it cancel requests.
    follows: bool = False


# Startup parameters with which a worker says that its client may run every command,
# and how log lines name it.
CONSOLE_ADMIN = "console_admin"
CONSOLE_PEER = "console_peer"


@dataclass(frozen=True, slots=True)
class ConsoleStart:
    """Everything the console owns from its first moment, as of a worker.

    A session comes as bus message ``session`` with the console's end of its socket,
    on which its worker logs in without a password. What the console asks the master
    (``reload``, ``set``, ``shutdown``) is answered by ``done``.
    """

    config: Config
    ready_fd: int
    master_fd: int
    bus: Bus
    board: Board
    page: Page
