# SPDX-License-Identifier: MIT
"""PAM options, as lines of pg_hba.conf give them. Config layer.

Source: PostgreSQL documentation, "PAM Authentication".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# PgBouncer's name, not PostgreSQL's: its rules are in /etc/pam.d/pgbouncer.
DEFAULT_SERVICE = "pgbouncer"


@dataclass(frozen=True, slots=True)
class PamOptions:
    """Whose rules decide."""

    service: str = DEFAULT_SERVICE


def read_pam_options(pairs: Iterable[tuple[str, str]]) -> PamOptions:
    """The options that (name, value) say; ValueError for what makes no sense."""
    service = DEFAULT_SERVICE
    for name, value in pairs:
        if name == "pamservice":
            # PAM makes a file name of it.
            if not value or "/" in value:
                raise ValueError("pamservice: expected a name in /etc/pam.d")
            service = value
        elif name == "pam_use_hostname":
            if value != "0":
                raise ValueError("pam_use_hostname: only 0; names are not looked up")
        else:
            raise ValueError(
                f"no such option: {name}; known are pamservice, pam_use_hostname"
            )
    return PamOptions(service)
