# SPDX-License-Identifier: MIT
"""The settings ``tcp_*`` on a socket of the kernel."""

from __future__ import annotations

import dataclasses
import socket

import pytest

from pooler.config.loading import load_text
from pooler.config.settings import Settings
from pooler.config.tcp import tcp_options
from pooler.errors import ConfigError

TCP = socket.IPPROTO_TCP
TUNED = Settings(
    tcp_keepcnt=7,
    tcp_keepidle=77,
    tcp_keepintvl=17,
    tcp_user_timeout=5000,
    tcp_socket_buffer=65536,
)


def options_of(settings: Settings) -> dict[str, int]:
    """What the kernel says of a socket that has been tuned."""
    with socket.socket() as sock:
        for option in tcp_options(settings):
            sock.setsockopt(*option)
        return {
            "nodelay": sock.getsockopt(TCP, socket.TCP_NODELAY),
            "alive": sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            "count": sock.getsockopt(TCP, socket.TCP_KEEPCNT),
            "idle": sock.getsockopt(TCP, socket.TCP_KEEPIDLE),
            "interval": sock.getsockopt(TCP, socket.TCP_KEEPINTVL),
            "patience": sock.getsockopt(TCP, socket.TCP_USER_TIMEOUT),
            # the kernel doubles it, for what it keeps beside (socket(7))
            "send": sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2,
            "receive": sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2,
        }


def test_all_are_set() -> None:
    assert options_of(TUNED) == {
        "nodelay": 1,
        "alive": 1,
        "count": 7,
        "idle": 77,
        "interval": 17,
        "patience": 5000,
        "send": 65536,
        "receive": 65536,
    }


def test_zero_is_what_the_kernel_has() -> None:
    assert {option for _, option, _ in tcp_options(Settings())} == {
        socket.TCP_NODELAY,
        socket.SO_KEEPALIVE,
    }


def test_without_keepalive_its_numbers_do_not_count() -> None:
    found = options_of(dataclasses.replace(TUNED, tcp_keepalive=False))
    assert found["alive"] == 0
    assert (found["count"], found["idle"], found["interval"]) != (7, 77, 17)
    assert found["patience"] == 5000


@pytest.mark.parametrize(
    "line",
    [
        "tcp_keepcnt = 128",
        "tcp_keepidle = 32768",
        "tcp_keepintvl = 32768",
        "tcp_user_timeout = -1",
        "tcp_socket_buffer = -1",
    ],
)
def test_what_the_kernel_would_refuse_ends_the_start(line: str) -> None:
    with pytest.raises(ConfigError, match=line.split()[0]):
        load_text(f"[pgbouncer]\nauth_type = any\n{line}\n", "p.ini")


def test_the_highest_that_are_allowed_can_be_set() -> None:
    found = options_of(
        Settings(tcp_keepcnt=127, tcp_keepidle=32767, tcp_keepintvl=32767)
    )
    assert (found["count"], found["idle"], found["interval"]) == (127, 32767, 32767)
