# SPDX-License-Identifier: MIT
"""Hosts as they are written, before anybody is asked. Config layer, cold."""

from __future__ import annotations

LONGEST_NAME = 253


def is_path(host: str) -> bool:
    """Whether a host is the directory of a Unix socket, or an abstract one."""
    return host.startswith(("/", "@"))


def host_problem(host: str) -> str:
    """Why it can be no host, such as ``db..example``; "" if it can (RFC 1035)."""
    if is_path(host):
        return ""
    try:
        raw = host.encode("idna")
    except UnicodeError as error:
        return f"no host name: {error.__cause__ or error}"
    return "no host name: too long" if len(raw) > LONGEST_NAME else ""
