# SPDX-License-Identifier: MIT
"""What a row of the table of commands is. Console layer."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pooler.config.loading import Config
from pooler.console.answers import Answer, Column
from pooler.console.grammar import Command


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

    async def ask_master(self, kind: str, **payload: str) -> str:
        """Have the master do something; returns what was wrong, "" for nothing."""

    async def ask_workers(self, kind: str, **payload: str) -> list[Any]:
        """Have every worker do or tell something; the answers of those that live."""


Run = Callable[[Console, Command], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Row:
    """One command."""

    run: Run
    columns: tuple[Column, ...] = ()
    admin: bool = True
    argument: Argument = Argument.NONE
