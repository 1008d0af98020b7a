# SPDX-License-Identifier: MIT
"""A DNS server on a loopback port that answers what a test wants (RFC 1035)."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from collections import Counter
from pathlib import Path

HOST = "127.0.0.1"
A, SOA, AAAA = 1, 6, 28
SERVFAIL, NXDOMAIN = 2, 3
RECORD_TTL_S = 3600  # of every record: what counts is dns_max_ttl


class NameServer:
    """Names are unknown (NXDOMAIN) until a test says something about them."""

    def __init__(self, directory: Path) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((HOST, 0))
        self.resolv_conf = directory / "resolv.conf"
        port = self._socket.getsockname()[1]
        self.resolv_conf.write_text(f"nameserver {HOST}:{port}\n")
        self._lock = threading.Lock()
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._failing: dict[str, int] = {}
        self._silent: set[str] = set()
        self._unanswered: dict[str, list[tuple[bytes, tuple[str, int]]]] = {}
        self._serials: dict[str, int] = {}
        self._asked: Counter[tuple[str, int]] = Counter()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def set(self, name: str, *addresses: str) -> None:
        """Answer with these addresses; none: there is such a name, without any.

        Who has asked while the name was silent is answered now.
        """
        with self._lock:
            self._addresses[name] = addresses
            self._failing.pop(name, None)
            self._silent.discard(name)
            for packet, caller in self._unanswered.pop(name, []):
                self._answer(packet, caller)

    def fail(self, name: str, code: int = NXDOMAIN) -> None:
        """Answer with an error."""
        with self._lock:
            self._silent.discard(name)
            self._failing[name] = code

    def silence(self, name: str) -> None:
        """Answer nothing until ``set``."""
        with self._lock:
            self._silent.add(name)

    def serial(self, zone: str, number: int) -> None:
        """The serial number in the zone's SOA record."""
        with self._lock:
            self._serials[zone] = number

    def asked(self, name: str, kind: int = A) -> int:
        """How many questions have come about a name."""
        with self._lock:
            return self._asked[name, kind]

    def close(self) -> None:
        with self._lock:
            self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            packet, caller = self._socket.recvfrom(4096)
            if not packet:
                return
            name, kind, _ = _question(packet)
            with self._lock:
                self._asked[name, kind] += 1
                if name in self._silent:
                    self._unanswered.setdefault(name, []).append((packet, caller))
                else:
                    self._answer(packet, caller)

    def _answer(self, packet: bytes, caller: tuple[str, int]) -> None:
        name, kind, end = _question(packet)
        code, records = 0, b""
        count = 0
        if kind == SOA and name in self._serials:
            numbers = (self._serials[name], 3600, 600, 86400, 60)
            body = b"\0\0" + struct.pack("!5I", *numbers)
            records, count = _record(SOA, body), 1
        elif name in self._failing:
            code = self._failing[name]
        elif name not in self._addresses:
            code = NXDOMAIN
        else:
            for text in self._addresses[name]:
                address = ipaddress.ip_address(text)
                if kind == (A if address.version == 4 else AAAA):
                    records += _record(kind, address.packed)
                    count += 1
        flags = 0x8180 | code
        header = packet[:2] + struct.pack("!HHHHH", flags, 1, count, 0, 0)
        self._socket.sendto(header + packet[12:end] + records, caller)


def _question(packet: bytes) -> tuple[str, int, int]:
    """Name, type and end of the first question."""
    labels, at = [], 12
    while packet[at]:
        labels.append(packet[at + 1 : at + 1 + packet[at]].decode())
        at += 1 + packet[at]
    (kind,) = struct.unpack_from("!H", packet, at + 1)
    return ".".join(labels).lower(), kind, at + 5


def _record(kind: int, body: bytes) -> bytes:
    """About the name of the question."""
    return struct.pack("!HHHIH", 0xC00C, kind, 1, RECORD_TTL_S, len(body)) + body
