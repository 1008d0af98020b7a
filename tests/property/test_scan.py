# SPDX-License-Identifier: MIT
"""The scanner against the reference parser, on streams good, broken and random."""

from __future__ import annotations

import struct
from types import ModuleType

from hypothesis import example, given
from hypothesis import strategies as st

from pooler.wire.messages import MESSAGES, Message
from tests.feeding import feed_all, feed_bytes, feed_split
from tests.reference import wire_ref

RULES = st.sampled_from(["client", "attached", "server", "idle_server"])
CUTS = st.lists(st.integers(0, 1 << 16), max_size=12)
BODY_MAX = 64
ODD_LENGTHS = [0, 1, 3, 4, 5, 10_000, 65_536, 65_537, 0x10000000, 0x3FFFFFFE]
ODD_LENGTHS += [0x3FFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def encode(row: Message, body: bytes) -> bytes:
    return bytes([row.byte]) + struct.pack("!I", len(body) + 4) + body


@st.composite
def valid_messages(draw: st.DrawFn, rules: str) -> bytes:
    """A message of any row with a body of any allowed length, often the shortest."""
    row = draw(st.sampled_from(list(wire_ref.rules_of(rules).values())))
    least = row.min_length - 4
    most = max(least, min(row.max_length - 4, BODY_MAX))
    return encode(row, draw(st.binary(min_size=least, max_size=most)))


@st.composite
def message_streams(draw: st.DrawFn) -> tuple[str, bytes]:
    rules = draw(RULES)
    return rules, b"".join(draw(st.lists(valid_messages(rules), max_size=12)))


@st.composite
def odd_headers(draw: st.DrawFn) -> bytes:
    """Any type byte of the table, with a length that may be wrong."""
    code = draw(st.sampled_from(MESSAGES)).byte
    length = draw(st.one_of(st.sampled_from(ODD_LENGTHS), st.integers(0, 0xFFFFFFFF)))
    return bytes([code]) + struct.pack("!I", length)


@st.composite
def mutated_streams(draw: st.DrawFn) -> tuple[str, bytes]:
    """A stream with bytes changed, cut out or put in."""
    rules, raw = draw(message_streams())
    data = bytearray(raw)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        new = draw(st.one_of(st.binary(max_size=6), odd_headers()))
        data[at : at + draw(st.integers(0, 6))] = new
    return rules, bytes(data)


@st.composite
def random_bytes(draw: st.DrawFn) -> tuple[str, bytes]:
    return draw(RULES), draw(st.binary(max_size=300))


STREAMS = st.one_of(message_streams(), mutated_streams(), random_bytes())


@given(stream=message_streams())
def test_a_valid_stream_never_fails(
    probe: ModuleType, stream: tuple[str, bytes]
) -> None:
    rules, raw = stream
    got = feed_all(probe.scan, rules, raw)
    assert (got.failed, got.body_left, got.held) == (None, 0, 0)


@given(stream=STREAMS)
@example(stream=("client", b"S\0\0\0\4" * 3 + b"\0\0\0\0\4"))
def test_equals_the_reference(probe: ModuleType, stream: tuple[str, bytes]) -> None:
    rules, raw = stream
    assert feed_all(probe.scan, rules, raw) == wire_ref.scan(rules, raw)


@given(stream=STREAMS, cuts=CUTS)
def test_any_split_gives_the_same_events(
    probe: ModuleType, stream: tuple[str, bytes], cuts: list[int]
) -> None:
    rules, raw = stream
    whole = feed_all(probe.scan, rules, raw)
    assert feed_split(probe.scan, rules, raw, cuts) == whole
    assert feed_bytes(probe.scan, rules, raw) == whole


@given(stream=STREAMS, at=st.integers(0, 1 << 16))
def test_events_of_a_prefix_are_a_prefix(
    probe: ModuleType, stream: tuple[str, bytes], at: int
) -> None:
    rules, raw = stream
    part = feed_all(probe.scan, rules, raw[: at % (len(raw) + 1)])
    whole = feed_all(probe.scan, rules, raw)
    assert whole.events[: len(part.events)] == part.events
    if part.failed is not None:
        assert whole == part


@given(stream=STREAMS)
def test_at_most_a_header_is_held_unless_a_whole_message_is_cut(
    probe: ModuleType, stream: tuple[str, bytes]
) -> None:
    rules, raw = stream
    got = feed_all(probe.scan, rules, raw)
    if got.held > 4:
        row = wire_ref.rules_of(rules)[raw[len(raw) - got.held]]
        assert row.whole
    assert not (got.held and got.body_left)


@given(stream=STREAMS)
def test_events_lie_inside_the_stream_and_do_not_overlap(
    probe: ModuleType, stream: tuple[str, bytes]
) -> None:
    rules, raw = stream
    got = feed_all(probe.scan, rules, raw)
    end = 0
    for code, start, length in got.events:
        assert start >= end
        assert raw[start] == code
        assert raw[start + 1 : start + 5] == struct.pack("!I", length)
        end = start + 1 + length
    if got.failed is not None:
        assert end <= got.failed <= len(raw) - 5
