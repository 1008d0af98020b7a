# SPDX-License-Identifier: MIT
"""SCRAM keys: derived once, in a thread, and forgotten."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from pooler.login.scram import KeyRequest, ScramKeys
from pooler.worker import keys as keys_module
from pooler.worker.keys import NICENESS, SALTS_OF_ONE_SECRET, KeyRing

REQUEST = KeyRequest("secret", b"salt", 2)


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> list[KeyRequest]:
    """What was derived; here too, by another thread."""
    seen: list[KeyRequest] = []
    derive = KeyRequest.derive
    own = threading.get_ident()

    def note(request: KeyRequest) -> ScramKeys:
        assert threading.get_ident() != own
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) >= NICENESS
        seen.append(request)
        return derive(request)

    monkeypatch.setattr(KeyRequest, "derive", note)
    return seen


def play(ring: KeyRing, work: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.run(work)
    finally:
        ring.close()


def test_once_for_all_who_ask(derived: list[KeyRequest]) -> None:
    ring = KeyRing()

    async def work() -> None:
        assert ring.find(REQUEST) is None
        found = await asyncio.gather(*(ring.get(REQUEST) for _ in range(5)))
        assert found == [ScramKeys.from_password("secret", b"salt", 2)] * 5
        assert await ring.get(REQUEST) is ring.find(REQUEST) is found[0]

    play(ring, work())
    assert derived == [REQUEST]


def test_who_gives_up_disturbs_nobody(derived: list[KeyRequest]) -> None:
    ring = KeyRing()

    async def work() -> None:
        first, second = (asyncio.create_task(ring.get(REQUEST)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).salt == b"salt"
        assert first.cancelled()

    play(ring, work())
    assert derived == [REQUEST]


def test_a_server_with_another_salt_each_time(derived: list[KeyRequest]) -> None:
    ring = KeyRing()
    salts = [KeyRequest("hostile", bytes([n]), 1) for n in range(9)]

    async def work() -> None:
        await ring.get(REQUEST)
        for request in salts:
            await ring.get(request)

    play(ring, work())
    known = [request for request in salts if ring.find(request)]
    assert known == salts[-SALTS_OF_ONE_SECRET:]
    assert ring.find(REQUEST)


def test_no_more_secrets_than_the_bound(
    derived: list[KeyRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "MAX_SECRETS", 2)
    ring = KeyRing()
    one, two, three = (KeyRequest(name, b"salt", 1) for name in "123")

    async def work() -> None:
        await ring.get(one)
        await ring.get(two)
        assert ring.find(one)  # which makes it the newer one
        await ring.get(three)

    play(ring, work())
    assert [ring.find(request) is None for request in (one, two, three)] == [
        False,
        True,
        False,
    ]


def test_secrets_that_are_gone_are_forgotten(derived: list[KeyRequest]) -> None:
    ring = KeyRing()
    gone = KeyRequest("gone", b"salt", 2)

    async def work() -> None:
        await ring.get(REQUEST)
        await ring.get(gone)
        ring.keep(frozenset({"secret"}))

    play(ring, work())
    assert ring.find(REQUEST)
    assert ring.find(gone) is None


def test_the_end_while_keys_are_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    monkeypatch.setattr(KeyRequest, "derive", lambda _: may_end.wait(10))
    ring = KeyRing()

    async def work() -> None:
        waits = asyncio.create_task(ring.get(REQUEST))
        await asyncio.sleep(0)
        ring.close()
        with pytest.raises(asyncio.CancelledError):
            await waits

    play(ring, work())
    may_end.set()
