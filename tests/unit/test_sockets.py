# SPDX-License-Identifier: MIT
"""Listening sockets: what is bound, what is refused, what is left behind."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pooler.errors import ConfigError
from pooler.master import listeners as sockets
from pooler.master.listeners import Listeners


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listen(**changes: Any) -> Listeners:
    values: dict[str, Any] = {
        "listen_addr": ("127.0.0.1",),
        "listen_port": free_port(),
        "listen_backlog": 16,
        "workers": 2,
    }
    return sockets.open_listeners(**values | changes)


@pytest.fixture
def unix_dir() -> Iterator[Path]:
    # pytest's own directories can be too long for a socket address.
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_one_socket_per_slot_and_address() -> None:
    made = listen(listen_addr=("127.0.0.1", "127.0.0.2", "127.0.0.1"), workers=3)
    try:
        assert [len(row) for row in made.tcp] == [2, 2, 2]
        for listener in (one for row in made.tcp for one in row):
            assert not listener.getblocking()
            assert not listener.get_inheritable()
            assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
            assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        names = [one.getsockname()[0] for one in made.tcp[0]]
        assert names == ["127.0.0.1", "127.0.0.2"]
        assert made.unix is None
    finally:
        made.close()


def test_star_is_every_family() -> None:
    port = free_port()
    made = listen(listen_addr=("*",), listen_port=port)
    try:
        families = {one.family for one in made.tcp[0]}
        assert socket.AF_INET in families
        assert families <= {socket.AF_INET, socket.AF_INET6}
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    finally:
        made.close()


def test_close_other_slots() -> None:
    made = listen(workers=3)
    made.close_other_slots(1)
    assert [row[0].fileno() >= 0 for row in made.tcp] == [False, True, False]
    made.close()


def test_no_tcp_at_all(unix_dir: Path) -> None:
    made = listen(listen_addr=(), unix_socket_dir=str(unix_dir))
    assert made.tcp == ((), ())
    made.close()


def test_a_port_is_shared_if_that_is_wanted() -> None:
    """so_reuseport: poolers behind one port, of which one is restarted at a time."""
    port = free_port()
    first = listen(listen_port=port)
    try:
        with pytest.raises(ConfigError, match="in use by another process"):
            listen(listen_port=port)
        second = listen(listen_port=port, share_port=True)
        second.close()
    finally:
        first.close()


def test_a_port_is_not_shared_with_what_does_not_share_it() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match="in use by another process"):
            listen(listen_port=port, share_port=True)


@pytest.mark.parametrize("reuse_port", [0, 1])
def test_taken_port_is_refused_with_names(reuse_port: int, unix_dir: Path) -> None:
    before = open_fds()
    with socket.socket() as other:
        # Another pooler of ours would have SO_REUSEPORT set: it must not help.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            listen(
                listen_addr=("127.0.0.2", "127.0.0.1"),
                listen_port=port,
                unix_socket_dir=str(unix_dir),
            )
    assert caught.value.setting == "listen_port"
    assert f"address 127.0.0.1 port {port} is in use" in str(caught.value)
    assert open_fds() == before
    assert list(unix_dir.iterdir()) == []


def test_time_wait_does_not_keep_us_out() -> None:
    port = free_port()
    first = listen(listen_port=port, workers=1)
    client = socket.create_connection(("127.0.0.1", port))
    accepted, _ = first.tcp[0][0].accept()
    # The side that closes first keeps the port in TIME_WAIT.
    accepted.close()
    assert client.recv(1) == b""
    client.close()
    first.close()
    listen(listen_port=port).close()


def test_name_that_does_not_resolve() -> None:
    with pytest.raises(ConfigError) as caught:
        listen(listen_addr=("no-such-host.invalid",))
    assert caught.value.setting == "listen_addr"
    assert "no-such-host.invalid" in str(caught.value)


def test_an_address_of_another_host_is_skipped() -> None:
    # 192.0.2.0/24 is reserved for documentation: never ours.
    made = listen(listen_addr=("192.0.2.1", "127.0.0.1"))
    assert [len(row) for row in made.tcp] == [1, 1]
    made.close()
    with pytest.raises(ConfigError) as caught:
        listen(listen_addr=("192.0.2.1",))
    assert caught.value.setting == "listen_addr"
    assert "192.0.2.1" in str(caught.value)


@pytest.mark.parametrize("mode", [0o777, 0o700, 0o660])
def test_unix_socket_has_its_mode(unix_dir: Path, mode: int) -> None:
    umask = os.umask(0o022)
    try:
        made = listen(
            unix_socket_dir=str(unix_dir), unix_socket_mode=mode, listen_port=6432
        )
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(umask)
    path = unix_dir / ".s.PGSQL.6432"
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert made.unix is not None
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    made.unix.remove()
    assert not path.exists()
    made.close()


def test_stale_unix_socket_is_replaced(unix_dir: Path) -> None:
    values: dict[str, Any] = {"unix_socket_dir": str(unix_dir), "listen_port": 6432}
    listen(listen_addr=(), **values).close()
    assert (unix_dir / ".s.PGSQL.6432").exists()
    made = listen(listen_addr=(), **values)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(unix_dir / ".s.PGSQL.6432"))
    made.close()


def test_unix_socket_in_use(unix_dir: Path) -> None:
    values: dict[str, Any] = {"unix_socket_dir": str(unix_dir), "listen_port": 6432}
    first = listen(listen_addr=(), **values)
    with pytest.raises(ConfigError, match="unix socket is in use"):
        listen(listen_addr=(), **values)
    assert (unix_dir / ".s.PGSQL.6432").exists()
    first.close()


def test_unix_socket_in_use_with_a_full_backlog(unix_dir: Path) -> None:
    values: dict[str, Any] = {
        "listen_addr": (),
        "unix_socket_dir": str(unix_dir),
        "listen_port": 6432,
        "listen_backlog": 0,
    }
    first = listen(**values)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(unix_dir / ".s.PGSQL.6432"))
        with pytest.raises(ConfigError, match="unix socket is in use"):
            listen(**values)
    first.close()


def test_abstract_unix_socket() -> None:
    values: dict[str, Any] = {
        "listen_addr": (),
        "unix_socket_dir": f"@pooler-test-{os.getpid()}",
        "listen_port": 6432,
    }
    made = listen(**values)
    assert made.unix is not None
    assert made.unix.path is None
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0pooler-test-{os.getpid()}/.s.PGSQL.6432")
    with pytest.raises(ConfigError, match="unix socket is in use"):
        listen(**values)
    made.close()


def test_a_file_in_the_way_is_not_ours_to_remove(unix_dir: Path) -> None:
    path = unix_dir / ".s.PGSQL.6432"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="not a socket"):
        listen(unix_socket_dir=str(unix_dir), listen_port=6432)
    assert path.read_text() == "precious"


def test_lock_file_of_a_server(unix_dir: Path) -> None:
    (unix_dir / ".s.PGSQL.6432.lock").write_text("1\n")
    with pytest.raises(ConfigError, match=r"\.lock exists"):
        listen(unix_socket_dir=str(unix_dir), listen_port=6432)


@pytest.mark.parametrize("directory", ["missing", "x" * 120])
def test_unusable_directory(unix_dir: Path, directory: str) -> None:
    before = open_fds()
    with pytest.raises(ConfigError) as caught:
        listen(unix_socket_dir=str(unix_dir / directory))
    assert caught.value.setting == "unix_socket_dir"
    assert open_fds() == before


def test_unknown_group_leaves_no_file(unix_dir: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        listen(unix_socket_dir=str(unix_dir), unix_socket_group="no-such-group-here")
    assert caught.value.setting == "unix_socket_group"
    assert list(unix_dir.iterdir()) == []


def test_only_our_own_file_is_removed(unix_dir: Path) -> None:
    made = listen(unix_socket_dir=str(unix_dir), listen_port=6432)
    path = unix_dir / ".s.PGSQL.6432"
    path.unlink()
    path.write_text("a successor's")
    assert made.unix is not None
    made.unix.remove()
    assert path.exists()
    made.close()
