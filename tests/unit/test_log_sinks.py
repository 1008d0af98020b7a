# SPDX-License-Identifier: MIT
"""JSON, syslog and the journal; this test plays their readers."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pooler import log, log_sinks
from pooler.config import loading
from pooler.config.log_style import log_style
from pooler.log import Style

HOSTILE = "a\nFATAL b\x1b[2J\u2028c"
SHOWN = "a\\nFATAL b\\x1b[2J\\u2028c"


pytestmark = pytest.mark.usefixtures("restored_loggers")


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    path = os.path.relpath(tmp_path / "log")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(path)
    made.settimeout(5)
    monkeypatch.setattr(log_sinks, "SYSLOG_PATH", path)
    monkeypatch.setattr(log_sinks, "JOURNAL_PATH", path)
    yield made
    made.close()


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log.configure(str(path), quiet=True, style=Style(json=True))
    log.write(log.WARNING, HOSTILE, tag="C-0x7f: db/user@host:1")
    log.write(log.LOG, "\U0001f600" * 5000, tag="t" * 5000)
    try:
        raise ValueError("inside")
    except ValueError:
        log.write_exception("failed")
    first, cut, failed = map(json.loads, path.read_text().splitlines())
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first.pop("time")
    )
    assert first == {
        "pid": os.getpid(),
        "level": "WARNING",
        "tag": "C-0x7f: db/user@host:1",
        "message": HOSTILE,
    }
    assert cut["message"].startswith("\U0001f600" * 100)
    assert cut["message"].endswith("...")
    assert max(map(len, path.read_bytes().splitlines())) < log.MAX_LINE_BYTES
    assert "Traceback" in failed["message"]
    assert "ValueError: inside" in failed["message"]


def test_syslog(reader: socket.socket) -> None:
    log.configure(quiet=True, style=Style(syslog="local3", ident="pool"))
    log.write(log.ERROR, HOSTILE, tag="C-0x7f: db/user@host:1")
    head = f"<{19 * 8 + 3}>pool[{os.getpid()}]: "
    said = reader.recv(65536).decode()
    assert said == f"{head}C-0x7f: db/user@host:1 {SHOWN}"
    log.write(log.LOG, "plain")
    assert reader.recv(65536).decode().startswith(f"<{19 * 8 + 6}>")


def test_syslog_comes_and_goes_with_a_reload(reader: socket.socket) -> None:
    log.configure(quiet=True)
    log.write(log.LOG, "nobody hears it")
    log.follow(log.orders("", Style(syslog="daemon"), 0))
    log.write(log.LOG, "one")
    log.follow(log.orders("", Style(syslog="user", ident="x"), 0))
    log.write(log.LOG, "two")
    log.follow(log.orders("", Style(), 0))
    log.write(log.LOG, "nobody hears it")
    assert reader.recv(100).decode().startswith("<30>pgbouncer[")
    assert reader.recv(100).decode() == f"<14>x[{os.getpid()}]: two"
    reader.setblocking(False)
    with pytest.raises(BlockingIOError):
        reader.recv(100)


def test_a_reader_that_is_deaf_gone_or_new(
    reader: socket.socket, tmp_path: Path
) -> None:
    log.configure(quiet=True, style=Style(syslog="daemon"))
    for number in range(5000):  # it never waits, whatever the queue holds
        log.write(log.LOG, f"line {number}")
    assert reader.recv(100).decode().endswith("line 0")
    reader.close()
    log.write(log.LOG, "nobody is there")
    path = Path(log_sinks.SYSLOG_PATH)
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as new:
        new.bind(str(path))
        new.settimeout(5)
        log.write(log.LOG, "who is new hears it")
        assert new.recv(100).decode().endswith("who is new hears it")


def fields_of(raw: bytes) -> dict[str, str]:
    fields = {}
    while raw:
        name, _, raw = raw.partition(b"\n")
        size = int.from_bytes(raw[:8], "little")
        fields[name.decode()] = raw[8 : 8 + size].decode()
        assert raw[8 + size : 9 + size] == b"\n"
        raw = raw[9 + size :]
    return fields


def test_the_journal_gets_fields(
    reader: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    log.configure()
    log.write(log.FATAL, HOSTILE, tag="C-0x7f: db/user@host:1")
    assert fields_of(reader.recv(65536)) == {
        "MESSAGE": f"C-0x7f: db/user@host:1 {SHOWN}",
        "PRIORITY": "2",
        "SYSLOG_IDENTIFIER": "pgbouncer",
        "SYSLOG_PID": str(os.getpid()),
        "POOLER_LEVEL": "FATAL",
        "POOLER_TAG": "C-0x7f: db/user@host:1",
    }


def test_a_stderr_that_is_not_the_journal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    log.configure()
    log.write(log.LOG, "to stderr")
    assert capfd.readouterr().err.endswith("LOG to stderr\n")


def test_the_settings_say_so() -> None:
    text = "[pgbouncer]\nauth_type = any\n"
    assert log_style(loading.load_text(text, "p.ini").settings) == Style()
    text += (
        "syslog = 1\nsyslog_facility = LOCAL7\nsyslog_ident = x\nlog_format = json\n"
    )
    config = loading.load_text(text, "p.ini")
    assert log_style(config.settings) == Style(json=True, syslog="local7", ident="x")
    assert config.warnings == ()
