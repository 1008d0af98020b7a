# SPDX-License-Identifier: MIT
"""What a row of the table of commands is. Console layer."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pooler.board.page import Page
from pooler.config.model import Config
from pooler.console.answers import Answer, Column
from pooler.console.grammar import Command
from pooler.console.stats import Stats
from pooler.ipc.board import Board


class Argument(enum.Enum):
    """Whether a command takes one."""

    NONE = enum.auto()
    OPTIONAL = enum.auto()
    REQUIRED = enum.auto()


class Console(Protocol):
    """What commands work on."""

    @property
    def config(self) -> Config:
        """The running configuration."""

    @property
    def stats(self) -> Stats:
        """What all workers have done, and the console itself."""

    @property
    def board(self) -> Board:
        """The counters of the workers."""

    @property
    def page(self) -> Page:
        """What pools, databases and users have in all workers."""

    async def ask_master(self, kind: str, **payload: str) -> str:
        """Have the master do something; returns what was wrong, "" for nothing."""

    async def ask_workers(self, kind: str, **payload: str) -> list[Any]:
        """Have every worker do or tell something; the answers of those that live."""

    async def list_workers(self, kind: str) -> list[list[Any]]:
        """Rows of all workers."""

    async def wait_for_workers(self, kind: str, **payload: str) -> list[Any]:
        """As ``ask_workers``, for as long as it takes."""


Run = Callable[[Console, Command], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Row:
    """One command."""

    run: Run
    columns: tuple[Column, ...] = ()
    admin: bool = True
    argument: Argument = Argument.NONE
    # The log says that it was issued; where the master has a part in it, he says so.
    logged: bool = False
    # What follows when a client cancels the command while it waits.
    undo: Callable[[Console, Command], Awaitable[None]] | None = None
