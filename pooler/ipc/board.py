# SPDX-License-Identifier: MIT
"""The shared page: one row of 64-bit counters per worker slot. Layer: ipc.

An anonymous MAP_SHARED mapping made before the fork, so every process sees the
same memory and nothing has to be cleaned up. Invariant: a row has one writer,
the worker in that slot (and the master while the slot is empty); sums are made
by the reader. An aligned 8-byte store is not torn on any CPU we run on, so no
lock is needed. Behind the rows are cells that all workers count up, atomically: the
changes of schemas that they have seen (``statements/schema``), the last id that a
connection has got, the last number of a Parse (``tables/texts``), and the commands that
make, change or drop a database. This module knows the layout and nothing about its use.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Counter:
    """One column of the board."""

    name: str
    doc: str


# The order is the layout: a column's index is its place in this table.
COUNTERS = (
    Counter("pid", "process id of the worker, 0 while the slot is empty"),
    Counter("started_us", "monotonic time of the worker's fork"),
    Counter("heartbeat_us", "monotonic time of the last turn of its loop"),
    Counter("clients", "client connections, logins included"),
    Counter("connections", "client connections, those that said nothing included"),
    Counter("coming", "sockets on their way to its door; others add, it sets to 0"),
    Counter("serves", "1 while it takes new clients"),
    Counter("drained", "1 when all end as servers are free, and it has none"),
    Counter("accepted", "connections accepted since the worker's start"),
)
INDEX = {counter.name: index for index, counter in enumerate(COUNTERS)}

COUNTER_BYTES = 8
CELL_BYTES = {"I": 4, "Q": 8}  # by their formats
CACHE_LINE_BYTES = 64
CELLS = 4  # each on a line of its own


def _row_counters() -> int:
    """Return the counters of a row, filled up so that no two share a cache line."""
    per_line = CACHE_LINE_BYTES // COUNTER_BYTES
    return -(-len(COUNTERS) // per_line) * per_line


class Board:
    """The counters of all slots; made by the master before it forks."""

    __slots__ = ("_map", "_row", "_rows_end", "_values", "slots")

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise ValueError("a board needs at least one slot")
        self.slots = slots
        self._row = _row_counters()
        # mmap(2): an anonymous mapping starts on a page and is filled with zeros.
        self._rows_end = slots * self._row * COUNTER_BYTES
        self._map = mmap.mmap(-1, self._rows_end + CELLS * CACHE_LINE_BYTES)
        self._values = memoryview(self._map)[: self._rows_end].cast("Q")

    @classmethod
    def for_slots(cls, slots: int) -> Board:
        """Return an empty board of ``slots`` rows."""
        return cls(slots)

    def set(self, slot: int, name: str, value: int) -> None:
        """Store a counter; only the writer of ``slot`` may."""
        self._values[self._at(slot, name)] = value

    def add(self, slot: int, name: str, amount: int) -> None:
        """Add ``amount`` (may be negative) to a counter of one's own slot."""
        self._values[self._at(slot, name)] += amount

    def get(self, slot: int, name: str) -> int:
        """Return a counter of one slot."""
        return self._values[self._at(slot, name)]

    def total(self, name: str) -> int:
        """Return the sum of a counter over all slots."""
        return sum(self._values[INDEX[name] :: self._row])

    def row(self, slot: int) -> memoryview[int]:
        """Return the row of ``slot`` in table order, shared, as unsigned 64-bit."""
        start = self._at(slot, COUNTERS[0].name)
        return self._values[start : start + len(COUNTERS)]

    def column(self, name: str) -> memoryview[int]:
        """Return a counter of all slots, shared; the writer of each may change it."""
        return self._values[INDEX[name] :: self._row]

    def schema_cell(self) -> memoryview[int]:
        """Return the cell of changes of schemas, shared, as one unsigned 32-bit."""
        return self._cell(0, "I")

    def id_cell(self) -> memoryview[int]:
        """Return the cell of the last id, shared; no death of a worker changes it."""
        return self._cell(1, "I")

    def parse_cell(self) -> memoryview[int]:
        """Return the cell of the last Parse, shared, as one unsigned 64-bit."""
        return self._cell(2, "Q")

    def databases_cell(self) -> memoryview[int]:
        """Return the cell of commands that concern databases, shared, likewise."""
        return self._cell(3, "I")

    def _cell(self, number: int, form: Literal["I", "Q"]) -> memoryview[int]:
        start = self._rows_end + number * CACHE_LINE_BYTES
        with memoryview(self._map) as whole:
            return whole[start : start + CELL_BYTES[form]].cast(form)

    def clear(self, slot: int) -> None:
        """Forget a worker that died: all its counters become 0."""
        for name in INDEX:
            self.set(slot, name, 0)

    def close(self) -> None:
        """Unmap the page; every row handed out must have been released."""
        self._values.release()
        self._map.close()

    def _at(self, slot: int, name: str) -> int:
        # A negative index would land in another worker's row.
        if not 0 <= slot < self.slots:
            raise IndexError(f"no slot {slot} on a board of {self.slots}")
        return slot * self._row + INDEX[name]
