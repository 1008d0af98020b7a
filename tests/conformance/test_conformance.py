# SPDX-License-Identifier: MIT
"""The pooler cannot be told from PostgreSQL: same script, same messages."""

from __future__ import annotations

import pytest

from pooler.wire.messages import MESSAGES, Phase, Sender
from tests.conformance.bed import WAYS, Bed, Holders
from tests.conformance.script import Script
from tests.conformance.scripts import all_scripts
from tests.conformance.transcript import DATABASE, USER
from tests.wire_client import WireClient, codes, messages_in

SCRIPTS = all_scripts()

# Rows of the message table that no script shows, and why.
NOT_SHOWN = {
    "BE_CopyBothResponse": "only a replication connection has it, and there every"
    " pool is a session; see the tests of replication",
}


def _cases() -> list[object]:
    """Every script on every way that it can be held on."""
    return [
        pytest.param(script, way, id=f"{script.name}-{way}")
        for script in SCRIPTS
        for way in WAYS
        if Bed.possible(script, way)
    ]


@pytest.mark.parametrize(("script", "way"), _cases())
def test_pooler_answers_as_postgres(bed: Bed, script: Script, way: str) -> None:
    pooled, straight = bed.both(script, way)
    assert pooled == straight


def test_scripts_show_every_message_of_a_session(bed: Bed) -> None:
    shown = {Sender.CLIENT: "", Sender.SERVER: ""}
    for script in SCRIPTS:
        shown[Sender.SERVER] += bed.straight(script).codes
        for raw, _ in script.steps:
            if script.pooler_speaks:
                continue  # what it sends may be no message at all
            shown[Sender.CLIENT] += codes(messages_in(raw))
    missing = {
        row.symbol
        for row in MESSAGES
        if row.phase & Phase.READY and row.code not in shown[row.sender]
    }
    assert missing == set(NOT_SHOWN)


def test_another_server_each_time(bed: Bed) -> None:
    """The way of that name does what it says."""
    port = bed.pooler("two servers").port
    holders = Holders(port)
    with WireClient(port) as client:
        client.login(USER, DATABASE)
        seen = []
        for _ in range(4):
            holders.turn()
            seen.append(client.value("SELECT pg_backend_pid()"))
    holders.close()
    assert seen[0] != seen[1]
    assert seen == seen[:2] * 2
