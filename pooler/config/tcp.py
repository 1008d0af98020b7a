# SPDX-License-Identifier: MIT
"""The settings ``tcp_*`` as options of a socket. Config layer, cold."""

from __future__ import annotations

import socket

from pooler.config.settings import Settings

SocketOption = tuple[int, int, int]


def tcp_options(settings: Settings) -> tuple[SocketOption, ...]:
    """What to set on a TCP socket, as ``setsockopt`` takes it, before it connects.

    0 leaves what the kernel has; TCP_NODELAY is always set. As PgBouncer does it, the
    numbers of keepalive count only with ``tcp_keepalive`` (tcp(7)).
    """
    tcp, whole = socket.IPPROTO_TCP, socket.SOL_SOCKET
    alive = settings.tcp_keepalive
    wanted = (
        (tcp, socket.TCP_USER_TIMEOUT, settings.tcp_user_timeout),
        (whole, socket.SO_SNDBUF, settings.tcp_socket_buffer),
        (whole, socket.SO_RCVBUF, settings.tcp_socket_buffer),
        (tcp, socket.TCP_KEEPCNT, alive and settings.tcp_keepcnt),
        (tcp, socket.TCP_KEEPIDLE, alive and settings.tcp_keepidle),
        (tcp, socket.TCP_KEEPINTVL, alive and settings.tcp_keepintvl),
    )
    return (
        (tcp, socket.TCP_NODELAY, 1),
        (whole, socket.SO_KEEPALIVE, int(alive)),
        *((level, name, value) for level, name, value in wanted if value),
    )
