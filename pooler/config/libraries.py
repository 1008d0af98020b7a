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
    """Names of a library, the best first, a function that it has, where it is from."""

    names: tuple[str, ...]
    function: str
    packages: str


NEEDED: Mapping[AuthType, Needed] = MappingProxyType(
    {
        AuthType.PAM: Needed(
            ("libpam.so.0",),
            "pam_start",
            "libpam0g (Debian, Ubuntu) or pam (Fedora)",
        ),
        # Versions that may be used by several threads at once.
        AuthType.LDAP: Needed(
            ("libldap.so.2", "libldap-2.5.so.0", "libldap_r-2.4.so.2"),
            "ldap_init_fd",
            "libldap2 or libldap-2.5-0 (Debian, Ubuntu) or openldap (Fedora)",
        ),
    }
)


def load_library(method: AuthType) -> ctypes.CDLL:
    """The library of a method; OSError says what is missing and where it is from.

    Its names are seen by nobody else: psycopg brings libraries of the same kind, which
    must find their own. A wrapper that is preloaded is taken instead of it.
    """
    needed = NEEDED[method]
    for name in (None, *needed.names):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if hasattr(library, needed.function):
            return library
    raise OSError(
        f"{method} needs {' or '.join(needed.names)}, which is not installed here; it"
        f" is in {needed.packages}"
    )
