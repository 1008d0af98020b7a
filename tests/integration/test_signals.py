# SPDX-License-Identifier: MIT
"""Signals that ask for the end, at every moment of a process and several at once.

A terminal and systemd signal every process of a group, and the master forwards what it
got: so a worker hears of an end more than once, and the last time may be when it is
all but gone. Whenever it is, there is no traceback, and the exit code is 0.

Run as a program this file is the pooler under test: ``CONFIG MOMENT SIGNAL``.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pooler import log
from pooler.config import loading
from pooler.ipc.worker_start import WorkerStart
from pooler.master.process import Master
from tests.integration.harness import (
    ENVIRONMENT,
    free_port,
    ini_text,
    wait_until,
)

pytestmark = pytest.mark.timeout(120)

SEED = 20261127
# How many poolers each signal is tried on, in each of two phases.
TRIES = 8
START_S = 0.3
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
MOMENTS = ("forked", "imported", "engine", "handlers", "closing", "closed")


def before_and_after(owner: Any, name: str, strike: Callable[[], None]) -> None:
    """Make a function strike before it runs and when it has run."""
    original = getattr(owner, name)

    def struck(*args: Any, **keywords: Any) -> Any:
        strike()
        result = original(*args, **keywords)
        strike()
        return result

    setattr(owner, name, struck)


def program(ini: str, moment: str, signum: int) -> int:
    """A pooler whose workers signal themselves, twice, at one moment of their life."""

    def strike() -> None:
        os.kill(os.getpid(), signum)

    def worker_main(start: WorkerStart) -> int:
        if moment == "forked":
            strike()
        from pooler.worker import process

        if moment == "imported":
            strike()
        elif moment == "engine":
            before_and_after(process, "Engine", strike)
        elif moment == "handlers":
            before_and_after(process.Worker, "handle_signals", strike)
        elif moment == "closing":
            # The wake-up descriptors of asyncio are closed here.
            before_and_after(asyncio.SelectorEventLoop, "_close_self_pipe", strike)
        code = process.run(start)
        if moment == "closed":
            strike()
            strike()
        return code

    loaded = loading.load(ini)
    log.configure(loaded.settings.logfile, quiet=True, verbose=1)
    return Master(loaded, worker_main=worker_main, verbose=1).run()


class Started:
    """A pooler in a process group of its own, with two workers and no server."""

    def __init__(self, directory: Path, *command: str) -> None:
        directory.mkdir()
        self.log_path = directory / "log"
        self.stderr_path = directory / "stderr"
        self.ini = directory / "pooler.ini"
        settings = {
            "workers": 2,
            "logfile": self.log_path,
            "verbose": 1,
            "unix_socket_dir": directory,
        }
        self.ini.write_text(ini_text(free_port(), 1, {}, settings))
        with self.stderr_path.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *(word.format(ini=self.ini) for word in command)],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env=ENVIRONMENT,
                start_new_session=True,
            )

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def wait_log(self, *texts: str) -> None:
        """Wait until one of the texts stands in the log."""
        wait_until(
            lambda: (
                any(text in self.log() for text in texts)
                or self.process.poll() is not None
            ),
            f"log line of {texts}",
        )

    def strike(self, signum: int) -> None:
        """Signal every process of the group."""
        os.killpg(self.process.pid, signum)

    def check(self) -> None:
        """It ends well and leaves nothing behind, neither words nor files."""
        code = self.process.wait(20)
        said = self.log() + self.stderr_path.read_text()
        for bad in (
            "Traceback",
            "Exception",
            "wakeup",
            "killed by",
            "code 1",
            "code -",
        ):
            assert bad not in said, said
        assert code == 0, said
        assert not list(self.ini.parent.glob(".s.PGSQL*"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Start poolers; none of them stays."""
    made: list[Started] = []

    def make(*command: str) -> Started:
        made.append(Started(tmp_path / str(len(made)), *command))
        return made[-1]

    yield make
    for one in made:
        if one.process.poll() is None:
            one.strike(signal.SIGKILL)
            one.process.wait(20)


StartOne = Callable[..., Started]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("signum", ENDS)
def test_worker_at_every_moment(start: StartOne, signum: int, moment: str) -> None:
    pooler = start(__file__, "{ini}", moment, str(int(signum)))
    # Some end before they serve, and would be born again and again.
    pooler.wait_log("process up", "exited with code", "killed by")
    pooler.process.send_signal(signal.SIGQUIT)
    pooler.check()


@pytest.mark.parametrize(
    "signum",
    [
        one if one == ENDS[0] else pytest.param(one, marks=pytest.mark.full)
        for one in ENDS
    ],
)
def test_whole_group_at_any_moment(start: StartOne, signum: int) -> None:
    rng = random.Random(SEED)
    for number in range(2 * TRIES):
        pooler = start("-m", "pooler", "-q", "{ini}")
        if number % 2:
            pooler.wait_log("process up")
            time.sleep(rng.random() * START_S / 10)
        else:
            pooler.wait_log("listening on")
            time.sleep(rng.random() * START_S)
        pooler.strike(signum)
        if number % 4 < 2 and pooler.process.poll() is None:
            time.sleep(rng.random() / 100)
            if pooler.process.poll() is None:
                pooler.strike(signum)
        pooler.check()


INTERRUPTED = """
import os, runpy, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["program", "no such file"]
runpy.run_module({module!r}, run_name="__main__")
"""


@pytest.mark.parametrize(
    ("module", "name"), [("pooler", "pooler.config"), ("pooler.demo", "psycopg")]
)
def test_interrupt_while_the_command_is_loaded(module: str, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(module=module, name=name)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=ENVIRONMENT,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


if __name__ == "__main__":
    sys.exit(program(sys.argv[1], sys.argv[2], int(sys.argv[3])))
