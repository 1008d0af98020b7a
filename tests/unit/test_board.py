# SPDX-License-Identifier: MIT
"""The shared page: rows, sums, limits, and that another process sees it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pooler.ipc.board import CACHE_LINE_BYTES, COUNTER_BYTES, COUNTERS, INDEX, Board


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board.for_slots(3)
    yield made
    made.close()


def test_names_are_unique_and_explained() -> None:
    assert len(INDEX) == len(COUNTERS)
    assert all(counter.doc for counter in COUNTERS)


def test_every_cell_is_its_own(board: Board) -> None:
    cells = [(slot, name) for slot in range(3) for name in INDEX]
    for number, (slot, name) in enumerate(cells, 1):
        board.set(slot, name, number)
    assert [board.get(*cell) for cell in cells] == list(range(1, len(cells) + 1))


def test_total_add_and_clear(board: Board) -> None:
    for slot in range(3):
        board.set(slot, "clients", 10 + slot)
        board.set(slot, "accepted", 1)
    board.add(1, "clients", -1)
    assert board.total("clients") == 32
    board.clear(1)
    assert board.total("clients") == 22
    assert board.total("accepted") == 2


def test_rows_share_no_cache_line(board: Board) -> None:
    assert board._row * COUNTER_BYTES % CACHE_LINE_BYTES == 0


def test_row_is_the_same_memory(board: Board) -> None:
    with board.row(2) as row:
        assert len(row) == len(COUNTERS)
        row[INDEX["clients"]] = 2**64 - 1
    assert board.get(2, "clients") == 2**64 - 1


@pytest.mark.parametrize("slot", [-1, 3])
def test_no_such_slot(board: Board, slot: int) -> None:
    with pytest.raises(IndexError):
        board.set(slot, "clients", 1)
    with pytest.raises(IndexError):
        board.row(slot)


def test_no_such_counter_and_no_negative_value(board: Board) -> None:
    with pytest.raises(KeyError):
        board.set(0, "typo", 1)
    with pytest.raises(ValueError, match=r"Q|range|invalid"):
        board.set(0, "clients", -1)
    with pytest.raises(ValueError, match="at least one"):
        Board.for_slots(0)


def test_another_process_sees_it(board: Board) -> None:
    pid = os.fork()
    if pid == 0:
        board.set(1, "clients", 7)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert board.get(1, "clients") == 7


def test_the_shared_cells_are_no_rows(board: Board) -> None:
    """Of 32 bits, on a cache line each, for everybody; no death clears them."""
    board.set(2, "clients", 2**64 - 1)
    with board.id_cell() as cell, board.schema_cell() as other:
        cell[0] = 7
        board.clear(2)
        assert (cell[0], other[0]) == (7, 0)
        board.set(2, "clients", 2**64 - 1)
    with board.schema_cell() as cell, board.schema_cell() as same:
        assert (cell.nbytes, cell.format, list(cell)) == (4, "I", [0])
        cell[0] = 2**32 - 1
        assert same[0] == 2**32 - 1
    with board.databases_cell() as cell, board.schema_cell() as other:
        cell[0] = 1
        assert other[0] == 2**32 - 1
    assert board.total("clients") == 2**64 - 1
