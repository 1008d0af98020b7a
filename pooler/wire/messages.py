# SPDX-License-Identifier: MIT
# ruff: noqa: E501
"""THE table of PostgreSQL protocol messages. Layer wire; imports nothing.

The scanner (``_wire``), the relay, log names, tests and documentation all come
from these rows. A byte without a row, or a row met outside its phase, is a
protocol error of whoever sent it.

``length`` is the value of the length field: it counts itself (4 bytes) but not
the type byte. Limits on what clients send are PostgreSQL's own (1 GB for
messages that carry data, 10,000 bytes for the others).

Source: PostgreSQL documentation, "Message Formats" and "Message Flow".
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

SMALL = 10_000
LARGE = 0x3FFF_FFFE
ANY = 0x7FFF_FFFF
HELD = 65_536  # of a message that must be complete before it is acted on


class Sender(enum.IntEnum):
    """Who sends a message: ``CLIENT`` is the manual's "frontend"."""

    CLIENT = 0
    SERVER = 1


class Phase(enum.IntFlag):
    """When a message may appear on the wire."""

    LOGIN = 1
    READY = 2  # after the first ReadyForQuery
    ASYNC = 4  # a server may send it at any moment, also unasked


class Action(enum.IntEnum):
    """What the relay does at a message; each has one function there.

    PASS is nothing: the scanner goes over the message without stopping.
    """

    PASS = 0
    # A client that has a server (relay/from_client).
    REQUEST = 1  # joins the queue of outstanding requests
    NAMED_REQUEST = 2  # and may name a prepared statement, or drop the unnamed one
    FLUSH = 3
    COPY_END = 4
    TERMINATE = 5
    # A client that has none.
    ATTACH = 6  # needs a server
    ATTACH_UNLESS_KNOWN = 7  # unless it is answered here
    DROP = 8  # came late for its server
    # A server (relay/from_server).
    READY = 9
    ENDS = 10  # may complete the request at the head of the queue
    ROWS = 11  # and says what rows a statement returns
    TAG = 12  # and says what has been done
    PARAMETER_TYPES = 13
    ERROR = 14
    PARAMETER = 15
    COPY_IN = 16
    # Of a client that has a server, again.
    FUNCTION_CALL = 17  # a request that runs a function, without a text


@dataclass(frozen=True, slots=True)
class Message:
    """One row: a message type of one sender."""

    sender: Sender
    code: str  # the type byte, as a one-character string
    name: str  # as the PostgreSQL documentation spells it
    min_length: int
    max_length: int
    phase: Phase
    action: Action = Action.PASS  # of a client's message: while it has a server
    without_server: Action = Action.PASS  # of a client's message: while it has none
    ends: str = ""  # code of the client message that this server message completes
    whole: bool = False  # the action needs the body: held until it is complete

    @property
    def byte(self) -> int:
        """The type byte."""
        return ord(self.code)

    @property
    def symbol(self) -> str:
        """Greppable name with direction, e.g. ``FE_Query``, ``BE_ReadyForQuery``."""
        return f"{'FE' if self.sender is Sender.CLIENT else 'BE'}_{self.name}"


_C, _S = Sender.CLIENT, Sender.SERVER
_LOGIN, _READY, _ASYNC = Phase.LOGIN, Phase.READY, Phase.ASYNC
_A = Action

