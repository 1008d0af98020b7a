# SPDX-License-Identifier: MIT
"""Libraries of the system that some methods need. Config layer.

They are no part of the installation, as the methods are not everybody's: who asks for
one and lacks its library is told so at the start. They come from the system and not
from PyPI, so that its configuration counts (``/etc/pam.d``, ``ldap.conf``), as with
PostgreSQL.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pooler.config.kinds import AuthType


@dataclass(frozen=True, slots=True)
class Needed:
    """Names of a library, the best first, and where it comes from."""

    names: tuple[str, ...]
    packages: str


NEEDED: Mapping[AuthType, Needed] = MappingProxyType(
    {
        AuthType.PAM: Needed(
            ("libpam.so.0",), "libpam0g (Debian, Ubuntu) or pam (Fedora)"
        ),
        # Versions that may be used by several threads at once.
        AuthType.LDAP: Needed(
            ("libldap.so.2", "libldap-2.5.so.0", "libldap_r-2.4.so.2"),
            "libldap2 or libldap-2.5-0 (Debian, Ubuntu) or openldap (Fedora)",
        ),
    }
)


def load_library(method: AuthType) -> ctypes.CDLL:
    """The library of a method; OSError says what is missing and where it is from.

    Its names are seen by all, so that a wrapper that is preloaded is used by us too.
    """
    needed = NEEDED[method]
    for name in needed.names:
        try:
            return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
    raise OSError(
        f"{method} needs {' or '.join(needed.names)}, which is not installed here; it"
        f" is in {needed.packages}"
    )
