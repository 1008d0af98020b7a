# SPDX-License-Identifier: MIT
"""What accepted sockets inherit from the listening socket."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator

import pytest

from pooler.config.settings import Settings
from pooler.worker.listening import tune

TCP = socket.IPPROTO_TCP


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(5)
        yield made


def accepted(listener: socket.socket, said: bytes = b"x") -> socket.socket:
    with socket.create_connection(listener.getsockname()) as client:
        client.sendall(said)
        found, _ = listener.accept()
    return found


def settings(**values: object) -> Settings:
    return dataclasses.replace(Settings(), **values)  # type: ignore[arg-type]


def test_all_options(listener: socket.socket) -> None:
    tune(
        listener,
        settings(
            tcp_keepcnt=3,
            tcp_keepidle=11,
            tcp_keepintvl=7,
            tcp_user_timeout=9000,
            tcp_socket_buffer=40_000,
        ),
    )
    with accepted(listener) as found:
        assert found.getsockopt(TCP, socket.TCP_NODELAY)
        assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert found.getsockopt(TCP, socket.TCP_KEEPCNT) == 3
        assert found.getsockopt(TCP, socket.TCP_KEEPIDLE) == 11
        assert found.getsockopt(TCP, socket.TCP_KEEPINTVL) == 7
        assert found.getsockopt(TCP, socket.TCP_USER_TIMEOUT) == 9000
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):  # the kernel doubles it
            assert found.getsockopt(socket.SOL_SOCKET, option) == 80_000


def test_a_reload_to_zero_is_the_kernels_default(listener: socket.socket) -> None:
    with socket.socket() as own:
        default = own.getsockopt(TCP, socket.TCP_KEEPIDLE)
    tune(listener, settings(tcp_keepidle=11, tcp_user_timeout=9000))
    tune(listener, settings(tcp_keepalive=False))
    with accepted(listener) as found:
        assert found.getsockopt(TCP, socket.TCP_KEEPIDLE) == default
        assert found.getsockopt(TCP, socket.TCP_USER_TIMEOUT) == 0
        assert not found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize("on", [0, 1])
def test_who_says_nothing(listener: socket.socket, on: int) -> None:
    """Stays outside if ``tcp_defer_accept`` says so."""
    tune(listener, settings(tcp_defer_accept=on))
    listener.settimeout(0.3)
    with socket.create_connection(listener.getsockname()) as client:
        if on:
            with pytest.raises(TimeoutError):
                listener.accept()
        else:
            listener.accept()[0].close()
            return
        client.sendall(b"x")
        listener.settimeout(5)
        listener.accept()[0].close()


def test_what_cannot_be_is_told(
    listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    tune(listener, settings(tcp_keepidle=100_000))  # the configuration refuses it
    assert "cannot be 100000: Invalid argument" in caplog.text
    accepted(listener).close()
