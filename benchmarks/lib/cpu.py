# SPDX-License-Identifier: MIT
"""CPU time and memory of a process tree, read from /proc.

A process that ended and was waited for is in its parent's cutime/cstime, so the sum
over the living tree holds the dead as well. A child that was orphaned (its parent
ended first) leaves the tree and is not counted: none of our targets daemonises.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
# proc(5), /proc/pid/stat: fields counted from 0 after the parenthesised name.
PPID, UTIME, STIME, CUTIME, CSTIME = 1, 11, 12, 13, 14
# proc(5), /proc/stat: user nice system idle iowait irq softirq steal.
BUSY_FIELDS = (0, 1, 2, 5, 6)
STEAL_FIELD = 7
MAX_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """One line of the process table: whose child, and how much CPU so far."""

    parent: int
    ticks: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of a tree; Pss counts a page shared by n processes as 1/n."""

    pss_bytes: int
    rss_bytes: int
    processes: int


def ticks_per_second() -> int:
    """Return the unit of the times in /proc."""
    return os.sysconf("SC_CLK_TCK")


def parse_stat(text: str) -> ProcessTimes:
    """Parse /proc/pid/stat; the name may hold blanks and parentheses."""
    fields = text.rpartition(")")[2].split()
    ticks = sum(int(fields[index]) for index in (UTIME, STIME, CUTIME, CSTIME))
    return ProcessTimes(parent=int(fields[PPID]), ticks=ticks)


def process_table() -> dict[int, ProcessTimes]:
    """Read every process; one that ends while we read is left out."""
    table: dict[int, ProcessTimes] = {}
    for entry in os.scandir(PROC):
        if entry.name.isdigit():
            try:
                text = (PROC / entry.name / "stat").read_text(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            table[int(entry.name)] = parse_stat(text)
    return table


def tree_of(root: int, table: Mapping[int, ProcessTimes]) -> frozenset[int]:
    """Return ``root`` and all its descendants."""
    if root not in table:
        raise ProcessLookupError(f"process {root} is gone")
    children: dict[int, list[int]] = {}
    for pid, times in table.items():
        children.setdefault(times.parent, []).append(pid)
    found = {root}
    todo = [root]
    while todo:
        for child in children.get(todo.pop(), ()):
            if child not in found:
                found.add(child)
                todo.append(child)
    return frozenset(found)


def tree_cpu_seconds(root: int) -> float:
    """Return the CPU time (user + system) the tree has used since it began.

    A child reaped after its parent was read and before its own turn would be missed:
    neither is its time in the parent's yet, nor is it there. So a reading counts only
    when the tree is still what it was just before.
    """
    tree = tree_of(root, process_table())
    for _ in range(MAX_ATTEMPTS):
        table = process_table()
        before, tree = tree, tree_of(root, table)
        if tree == before:
            break
    return sum(table[pid].ticks for pid in tree) / ticks_per_second()


def parse_rollup(text: str) -> tuple[int, int]:
    """Return (Pss, Rss) in bytes from /proc/pid/smaps_rollup."""
    values = {
        name: int(rest.split()[0]) * 1024
        for name, _, rest in (line.partition(":") for line in text.splitlines())
        if name in {"Pss", "Rss"}
    }
    return values["Pss"], values["Rss"]


def tree_memory(root: int) -> Memory:
    """Return the resident memory of the tree."""
    pss = rss = 0
    tree = tree_of(root, process_table())
    for pid in tree:
        one_pss, one_rss = parse_rollup((PROC / str(pid) / "smaps_rollup").read_text())
        pss += one_pss
        rss += one_rss
    return Memory(pss_bytes=pss, rss_bytes=rss, processes=len(tree))


def machine_seconds() -> tuple[float, float]:
    """Return (busy, stolen) CPU seconds of the whole machine since boot."""
    with (PROC / "stat").open() as file:
        fields = [int(field) for field in file.readline().split()[1:]]
    unit = ticks_per_second()
    busy = sum(fields[index] for index in BUSY_FIELDS)
    return busy / unit, fields[STEAL_FIELD] / unit


def parent_of(pid: int) -> int:
    """Return the parent of a process: a backend's is the postmaster."""
    return parse_stat((PROC / str(pid) / "stat").read_text(errors="replace")).parent
