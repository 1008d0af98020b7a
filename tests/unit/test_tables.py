# SPDX-License-Identifier: MIT
"""The tables: nobody can aim at a bucket, and they grow with what is in them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import islice, product
from types import ModuleType

import pytest

from tests.wire_client import SYNC, message, parse

KEY = bytes(range(16))
PARSED, READY = message("1"), message("Z", b"I")

# SipHash-2-4 of 0, 1, 2, ... under the key 0, 1, ... 15; the one of 15 bytes is in the
# paper, all are in its authors' reference code.
PUBLISHED = {
    0: 0x726FDB47DD0E0E31,
    1: 0x74F839C593DC67FD,
    7: 0xAB0200F58B01D137,
    8: 0x93F5F5799A932462,
    15: 0xA129CA6149BE45E5,
    16: 0x3F2ACC7F57C29BDB,
    63: 0x958A324CEB064572,
}

# SipHash-2-4-128 likewise.
PUBLISHED_128 = {
    0: "a3817f04ba25a8e66df67214c7550293",
    1: "da87c1d86b99af44347659119b22fc45",
    7: "a1f1ebbed8dbc153c0b84aa61ff08239",
    8: "3b62a9ba6258f5610f83e264f31497b4",
    15: "5493e99933b0a8117e08ec0f97cfc3d9",
    24: "2db479ae78bd50d8882a8a178a6132ad",
    63: "5150d1772f50834a503e069a973fbd7c",
}

FNV_PRIME = 16777619
FNV_START = 2166136261
LOW = 0xFFFF  # of a hash: as many bits as the biggest table has use for
LONGEST = 12  # rows in one bucket; chance gives 8 in a table that is full


@pytest.mark.parametrize("n", PUBLISHED)
def test_siphash_vectors(probe: ModuleType, n: int) -> None:
    found = probe.siphash_of(KEY, bytes(range(n)), 2, 4)
    assert found == PUBLISHED[n]


@pytest.mark.parametrize("n", PUBLISHED_128)
def test_digest_vectors(probe: ModuleType, n: int) -> None:
    assert probe.digest_of(KEY, bytes(range(n))).hex() == PUBLISHED_128[n]


def test_a_digest_behind_another_is_that_of_all(probe: ModuleType) -> None:
    first = probe.digest_of(KEY, b"first")
    for n in range(20):
        data = bytes(range(n))
        whole = first + (7).to_bytes(8, "little") + data
        assert probe.digest_of(KEY, data, first, 7) == probe.digest_of(KEY, whole)


@pytest.mark.skipif(
    sys.hash_info.algorithm != "siphash13" or sys.hash_info.cutoff != 0,
    reason="Python hashes bytes in another way",
)
def test_siphash_1_3_is_that_of_python(probe: ModuleType) -> None:
    """Whose key is 0 with this environment."""
    code = "print(*(hash(bytes(range(n))) for n in range(1, 64)))"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    for n, word in enumerate(said.stdout.split(), 1):
        assert probe.siphash_of(bytes(16), bytes(range(n))) == int(word) % 2**64


def fnv(data: bytes) -> int:
    h = FNV_START
    for byte in data:
        h = (h ^ byte) * FNV_PRIME % 2**32
    return h


def colliding() -> Iterator[str]:
    """Names whose FNV-1a ends with the same 16 bits.

    The low bits of a state depend on its predecessor's low bits only, so three letters
    lead from nearly every state to one and the same.
    """
    goal = fnv(b"attack") & LOW
    back = pow(FNV_PRIME, -1, 2**16)
    letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
    suffixes = {}
    for a, b, c in product(letters, repeat=3):
        state = goal
        for byte in (c, b, a):
            state = (state * back & LOW) ^ byte
        suffixes[state] = bytes((a, b, c)).decode()
    for n in range(2**20):
        start = f"name_{n}_"
        end = suffixes.get(fnv(start.encode()) & LOW)
        if end is not None:
            yield start + end


def test_the_names_collide() -> None:
    names = list(islice(colliding(), 100))
    assert len(set(names)) == 100
    assert len({fnv(name.encode()) & LOW for name in names}) == 1


def test_names_that_collide_in_an_unkeyed_hash(probe: ModuleType) -> None:
    bench = probe.Bench(1, (), 100)
    server, client = bench.add_server(), bench.add_client()
    names = list(islice(colliding(), 3000))
    bench.client_feed(client, b"".join(parse("one", name) for name in names) + SYNC)
    bench.server_feed(server, PARSED + READY)
    assert len(bench.client_names(client)) == len(names)
    buckets, longest = bench.tables()["names"]
    assert buckets >= len(names)
    assert longest < LONGEST


def test_values_that_collide_in_an_unkeyed_hash(probe: ModuleType) -> None:
    """And their sets; the tables grow with them."""
    bench = probe.Bench(1, ("application_name",), 0)
    before = bench.tables()
    values = [name.encode() for name in islice(colliding(), 3000)]
    bench.hold_values(values)
    assert bench.parameter_counts() == (3000, 3000)
    after = bench.tables()
    for table in ("values", "sets"):
        buckets, longest = after[table]
        assert before[table][0] < 1024 < 3000 <= buckets
        assert longest < LONGEST
    bench.hold_values(values)  # found again, after all that growth
    assert bench.parameter_counts() == (3000, 3000)
    bench.drop_values()
    assert bench.parameter_counts() == (0, 0)
    assert bench.tables()["values"] == (after["values"][0], 0)


def test_texts_that_differ_in_two_words_only(probe: ModuleType) -> None:
    """A hash that mixes word by word lets a difference be undone by the next word."""
    bench = probe.Bench(1, (), 10_000)
    server, client = bench.add_server(), bench.add_client()
    pair = (b"AAAAAAAABBBBBBBB", b"AAAAAAA\xc1BBBBFBB\xc2")
    texts = [b"".join(parts) for parts in product(pair, repeat=10)]
    asked = [message("P", b"n%d\0%b\0\0\0" % (n, t)) for n, t in enumerate(texts)]
    bench.client_feed(client, b"".join(asked) + SYNC)
    bench.server_feed(server, PARSED * len(texts) + READY)
    assert bench.statement_counts()[0] == len(texts)
    assert bench.tables()["texts"][1] < LONGEST
    assert bench.tables()["called"][1] < LONGEST


def test_statements_that_nobody_shares(probe: ModuleType) -> None:
    """A text that is read anew each time is kept as often as it has names."""
    bench = probe.Bench(1, (), 10_000)
    server, client = bench.add_server(), bench.add_client()
    asked = [parse("select 'now'::date", f"n{n}") for n in range(1000)]
    bench.client_feed(client, b"".join(asked) + SYNC)
    bench.server_feed(server, PARSED * 1000 + READY)
    assert bench.statement_counts()[0] == 1000
    assert bench.tables()["called"][1] < LONGEST


def test_text_whose_last_reference_goes_is_not_found_again(probe: ModuleType) -> None:
    """Unnamed, one behind the other: each is freed when the next one is answered."""
    bench = probe.Bench(1, (), 100)
    bench.limit_statements(cache_unnamed=False)
    server, client = bench.add_server(), bench.add_client()
    for text in ("select 'a' from one place", "select 'b' from one place") * 3:
        asked = parse(text) + SYNC
        assert bench.client_feed(client, asked) == (server, asked, "ok")
        bench.server_feed(server, PARSED + READY)
        assert bench.statement_counts()[0] == 1


# ------------------------------------------------------------ requests

SKIPPED = 0x80  # or-ed to the code of a request that is ours
ALIGN = 0xC1


def facts_of(request: int) -> set[str]:
    """As ``request_facts``, by the rules in words."""
    code = chr(request & ~SKIPPED)
    facts = set()
    if code in "SQFq" or request == ALIGN:
        facts.add("closes")
    if chr(request) in "Qq":
        facts.add("query")
    if chr(request) in "pc":
        facts.add("fake")
    if code in "PpCcqde":
        facts.add("effect")
    return facts


@pytest.mark.parametrize("request_code", range(256))
def test_what_is_true_of_a_request(probe: ModuleType, request_code: int) -> None:
    code = request_code & ~SKIPPED
    message_code = code & ~0x20 if chr(code) in "de" else code
    assert probe.request_facts(request_code) == (facts_of(request_code), message_code)
