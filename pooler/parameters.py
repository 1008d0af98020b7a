# SPDX-License-Identifier: MIT
"""The parameters that follow a client from server to server. Imports nothing of ours.

Only what PostgreSQL reports (ParameterStatus) can be followed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

# Always followed: the lower-case name to the one that PostgreSQL reports.
TRACKED_PARAMETERS: Mapping[str, str] = MappingProxyType(
    {
        name.lower(): name
        for name in (
            "client_encoding",
            "DateStyle",
            "TimeZone",
            "standard_conforming_strings",
            "application_name",
            "IntervalStyle",
        )
    }
)

# The room in the engine's tables (pooler.tables.params), for all of them together.
MAX_TRACKED_PARAMETERS = 16
MAX_NAME_BYTES = 63

# Names go into SET as they are, so nothing else may be in them.
_NAME = re.compile(r"[a-z_][a-z0-9_$]*(\.[a-z_][a-z0-9_$]*)*", re.ASCII | re.IGNORECASE)


def is_parameter_name(text: str) -> bool:
    """Whether a parameter of PostgreSQL can have this name, of an extension or not."""
    return len(text) <= MAX_NAME_BYTES and _NAME.fullmatch(text) is not None
