# SPDX-License-Identifier: MIT
"""No core dumps: secrets and what clients have sent would stand in them. Layer: master.

What is not dumpable cannot be traced or looked into by other processes of the same
user either. Workers inherit it.

Source: Linux manual page prctl(2), PR_SET_DUMPABLE.
"""

from __future__ import annotations

import ctypes
import os

from pooler import log

PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """Make this process and its children not dumpable; a warning where that cannot be.

    To be called when the user has been changed, which sets it anew.
    """
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    except (AttributeError, OSError) as error:  # the former: there is no prctl here
        log.write(log.WARNING, f"core dumps cannot be forbidden: {error}")
