# SPDX-License-Identifier: MIT
"""What a server may send, in whatever pieces; the server is played by the test."""

from __future__ import annotations

import struct
from functools import partial

import pytest

from tests.integration.fake_server import (
    READY,
    SELECT,
    SELECTED,
    FakeServer,
    begin,
    error,
    log_in,
    notice,
)
from tests.integration.harness import InProcess, wait_until
from tests.wire_client import codes, message, query, text

# Bytes of an idle server


@pytest.mark.parametrize("cut", [3, 7, 30])
def test_notice_of_an_idle_server_cut_by_an_attach(
    worker: InProcess, server: FakeServer, cut: int
) -> None:
    """The rest of a message whose head the client has not got is not for it."""
    client, backend = log_in(worker, server)
    with client:
        said = notice("the server says something to nobody")
        before = worker.engine.counters()["recvs"]
        backend.send(said[:cut])
        wait_until(lambda: worker.engine.counters()["recvs"] > before, "the first part")
        client.send(SELECT)
        if cut > 5:
            backend.send(said[cut:])
            assert backend.read().code == "Q"
        else:
            assert backend.read().code == "Q"
            backend.send(said[cut:])
        backend.send(SELECTED, READY)
        assert codes(client.read_until("Z")) in ("TDCZ", "NTDCZ")


def test_idle_server_may_say_what_it_likes(
    worker: InProcess, server: FakeServer
) -> None:
    client, backend = log_in(worker, server)
    with client:
        notification = message("A", struct.pack("!I", 7) + text("channel") + text("x"))
        status = message("S", text("TimeZone") + text("UTC"))
        backend.send(notice("hello"), notification, status)
        client.send(SELECT)
        backend.answer()
        assert codes(client.read_until("Z")).endswith("TDCZ")


def test_idle_server_that_ends_is_replaced(
    worker: InProcess, server: FakeServer
) -> None:
    client, backend = log_in(worker, server)
    with client:
        backend.send(error("FATAL", "57P01", "terminating connection"))
        backend.close()
        wait_until(lambda: worker.engine.counters()["servers"] == 0, "server gone")
        client.send(SELECT)
        server.accept().greet().answer()
        assert codes(client.read_until("Z")) == "TDCZ"


def test_server_that_ends_right_behind_its_answer(
    worker: InProcess, server: FakeServer
) -> None:
    """Neither who has been answered nor who comes next hears of it."""
    client, backend = log_in(worker, server)
    with client:
        client.send(SELECT)
        backend.read()
        bye = error("FATAL", "57P01", "terminating connection")
        backend.send(SELECTED, READY, bye)
        assert codes(client.read_until("Z")) == "TDCZ"
        assert backend.is_closed()
        client.send(SELECT)
        server.accept().greet().answer()
        assert codes(client.read_until("Z")) == "TDCZ"


def test_idle_server_that_answers_unasked_is_closed(
    worker: InProcess, server: FakeServer
) -> None:
    client, backend = log_in(worker, server)
    with client:
        backend.send(SELECTED, READY)
        assert backend.is_closed()
        client.send(SELECT)
        server.accept().greet().answer()
        assert codes(client.read_until("Z")) == "TDCZ"


# Answers in pieces


def test_answer_split_at_every_byte(worker: InProcess, server: FakeServer) -> None:
    client, backend = log_in(worker, server)
    with client:
        client.send(SELECT)
        backend.read()
        said = (
            notice("one")
            + message("S", text("TimeZone") + text("Asia/Tokyo"))
            + SELECTED
            + error("ERROR", "22012", "division by zero")
            + READY
        )
        for at in range(len(said)):
            backend.send(said[at : at + 1])
        assert codes(client.read_until("Z")) == "NSTDCEZ"


@pytest.mark.parametrize("piece", [1, 20, 1000])
def test_refused_parameter_is_told_whole(
    worker: InProcess, server: FakeServer, piece: int
) -> None:
    first, backend = log_in(worker, server)

    def more_recvs(than: int) -> bool:
        counters = worker.engine.counters()
        return counters["recvs"] > than or counters["servers"] == 0

    # No server is free at the login, so none is asked what it makes of the value.
    first.send(query("BEGIN"))
    assert backend.read().code == "Q"
    backend.send(message("C", text("BEGIN")), message("Z", b"T"))
    first.read_until("Z")
    with first, begin(worker, TimeZone="Nowhere/City") as client:
        client.read_greeting()
        client.send(SELECT)
        first.send(query("COMMIT"))
        assert backend.read().code == "Q"
        backend.send(message("C", text("COMMIT")), READY)
        assert backend.read().code == "Q"
        said = error("ERROR", "22023", "invalid value for parameter") + READY
        before = worker.engine.counters()["recvs"]
        for number, at in enumerate(range(0, len(said), piece)):
            try:
                backend.send(said[at : at + piece])
            except ConnectionError:
                break
            wait_until(partial(more_recvs, before + number), "a part")
        read = client.read_to_end()
        assert codes(read) == "E"
        assert read[0].fields["M"] == "invalid value for parameter"
        assert backend.is_closed()


@pytest.mark.parametrize(
    "said",
    [
        b"Z\0\0\0\x09abcde",
        b"D\0\0\0\x03",
        b"D\xff\xff\xff\xff",
        b"\x00\x00\x00\x00\x08",
        b"R\0\0\0\x08\0\0\0\0",
        b"S\0\x10\0\0",
    ],
)
def test_nonsense_of_a_server_ends_it_and_its_client(
    worker: InProcess, server: FakeServer, said: bytes
) -> None:
    client, backend = log_in(worker, server)
    with client:
        client.send(SELECT)
        backend.read()
        backend.send(said)
        assert client.read_fatal()["M"] == "bad packet from server"
        assert backend.is_closed()


def test_server_ends_in_the_middle_of_a_message(
    worker: InProcess, server: FakeServer
) -> None:
    """Nothing may be put into the rest of a message that never comes."""
    client, backend = log_in(worker, server)
    with client:
        client.send(SELECT)
        backend.read()
        backend.send(SELECTED[:35])
        backend.close()
        # The row was cut, so only the message before it is whole.
        assert codes(client.read_to_end()) == "T"
