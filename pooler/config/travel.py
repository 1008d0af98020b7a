# SPDX-License-Identifier: MIT
"""A configuration on its way from the master to its children. Config layer.

All processes run the one that the master has read and checked, not what the files say
by the time each of them gets to look. It travels in memory: ``pack`` makes a sealed
file of it that has no name, ``unpack`` reads it.

Only what a process of ours has packed may be unpacked: it is a pickle.
"""

from __future__ import annotations

import copyreg
import fcntl
import io
import os
import pickle
from types import MappingProxyType
from typing import Any

from pooler.config.model import Config

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK


def pack(config: Config) -> int:
    """Return a descriptor of the packed configuration, which the caller closes."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = copyreg.dispatch_table.copy()
    pickler.dispatch_table[MappingProxyType] = _reduce_mapping
    pickler.dump(config)
    fd = os.memfd_create("pooler-config", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(buffer.getbuffer())
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def unpack(fd: int) -> Config:
    """Read what ``pack`` has made; ``fd`` stays open, and others may read it too."""
    raw = os.pread(fd, os.fstat(fd).st_size, 0)
    config = pickle.loads(raw)  # noqa: S301 - packed by the master
    if not isinstance(config, Config):
        raise TypeError(f"not a configuration but {type(config).__name__}")
    return config


def _mapping(items: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(items)


def _reduce_mapping(mapping: MappingProxyType[Any, Any]) -> tuple[Any, ...]:
    return _mapping, (dict(mapping),)
