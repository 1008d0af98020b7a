# SPDX-License-Identifier: MIT
"""Who a client is before it proves it, and how it has to. Worker layer, cold."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import pwd
from collections.abc import Callable

from pooler.config.hba import Connection, Hba
from pooler.errors import INVALID_AUTHORIZATION, LoginError
from pooler.io.engine import Engine
from pooler.login import packets
from pooler.login.policy import Asker, AuthMethod, Demand


class Peer:
    """What the connection of a client says of it."""

    def __init__(self, engine: Engine, handle: int) -> None:
        self._engine = engine
        self._handle = handle

    @property
    def address(self) -> str | None:
        """Where it came from; None: by a Unix socket."""
        host = self._engine.client_peer(self._handle)[0]
        return None if host == "unix" else host

    def os_user(self) -> str | None:
        """Who it is on this machine."""
        uid = self._engine.client_os_uid(self._handle)
        with contextlib.suppress(KeyError):
            return None if uid is None else pwd.getpwuid(uid).pw_name
        return None

    def is_own(self) -> bool:
        """Whether the system's user is the one that we run as."""
        return self._engine.client_os_uid(self._handle) == os.geteuid()

    def certificate_name(self) -> str | None:
        """The common name in its certificate."""
        name = self._engine.client_certificate_name(self._handle)
        return packets.decode(name) if name else None


def demand_by(hba: Hba) -> Callable[[Asker], Demand]:
    """How the rules say that a client has to prove who it is."""

    def demand(asker: Asker) -> Demand:
        address = None
        if asker.address is not None:
            address = ipaddress.ip_address(asker.address)
            address = getattr(address, "ipv4_mapped", None) or address
        rule = hba.rule_for(
            Connection(
                asker.database,
                asker.user,
                address,
                asker.secured,
                asker.replication == "physical",
            )
        )
        if rule is None:
            why = "no line of auth_hba_file fits"
        elif rule.method is None:
            why = f"{rule.file}:{rule.line} rejects it"
        else:
            fits = rule
            return Demand(
                AuthMethod(rule.method),
                lambda system_user, user: hba.is_mapped(fits, system_user, user),
            )
        raise LoginError("login rejected", INVALID_AUTHORIZATION, why=why)

    return demand
