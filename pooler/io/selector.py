# SPDX-License-Identifier: MIT
"""The engine as an asyncio selector. IO layer, cold.

``asyncio.SelectorEventLoop(EngineSelector(engine))`` runs every hot connection inside
``select``; asyncio sees only descriptors that Python registered. Registering the
engine itself (``loop.add_reader(engine.fileno(), ...)``) means "notices wait".
"""

from __future__ import annotations

import selectors
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

    from pooler.io.engine import Engine


def _descriptor(fileobj: FileDescriptorLike) -> int:
    return fileobj if isinstance(fileobj, int) else fileobj.fileno()


class EngineSelector(selectors.BaseSelector):
    """A ``selectors`` object whose ``select`` turns the engine's loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._own = engine.fileno()
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(
        self, fileobj: FileDescriptorLike, events: int, data: Any = None
    ) -> selectors.SelectorKey:
        """Watch a descriptor; KeyError when it is watched already."""
        fd = _descriptor(fileobj)
        if fd in self._keys:
            raise KeyError(f"{fileobj!r} (fd {fd}) is already registered")
        if fd != self._own:
            self._engine.watch(fd, events)
        key = selectors.SelectorKey(fileobj, fd, events, data)
        self._keys[fd] = key
        return key

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        """Stop watching; KeyError when it is not watched."""
        key = self._keys.pop(_descriptor(fileobj))
        if key.fd != self._own:
            self._engine.watch(key.fd, 0)
        return key

    def modify(
        self, fileobj: FileDescriptorLike, events: int, data: Any = None
    ) -> selectors.SelectorKey:
        """Change events or data of a watched descriptor."""
        old = self._keys[_descriptor(fileobj)]
        if events != old.events and old.fd != self._own:
            self._engine.watch(old.fd, events)
        key = selectors.SelectorKey(old.fileobj, old.fd, events, data)
        self._keys[old.fd] = key
        return key

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        """Serve connections until a watched descriptor is ready or time is over."""
        ready = []
        for fd, mask in self._engine.run(timeout):
            key = self._keys.get(fd)
            if key is not None and mask & key.events:
                ready.append((key, mask & key.events))
        return ready

    def close(self) -> None:
        """Forget all keys; the engine is closed by its owner."""
        self._keys.clear()

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        """Return the watched descriptors."""
        return cast("Mapping[FileDescriptorLike, selectors.SelectorKey]", self._keys)
