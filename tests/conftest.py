# SPDX-License-Identifier: MIT
"""Hypothesis profiles, the segfault sentinel and the probe, for every test."""

from __future__ import annotations

import faulthandler
import importlib
import logging
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

from pooler import log

ROOT = Path(__file__).resolve().parent.parent
PROBE_HELP = (
    "build it from the root of the repository:\n"
    "    .venv/bin/python tests/ext/setup.py -q build_ext --inplace"
)

# What decides about a change is the same each time; HYPOTHESIS_PROFILE=random explores.
settings.register_profile(
    "dev", max_examples=50, deadline=None, print_blob=True, derandomize=True
)
settings.register_profile("ci", settings.get_profile("dev"), max_examples=200)
settings.register_profile(
    "random", settings.get_profile("dev"), max_examples=300, derandomize=False
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE")
    or ("ci" if os.environ.get("CI") == "true" else "dev")
)


def pytest_sessionstart() -> None:
    """A crash in an extension must name the test that it happened in."""
    if not faulthandler.is_enabled():
        faulthandler.enable(all_threads=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[
    None, pytest.TestReport, pytest.TestReport
]:
    """Tests log bytes that are no text; a report has to travel between processes."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode())
        for name, text in report.sections
    ]
    return report


@pytest.fixture(scope="session")
def probe() -> ModuleType:
    """The test-only extension; a missing or stale one fails, it never skips.

    Stale matters: the probe has the struct layouts of the .pxd files compiled in.
    """
    try:
        module = importlib.import_module("tests.ext._probe")
    except ImportError as error:
        pytest.fail(f"no usable tests/ext/_probe ({error}); {PROBE_HELP}", False)
    built = Path(str(module.__file__)).stat().st_mtime
    newer = [
        path.relative_to(ROOT).as_posix()
        for path in (*ROOT.glob("pooler/**/*.pxd"), *ROOT.glob("tests/ext/*.pyx"))
        if path.stat().st_mtime > built
    ]
    if newer:
        pytest.fail(f"tests/ext/_probe is older than {newer}; {PROBE_HELP}", False)
    return module


@pytest.fixture
def restored_loggers() -> Iterator[None]:
    """What a test makes of logging is undone."""
    loggers = [logging.getLogger(name) for name in log.LOGGER_NAMES]
    before = [(list(one.handlers), one.level, one.propagate) for one in loggers]
    yield
    log.configure(quiet=True)
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
