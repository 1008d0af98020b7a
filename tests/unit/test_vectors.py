# SPDX-License-Identifier: MIT
"""Every vector, however it arrives, and the reference parser on the same bytes."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.feeding import (
    SYNC,
    Vector,
    feed_all,
    feed_bytes,
    feed_trailing,
    load_vectors,
    ready,
)
from tests.reference import wire_ref

VALID = load_vectors("valid")
INVALID = load_vectors("invalid")
VECTORS = [*VALID, *INVALID]


def each(vectors: list[Vector]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", vectors, ids=[v.id for v in vectors])


def test_vector_names_are_unique() -> None:
    names = [vector.id for vector in VECTORS]
    assert sorted(set(names)) == sorted(names)


@each(VECTORS)
def test_vector_is_well_formed(vector: Vector) -> None:
    assert vector.sender in ("client", "server")
    assert vector.phase in ("ready", "idle")
    assert vector.doc
    assert vector.raw


@each(VALID)
def test_valid_vector_has_no_error(vector: Vector) -> None:
    assert vector.expected.failed is None


@each(INVALID)
def test_invalid_vector_fails_or_is_held(vector: Vector) -> None:
    assert vector.expected.failed is not None or vector.expected.held


@each(VECTORS)
def test_reference_agrees(vector: Vector) -> None:
    assert wire_ref.scan(vector.rules, vector.raw) == vector.expected


@each(VECTORS)
def test_whole(vector: Vector, probe: ModuleType) -> None:
    assert feed_all(probe.scan, vector.rules, vector.raw) == vector.expected


@each(VECTORS)
def test_byte_by_byte(vector: Vector, probe: ModuleType) -> None:
    assert feed_bytes(probe.scan, vector.rules, vector.raw) == vector.expected


@each([v for v in VECTORS if not v.expected.held and not v.expected.body_left])
@pytest.mark.parametrize("n", [1, 4, 5])
def test_bytes_behind_it_change_nothing(
    vector: Vector, n: int, probe: ModuleType
) -> None:
    """A cut header behind it is held; a whole message behind it is one more event."""
    more = {"client": SYNC, "server": ready(), "idle_server": b"E\0\0\0\5\0"}
    trailing = more[vector.rules]
    trailing = trailing if n == 5 else trailing[:n]
    got = feed_trailing(probe.scan, vector.rules, vector.raw, trailing)
    want = vector.expected
    if want.failed is None and n == 5:
        event = (trailing[0], len(vector.raw), len(trailing) - 1)
        want = want._replace(events=[*want.events, event])
    elif want.failed is None:
        want = want._replace(held=n)
    assert got == want


@each([v for v in VECTORS if v.expected.body_left > 16])
def test_bytes_behind_a_cut_body_belong_to_it(
    vector: Vector, probe: ModuleType
) -> None:
    got = feed_trailing(probe.scan, vector.rules, vector.raw, b"\0" * 16)
    left = vector.expected.body_left - 16
    assert got == vector.expected._replace(body_left=left)
