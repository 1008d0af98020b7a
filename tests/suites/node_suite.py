# SPDX-License-Identifier: MIT
"""The tests of node-postgres's parts: pg-cursor, pg-query-stream, pg-pool, pg-native.

Only older releases of them were published with tests; these run against newer ones,
with a newer pg (and libpq, which pg-native compiles). pg itself never was.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.suites import fetch
from tests.suites.suite import FOLDER, INSIDE, Command, Suite
from tests.suites.ways import Target

HOME = FOLDER / "node"
# What is tested: the release of the code, and the one whose tests are taken.
TESTED = {
    "pg-cursor": ("2.22.1", "2.0.0"),
    "pg-native": ("3.9.0", "2.2.0"),
    "pg-pool": ("3.14.0", "2.0.10"),
    "pg-query-stream": ("4.17.0", "3.0.0"),
}
TESTS = "-tests"
# What the tests want besides.
OTHERS = {
    "JSONStream": "1.3.5",
    "async": "0.9.2",
    "bluebird": "3.7.2",
    "co": "4.6.0",
    "concat-stream": "1.6.2",
    "expect.js": "0.3.1",
    "lodash": "4.18.1",
    "mocha": "10.8.2",
    "okay": "1.0.0",
    "pg": "8.23.1",
    "stream-spec": "0.3.6",
    "through": "2.3.8",
}
# Ends the process at a warning; wants a package that is in no registry; about package
# numbers.
LEFT_OUT = ("pg-pool/test/setup.js", "*/test/pauses.js", "*/test/version.js")
MOCHA = (
    "node",
    "--no-deprecation",
    "node_modules/mocha/bin/mocha.js",
    "--no-config",
    "--exit",
    "--timeout=20000",
    f"--reporter={INSIDE / 'mocha_lines.js'}",
    *(f"--ignore=node_modules/{name}" for name in LEFT_OUT),
)


def _package() -> str:
    wanted = dict(OTHERS)
    for name, (code, tests) in TESTED.items():
        wanted[name] = code
        wanted[name + TESTS] = f"npm:{name}@{tests}"
    return json.dumps({"private": True, "dependencies": wanted}, indent=1)


def fetch_node() -> Path:
    """Install all of it, and put the tests beside the code that they are of."""
    stamp, wanted = HOME / "complete.json", _package()
    if stamp.exists() and stamp.read_text() == wanted:
        return HOME
    if shutil.which("npm") is None:
        fetch.debian(("nodejs", "npm"))
    fetch.debian(("libpq-dev", "g++", "make"))
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    (HOME / "package.json").write_text(wanted)
    fetch.must("npm", "install", "--no-audit", "--no-fund", "--prefix", HOME)
    modules = HOME / "node_modules"
    for name in TESTED:
        shutil.copytree(modules / f"{name}{TESTS}" / "test", modules / name / "test")
    stamp.write_text(wanted)
    return HOME


def run_node(target: Target) -> Command:
    """They take the server from libpq's variables."""
    files = [f"node_modules/{name}/test/*.js" for name in TESTED]
    return Command((*MOCHA, *files), fetch_node(), {})


NODE = Suite(fetch_node, run_node)
