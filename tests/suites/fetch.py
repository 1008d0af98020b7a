# SPDX-License-Identifier: MIT
"""Gets suites from the registries, through their usual clients, below .venv/suites.

Versions are pinned, so that two runs compare the same tests.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.suites.suite import FOLDER, SuiteError

ENVIRONMENT = FOLDER / "python"
PYTHON = ENVIRONMENT / "bin" / "python"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
FETCH_DEADLINE_S = 900.0


def must(*command: str | Path) -> None:
    """Run a command; SuiteError with what it said if it fails or takes too long."""
    said = " ".join(map(str, command))
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=FETCH_DEADLINE_S,
        )
    except FileNotFoundError as error:
        raise SuiteError(f"{said}: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise SuiteError(f"{said}: ended after {FETCH_DEADLINE_S:.0f} s") from error
    if done.returncode:
        why = (done.stderr or done.stdout).strip()[-2000:]
        raise SuiteError(f"{said} failed:\n{why}")


def environment() -> None:
    """Make the virtualenv in which the suites run; nothing if it is up to date."""
    stamp = ENVIRONMENT / "requirements.txt"
    wanted = REQUIREMENTS.read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    must(sys.executable, "-m", "venv", "--clear", ENVIRONMENT)
    must(PYTHON, "-m", "pip", "install", "-q", "-r", REQUIREMENTS)
    stamp.write_text(wanted)


def installed(requirement: str, *packages: str) -> None:
    """Have a package in the virtualenv, compiled with these of Debian's.

    Not in requirements.txt: who cannot have it can still run the other suites.
    """
    environment()
    stamp = ENVIRONMENT / f"{requirement}.txt"
    if stamp.exists():
        return
    debian(packages)
    must(PYTHON, "-m", "pip", "install", "-q", requirement)
    stamp.touch()


def source(requirement: str, digest: str, keep: Sequence[str]) -> Path:
    """Unpack these top entries of a source distribution; returns the folder.

    Only the tests are kept: the library itself comes built from the virtualenv.
    """
    target = FOLDER / requirement.replace("==", "-")
    if target.exists():
        return target
    environment()
    with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
        wanted = Path(scratch, "wanted.txt")
        wanted.write_text(f"{requirement} --hash=sha256:{digest}\n")
        downloads = Path(scratch, "downloads")
        pip = (PYTHON, "-m", "pip", "download", "-q", "--no-deps", "-d", downloads)
        must(*pip, "--no-binary", ":all:", "-r", wanted)
        [archive] = downloads.iterdir()
        with tarfile.open(archive) as tar:
            tar.extractall(Path(scratch, "all"), filter="data")
        [top] = Path(scratch, "all").iterdir()
        chosen = Path(scratch, "chosen")
        chosen.mkdir()
        for name in keep:
            shutil.move(top / name, chosen / name)
        chosen.rename(target)
    return target


def debian(packages: Sequence[str]) -> None:
    """See that Debian packages are installed; as root, install what is missing."""
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Abbrev}${Package}\n", *packages],
        capture_output=True,
        text=True,
        check=False,
    )
    present = {
        line.split()[-1] for line in asked.stdout.splitlines() if line[:2] == "ii"
    }
    missing = [name for name in packages if name not in present]
    if not missing:
        return
    install = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SuiteError(f"missing: sudo {' '.join(install)}")
    must("apt-get", "update", "-qq")
    must(*install)


def debian_packages(*packages: str) -> Callable[[], None]:
    """A ``Suite.fetch`` for what comes from Debian alone."""
    return functools.partial(debian, packages)