# fmt: off
MESSAGES: tuple[Message, ...] = (
    # sender, code, name, min, max, phase, action, without a server
    Message(_C, "Q", "Query",                5, LARGE, _READY, _A.NAMED_REQUEST, _A.ATTACH),
    Message(_C, "P", "Parse",                8, LARGE, _READY, _A.NAMED_REQUEST, _A.ATTACH_UNLESS_KNOWN),
    Message(_C, "B", "Bind",                12, LARGE, _READY, _A.NAMED_REQUEST, _A.ATTACH),
    Message(_C, "D", "Describe",             6, SMALL, _READY, _A.NAMED_REQUEST, _A.ATTACH),
    Message(_C, "E", "Execute",              9, SMALL, _READY, _A.REQUEST,       _A.ATTACH),
    Message(_C, "C", "Close",                6, SMALL, _READY, _A.NAMED_REQUEST, _A.ATTACH_UNLESS_KNOWN),
    Message(_C, "S", "Sync",                 4,     4, _READY, _A.REQUEST,       _A.ATTACH),
    Message(_C, "F", "FunctionCall",        14, LARGE, _READY, _A.FUNCTION_CALL, _A.ATTACH),
    Message(_C, "H", "Flush",                4,     4, _READY, _A.FLUSH,         _A.DROP),
    Message(_C, "d", "CopyData",             4, LARGE, _READY, _A.PASS,          _A.DROP),
    Message(_C, "c", "CopyDone",             4,     4, _READY, _A.COPY_END,      _A.DROP),
    Message(_C, "f", "CopyFail",             5, SMALL, _READY, _A.COPY_END,      _A.DROP),
    Message(_C, "X", "Terminate",            4,     4, _READY, _A.TERMINATE,     _A.TERMINATE),
    Message(_C, "p", "PasswordMessage",      5, 65535, _LOGIN),

    # sender, code, name, min, max, phase, action; what it ends
    Message(_S, "R", "Authentication",       8, SMALL, _LOGIN),
    Message(_S, "K", "BackendKeyData",       8,   264, _LOGIN),
    Message(_S, "v", "NegotiateProtocolVersion", 12, SMALL, _LOGIN),
    Message(_S, "Z", "ReadyForQuery",        5,     5, _LOGIN | _READY, _A.READY, whole=True),
    Message(_S, "T", "RowDescription",       6,   ANY, _READY, _A.ROWS, ends="D"),
    Message(_S, "D", "DataRow",              6,   ANY, _READY),
    Message(_S, "C", "CommandComplete",      5,  HELD, _READY, _A.TAG, ends="E", whole=True),
    Message(_S, "I", "EmptyQueryResponse",   4,     4, _READY, _A.ENDS, ends="E"),
    Message(_S, "s", "PortalSuspended",      4,     4, _READY, _A.ENDS, ends="E"),
    Message(_S, "1", "ParseComplete",        4,     4, _READY, _A.ENDS, ends="P"),
    Message(_S, "2", "BindComplete",         4,     4, _READY, _A.ENDS, ends="B"),
    Message(_S, "3", "CloseComplete",        4,     4, _READY, _A.ENDS, ends="C"),
    Message(_S, "n", "NoData",               4,     4, _READY, _A.ROWS, ends="D"),
    Message(_S, "t", "ParameterDescription", 6,   ANY, _READY, _A.PARAMETER_TYPES),
    Message(_S, "V", "FunctionCallResponse", 8,   ANY, _READY),
    Message(_S, "G", "CopyInResponse",       7,   ANY, _READY, _A.COPY_IN),
    Message(_S, "H", "CopyOutResponse",      7,   ANY, _READY),
    Message(_S, "W", "CopyBothResponse",     7,   ANY, _READY),
    Message(_S, "d", "CopyData",             4,   ANY, _READY),
    Message(_S, "c", "CopyDone",             4,     4, _READY),
    Message(_S, "E", "ErrorResponse",        5,   ANY, _LOGIN | _READY | _ASYNC, _A.ERROR),
    Message(_S, "N", "NoticeResponse",       5,   ANY, _LOGIN | _READY | _ASYNC),
    Message(_S, "S", "ParameterStatus",      6,  HELD, _LOGIN | _READY | _ASYNC, _A.PARAMETER, whole=True),
    Message(_S, "A", "NotificationResponse", 10,  ANY, _READY | _ASYNC),
)
# fmt: on

BY_CODE: dict[tuple[Sender, str], Message] = {
    (row.sender, row.code): row for row in MESSAGES
}


def name_of(sender: Sender, byte: int) -> str:
    """Return the documented name of a type byte, or ``0xNN`` when it has none."""
    row = BY_CODE.get((sender, chr(byte)))
    return row.name if row else f"0x{byte:02x}"
