# SPDX-License-Identifier: MIT
"""How the log is written, by the settings. Config layer."""

from __future__ import annotations

from pooler.config.kinds import LogFormat
from pooler.config.settings import Settings
from pooler.log import Style


def log_style(settings: Settings) -> Style:
    """What the processes are told."""
    return Style(
        json=settings.log_format is LogFormat.JSON,
        syslog=settings.syslog_facility.value if settings.syslog else "",
        ident=settings.syslog_ident,
    )
