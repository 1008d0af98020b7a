# SPDX-License-Identifier: MIT
"""What is built installs where nothing of ours is: a wheel in a clean virtualenv, the
Debian package in a root of debootstrap. Minutes each, hence ``full``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INI = """[databases]
shop = host=127.0.0.1
[pgbouncer]
auth_type = any
unix_socket_dir = {directory}
workers = 1
"""
pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]


def run(*command: object, **more: str) -> str:
    """What it says; it must succeed."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | more,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def newest(pattern: str) -> Path:
    return max((ROOT / "dist").glob(pattern), key=lambda one: one.stat().st_mtime)


def test_wheel_in_a_clean_virtualenv(tmp_path: Path) -> None:
    run("make", "wheel")
    wheel = newest("pooler-*.whl")
    assert "manylinux" in wheel.name
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    bin_dir = tmp_path / "venv" / "bin"
    run(bin_dir / "python", "-m", "pip", "install", "-q", wheel)
    listed = run(bin_dir / "python", "-m", "pip", "list", "--format=freeze")
    names = {line.partition("==")[0].lower() for line in listed.split()}
    # cffi and pycparser are what pycares needs.
    wanted = {"pooler", "click", "psutil", "pycares", "cffi", "pycparser"}
    assert names - {"pip", "setuptools"} == wanted
    check_command(bin_dir / "pooler", tmp_path)
    assert run(bin_dir / "pgbouncer", "-V").startswith("PgBouncer ")


def test_make_install(tmp_path: Path) -> None:
    """Nothing of what was built before for tests lies beside the program."""
    run("make", "install", f"DESTDIR={tmp_path}", "prefix=/usr", "sysconfdir=/etc")
    libraries = tmp_path / "usr/lib/pooler"
    packages = {one.name for one in libraries.iterdir() if one.is_dir()}
    packages = {name for name in packages if not name.endswith(".dist-info")}
    assert packages == {"pooler", "click", "psutil", "pycares", "cffi", "pycparser"}
    assert (tmp_path / "usr/share/man/man1/pooler.1").exists()
    program = tmp_path / "usr/bin/pooler"
    text = program.read_text().replace('"/usr/lib/pooler"', f'"{libraries}"')
    program.write_text(text)  # DESTDIR is not where it will run
    check_command(program, tmp_path)


def check_command(pooler: Path, directory: Path) -> None:
    """It starts, answers on its console, and ends."""
    ini = directory / "pooler.ini"
    ini.write_text(INI.format(directory=directory) + f"pidfile = {directory}/pid\n")
    user = ("-u", "root") if os.geteuid() == 0 else ()
    run(pooler, "check", ini)
    run(pooler, "-d", "-q", *user, ini)
    try:
        said = run(pooler, "console", "-f", ini, "-c", "SHOW VERSION")
        assert "PgBouncer 1." in said
    finally:
        run(pooler, "shutdown", "-f", ini)


@pytest.fixture
def clean_root(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("needs root and debootstrap")
    root = tmp_path / "root"
    run("debootstrap", "--variant=minbase", codename(), root)
    # As in a package's build: no service is started by an installation.
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    yield root
    shutil.rmtree(root)


def codename() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)["VERSION_CODENAME"]


def test_debian_package_on_a_clean_root(clean_root: Path) -> None:
    if shutil.which("dpkg-buildpackage") is None:
        pytest.skip("needs Debian's tools")
    run("make", "deb")
    package = newest("pooler_*.deb")
    shutil.copy(package, clean_root / "tmp")
    check_package(clean_root, package.name)


def check_package(root: Path, name: str) -> None:
    def inside(*command: object) -> str:
        return run("chroot", root, *command, DEBIAN_FRONTEND="noninteractive")

    inside("apt-get", "install", "-y", "-qq", "--no-install-recommends", f"/tmp/{name}")
    assert inside("/usr/bin/pooler", "-V").startswith("PgBouncer ")
    assert (root / "usr/share/man/man1/pooler.1.gz").exists()
    assert inside("getent", "passwd", "pooler").startswith("pooler:")
    modes = inside("stat", "-c", "%a %U:%G", "/etc/pooler", "/etc/pooler/userlist.txt")
    assert modes.split("\n")[:2] == ["750 root:pooler", "640 root:pooler"]
    assert "no errors, no warnings" in inside("pooler", "check")
    unit = (root / "usr/lib/systemd/system/pooler.service").read_text()
    assert "ExecStart=/usr/bin/pooler /etc/pooler/pooler.ini\n" in unit
    prerm = (root / "var/lib/dpkg/info/pooler.prerm").read_text()
    assert "stop pooler.socket pooler.service" in prerm
    postinst = (root / "var/lib/dpkg/info/pooler.postinst").read_text()
    assert "try-restart" in postinst
    (root / "var/log/pooler").mkdir()
    ini = Path("/tmp/pooler.ini")
    (root / "tmp/pooler.ini").write_text(
        INI.format(directory="/tmp") + "user = pooler\npidfile = /tmp/pid\n"
    )
    inside("pooler", "-d", "-q", ini)
    try:
        said = inside("pooler", "console", "-f", ini, "-c", "SHOW VERSION")
        assert "PgBouncer 1." in said
    finally:
        inside("pooler", "shutdown", "-f", ini)
    inside("apt-get", "purge", "-y", "-qq", "pooler")
    for gone in ("usr/lib/pooler", "etc/pooler", "var/log/pooler"):
        assert not (root / gone).exists()
