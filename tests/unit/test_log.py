# SPDX-License-Identifier: MIT
"""Log lines: their form, what cannot be forged, sharing, reopening, repetition."""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path

import pytest

from pooler import log

LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \S+ \[(?P<pid>\d+)\] (?P<rest>.*)"
)


pytestmark = pytest.mark.usefixtures("restored_loggers")


@pytest.fixture
def logfile(tmp_path: Path) -> Path:
    path = tmp_path / "pooler.log"
    log.configure(str(path), quiet=True)
    return path


def rest_of(path: Path) -> list[str]:
    rests = []
    for line in path.read_text().splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        assert int(match["pid"]) == os.getpid()
        rests.append(match["rest"])
    return rests


@pytest.mark.parametrize(("level", "name"), log.LEVEL_NAMES.items())
def test_each_level_has_its_name(logfile: Path, level: int, name: str) -> None:
    log.set_verbose(3)
    log.write(level, "process up")
    assert rest_of(logfile) == [f"{name} process up"]


def test_exact_form(logfile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    record = logging.LogRecord("pooler", log.LOG, "", 0, "hello %d", (7,), None)
    record.created = 1_795_331_749.120
    record.msecs = 120.0
    record.process = 42
    line = log.LineFormatter().format(record)
    monkeypatch.undo()
    time.tzset()
    assert line == "2026-11-22 07:15:49.120 UTC [42] LOG hello 7"


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ("", "LOG closing"),
        ("dns", "LOG dns: closing"),
        ("C-0x7f: db/u@127.0.0.1:5", "LOG C-0x7f: db/u@127.0.0.1:5 closing"),
        ("C-0x7f: db/a\nb@h:1", "LOG C-0x7f: db/a\\nb@h:1 closing"),
    ],
)
def test_tag(logfile: Path, tag: str, text: str) -> None:
    log.write(log.LOG, "closing", tag=tag)
    assert rest_of(logfile) == [text]


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("a\r\nb", r"a\r\nb"),
        ("a\x00\x1b[2Jb", r"a\x00\x1b[2Jb"),
        ("a\x85b\u2028c", r"a\x85b\u2028c"),
        ("a\u202eb", r"a\u202eb"),
        ("a\udc80b", r"a\udc80b"),
        ("50% of %s", "50% of %s"),
        ("grün", "grün"),
    ],
    ids=ascii,
)
def test_no_text_forges_a_line(logfile: Path, hostile: str, shown: str) -> None:
    log.write(log.LOG, hostile)
    assert rest_of(logfile) == [f"LOG {shown}"]


def test_long_line_is_cut_and_stays_one_line(logfile: Path) -> None:
    log.write(log.LOG, "ü" * 10_000)
    raw = logfile.read_bytes()
    assert len(raw) <= log.MAX_LINE_BYTES
    assert raw.endswith("ü...\n".encode())


def test_traceback_has_the_head_on_every_line(logfile: Path) -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        log.write_exception("worker failed")
    rests = rest_of(logfile)
    assert rests[0] == "ERROR worker failed"
    assert rests[-2:] == ["ERROR ValueError: first", "ERROR second"]


@pytest.mark.parametrize(
    ("verbose", "lowest"), [(0, "LOG"), (1, "DEBUG"), (2, "NOISE"), (9, "NOISE")]
)
def test_verbose(logfile: Path, verbose: int, lowest: str) -> None:
    log.set_verbose(verbose)
    for level in (log.LOG, log.DEBUG, log.NOISE):
        log.write(level, "x")
    assert rest_of(logfile)[-1] == f"{lowest} x"


def test_stderr_unless_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure()
    log.write(log.LOG, "loud")
    log.configure(quiet=True)
    log.write(log.FATAL, "silent")
    assert capfd.readouterr().err.endswith("LOG loud\n")


def test_asyncio_warnings_are_ours(logfile: Path) -> None:
    logging.getLogger("asyncio").info("not this")
    logging.getLogger("asyncio").warning("that")
    assert rest_of(logfile) == ["WARNING that"]


def test_reopen_follows_a_moved_file(logfile: Path) -> None:
    log.write(log.LOG, "one")
    moved = logfile.rename(logfile.with_suffix(".1"))
    log.write(log.LOG, "two")
    log.reopen()
    log.write(log.LOG, "three")
    assert rest_of(moved) == ["LOG one", "LOG two"]
    assert rest_of(logfile) == ["LOG three"]


def test_reopen_at_a_new_path_and_nowhere(logfile: Path) -> None:
    new = logfile.with_suffix(".new")
    log.reopen(str(new))
    log.write(log.LOG, "here")
    log.reopen("")
    log.write(log.LOG, "nowhere")
    log.reopen(str(logfile))
    log.write(log.LOG, "back")
    assert rest_of(new) == ["LOG here"]
    assert rest_of(logfile) == ["LOG back"]


def test_failed_reopen_keeps_the_old_file(logfile: Path, tmp_path: Path) -> None:
    log.reopen(str(tmp_path / "missing" / "x.log"))
    [rest] = rest_of(logfile)
    assert rest.startswith("ERROR could not open log file: ")


def test_failed_configure_changes_nothing(logfile: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        log.configure(str(tmp_path / "missing" / "x.log"))
    log.write(log.LOG, "still here")
    assert rest_of(logfile) == ["LOG still here"]


def test_a_log_that_cannot_be_written_is_let_pass() -> None:
    log.configure("/dev/full", quiet=True)
    log.write(log.LOG, "lost")


def test_lines_that_are_written_together(
    logfile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order, and never more at once than a pipe takes whole."""
    written: list[bytes] = []
    real = os.write

    def write(fd: int, data: bytes) -> int:
        written.append(data)
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(ZeroDivisionError), log.together():
        for number in range(100):
            log.write(log.LOG, f"line {number} {'x' * 100}", later=True)
        raise ZeroDivisionError
    assert 3 < len(written) < 10
    assert max(map(len, written)) <= log.MAX_LINE_BYTES
    assert all(data.endswith(b"\n") for data in written)
    lines = logfile.read_text().splitlines()
    assert [int(line.split("line ")[1].split()[0]) for line in lines] == list(
        range(100)
    )
    with log.together():
        log.write(log.LOG, "first", later=True)
        assert not written[-1].endswith(b"first\n")
        log.write(log.LOG, "second")
        assert written[-1].endswith(b"second\n")
        assert b"first\n" in written[-1]
    log.write(log.LOG, "alone", later=True)
    assert written[-1].endswith(b"alone\n")


def test_rate_limiter_counts_what_it_suppressed(logfile: Path) -> None:
    now = 0.0
    limiter = log.RateLimiter(10.0, clock=lambda: now)
    for _ in range(3):
        limiter.write(log.WARNING, "accept", "accept failed")
    limiter.write(log.WARNING, "other", "other")
    now = 10.0
    limiter.write(log.WARNING, "accept", "accept failed")
    limiter.write(log.WARNING, "accept", "accept failed")
    assert rest_of(logfile) == [
        "WARNING accept failed",
        "WARNING other",
        "WARNING accept failed (2 more suppressed)",
    ]


def test_rate_limiter_memory_is_bounded() -> None:
    limiter = log.RateLimiter(1e9, max_keys=2)
    assert [limiter.allow(key) for key in "abc"] == [0, 0, 0]
    assert limiter.allow("c") is None
    assert limiter.allow("a") == 0
