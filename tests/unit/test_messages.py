# SPDX-License-Identifier: MIT
"""The table of messages, walked."""

from __future__ import annotations

import pytest

from pooler.wire.messages import (
    ANY,
    BY_CODE,
    HELD,
    LARGE,
    MESSAGES,
    SMALL,
    Action,
    Message,
    Phase,
    Sender,
    name_of,
)
from tests.feeding import load_vectors
from tests.reference.wire_ref import Seen, rules_of, walk

# As "Message Formats" of the PostgreSQL documentation spells them. Authentication
# and PasswordMessage stand for their families, which share one type byte.
DOCUMENTED = {
    Sender.CLIENT: {
        "B": "Bind",
        "C": "Close",
        "D": "Describe",
        "E": "Execute",
        "F": "FunctionCall",
        "H": "Flush",
        "P": "Parse",
        "Q": "Query",
        "S": "Sync",
        "X": "Terminate",
        "c": "CopyDone",
        "d": "CopyData",
        "f": "CopyFail",
        "p": "PasswordMessage",
    },
    Sender.SERVER: {
        "1": "ParseComplete",
        "2": "BindComplete",
        "3": "CloseComplete",
        "A": "NotificationResponse",
        "C": "CommandComplete",
        "D": "DataRow",
        "E": "ErrorResponse",
        "G": "CopyInResponse",
        "H": "CopyOutResponse",
        "I": "EmptyQueryResponse",
        "K": "BackendKeyData",
        "N": "NoticeResponse",
        "R": "Authentication",
        "S": "ParameterStatus",
        "T": "RowDescription",
        "V": "FunctionCallResponse",
        "W": "CopyBothResponse",
        "Z": "ReadyForQuery",
        "c": "CopyDone",
        "d": "CopyData",
        "n": "NoData",
        "s": "PortalSuspended",
        "t": "ParameterDescription",
        "v": "NegotiateProtocolVersion",
    },
}


OPENING = {Action.REQUEST, Action.NAMED_REQUEST, Action.FUNCTION_CALL}
LOCAL = {Action.FLUSH, Action.COPY_END, Action.TERMINATE}
LONE = {Action.ATTACH, Action.ATTACH_UNLESS_KNOWN, Action.DROP, Action.TERMINATE}
ENDING = {Action.ENDS, Action.ROWS, Action.TAG}


def each(rows: list[Message]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", rows, ids=[row.symbol for row in rows])


ALL = list(MESSAGES)


def test_sender_and_code_are_unique() -> None:
    assert len(BY_CODE) == len(MESSAGES)


def test_rows_are_the_documented_messages() -> None:
    ours = {
        sender: {row.code: row.name for row in MESSAGES if row.sender is sender}
        for sender in Sender
    }
    assert ours == DOCUMENTED


@each(ALL)
def test_lengths_are_in_order(row: Message) -> None:
    assert 4 <= row.min_length <= row.max_length <= ANY


@each(ALL)
def test_code_is_one_byte(row: Message) -> None:
    assert len(row.code) == 1
    assert 0 < row.byte < 0x80


@each(ALL)
def test_row_has_a_phase(row: Message) -> None:
    assert row.phase & (Phase.LOGIN | Phase.READY)
    if row.phase & Phase.ASYNC:
        assert row.sender is Sender.SERVER
        assert row.phase & Phase.READY


@each([row for row in MESSAGES if row.ends])
def test_ends_names_a_client_message_that_opens(row: Message) -> None:
    assert row.sender is Sender.SERVER
    assert row.action in ENDING
    assert BY_CODE[Sender.CLIENT, row.ends].action in OPENING


def test_every_ending_action_says_what_it_ends() -> None:
    assert {row.name for row in MESSAGES if row.action in ENDING and not row.ends} == (
        set()
    )


@each(ALL)
def test_actions_fit_the_sender(row: Message) -> None:
    if row.sender is Sender.CLIENT:
        assert row.action in {*OPENING, *LOCAL, Action.PASS}
        assert row.without_server in {*LONE, Action.PASS}
        assert not row.whole
    else:
        assert row.action not in {*OPENING, *LOCAL, *LONE}
        assert row.without_server is Action.PASS


def test_every_action_has_a_message() -> None:
    used = {row.action for row in MESSAGES} | {row.without_server for row in MESSAGES}
    assert used == set(Action)


@each([row for row in MESSAGES if row.sender is Sender.CLIENT])
def test_what_opens_a_request_needs_a_server(row: Message) -> None:
    attaches = row.without_server in (Action.ATTACH, Action.ATTACH_UNLESS_KNOWN)
    assert attaches == (row.action in OPENING)


@each([row for row in MESSAGES if row.whole])
def test_what_is_held_whole_is_bounded(row: Message) -> None:
    assert row.max_length <= HELD


@each([row for row in MESSAGES if row.sender is Sender.CLIENT])
def test_client_lengths_are_bounded_as_postgresql_does(row: Message) -> None:
    assert row.max_length in (4, SMALL, LARGE, 65535)


@each([row for row in MESSAGES if row.sender is Sender.CLIENT and row.phase & 2])
def test_the_relay_sees_every_client_message(row: Message) -> None:
    """A message from a client without a server must never be passed over."""
    assert row.without_server is not Action.PASS


@each(ALL)
def test_name_of_and_symbol(row: Message) -> None:
    assert name_of(row.sender, row.byte) == row.name
    side = "FE" if row.sender is Sender.CLIENT else "BE"
    assert row.symbol == f"{side}_{row.name}"


@pytest.mark.parametrize("sender", list(Sender))
def test_name_of_a_byte_without_a_row_is_its_hex(sender: Sender) -> None:
    known = {row.byte for row in MESSAGES if row.sender is sender}
    for byte in set(range(256)) - known:
        assert name_of(sender, byte) == f"0x{byte:02x}"


def covered_by_valid_vectors(phase: str) -> set[Message]:
    return {
        seen.row
        for vector in load_vectors("valid")
        if vector.phase == phase
        for seen in walk(rules_of(vector.rules), vector.raw)
        if isinstance(seen, Seen) and seen.end <= len(vector.raw)
    }


def test_every_ready_row_has_a_valid_vector() -> None:
    ready = {row for row in MESSAGES if row.phase & Phase.READY}
    assert ready <= covered_by_valid_vectors("ready")


def test_every_async_row_has_a_valid_vector_of_an_idle_server() -> None:
    unasked = {row for row in MESSAGES if row.phase & Phase.ASYNC}
    assert unasked <= covered_by_valid_vectors("idle")


def test_every_login_only_row_has_an_invalid_vector() -> None:
    names = {
        (vector.sender, vector.raw[0])
        for vector in load_vectors("invalid")
        if vector.expected.failed == 0
    }
    for row in MESSAGES:
        if not row.phase & Phase.READY:
            assert (row.sender.name.lower(), row.byte) in names
