# SPDX-License-Identifier: MIT
"""The exchange as Python sees it, and what its failures are called."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from pooler.auth.exchange cimport (
    Exchange, NONCE_MAX_BYTES, PROOF_CODES, PROOF_WRONG, ProofCode, Question,
    RANDOM_BYTES as RANDOM_N, exchange_begin, exchange_end, exchange_take,
)
from pooler.auth.secrets cimport KEY_BYTES, StoredSecret

from pooler.auth.exchange import ProofCode as Code, Question as Asked
from pooler.errors import (
    INVALID_AUTHORIZATION,
    INVALID_PASSWORD,
    PROTOCOL_VIOLATION,
    LoginError,
    SilentLoginError,
)

_SASL = "SASL authentication failed"
_PASSWORD = "password authentication failed"
_ATTRIBUTE = f"{_SASL}: expected attribute"
_HEADER = "bad packet header: length {length} is outside 4..{most}"

# What a client is told, and the SQLSTATE; in the order of ProofCode, from PROOF_WRONG
# on. The first depends on what was asked.
PROOF_ERRORS = (
    ("PROOF_WRONG", _PASSWORD, INVALID_PASSWORD),
    ("PROOF_EMPTY", "empty password returned by client", INVALID_PASSWORD),
    (
        "PROOF_NO_PASSWORD_MESSAGE",
        "expected password response, got message type 0x{kind:02x}",
        PROTOCOL_VIOLATION,
    ),
    ("PROOF_LENGTH", _HEADER, PROTOCOL_VIOLATION),
    ("PROOF_SASL_LENGTH", f"{_SASL}: {_HEADER}", INVALID_PASSWORD),
    (
        "PROOF_PASSWORD_FORM", "malformed PasswordMessage message", PROTOCOL_VIOLATION,
    ),
    (
        "PROOF_INITIAL_FORM",
        "malformed SASLInitialResponse message",
        PROTOCOL_VIOLATION,
    ),
    (
        "PROOF_MECHANISM",
        "client selected an invalid SASL authentication mechanism",
        PROTOCOL_VIOLATION,
    ),
    (
        "PROOF_FLAG",
        f"{_SASL}: unexpected channel binding flag for SCRAM-SHA-256",
        PROTOCOL_VIOLATION,
    ),
    (
        "PROOF_FLAG_PLUS",
        f"{_SASL}: unexpected channel binding flag for SCRAM-SHA-256-PLUS",
        PROTOCOL_VIOLATION,
    ),
    (
        "PROOF_DOWNGRADE",
        "SCRAM channel binding negotiation error",
        INVALID_AUTHORIZATION,
    ),
    (
        "PROOF_AUTHZID",
        f"{_SASL}: authorization identity is not supported",
        PROTOCOL_VIOLATION,
    ),
    (
        "PROOF_EXTENSION",
        f"{_SASL}: mandatory extensions are not supported",
        PROTOCOL_VIOLATION,
    ),
    ("PROOF_NO_USER", f"{_SASL}: no user name", PROTOCOL_VIOLATION),
    ("PROOF_NO_NONCE", f"{_ATTRIBUTE} r", PROTOCOL_VIOLATION),
    ("PROOF_NONCE", f"{_SASL}: bad nonce", PROTOCOL_VIOLATION),
    (
        "PROOF_FINAL_SHORT",
        f"{_SASL}: incomplete client-final-message",
        PROTOCOL_VIOLATION,
    ),
    ("PROOF_NO_BINDING", f"{_ATTRIBUTE} c", PROTOCOL_VIOLATION),
    ("PROOF_NO_PROOF", f"{_ATTRIBUTE} p", PROTOCOL_VIOLATION),
    ("PROOF_PROOF", f"{_SASL}: bad proof", PROTOCOL_VIOLATION),
    ("PROOF_BINDING", "SCRAM channel binding check failed", INVALID_AUTHORIZATION),
    (
        "PROOF_BINDING_DATA",
        f"{_SASL}: unexpected channel binding data",
        PROTOCOL_VIOLATION,
    ),
    ("PROOF_NONCE_DIFFERS", f"{_SASL}: nonce does not match", PROTOCOL_VIOLATION),
    ("PROOF_NO_MEMORY", "out of memory", "53200"),
)

if [Code[row[0]] for row in PROOF_ERRORS] != list(range(PROOF_WRONG, PROOF_CODES)):
    raise ImportError("PROOF_ERRORS and ProofCode differ")

RANDOM_BYTES = <int> RANDOM_N

# Where the length of a packet cannot be right, no answer is waited for.
_SILENT = frozenset({Code.PROOF_LENGTH})
_MOST = {Code.PROOF_LENGTH: 65535, Code.PROOF_SASL_LENGTH: 1024}


class WrongProofError(LoginError):
    """The client does not know the password, or there is none."""


def proof_error(int code, int question, int kind=0, length=0):
    """The LoginError for a code from PROOF_WRONG on."""
    _, text, sqlstate = PROOF_ERRORS[code - PROOF_WRONG]
    if code == PROOF_WRONG:
        return WrongProofError(
            _SASL if question == Asked.ASK_SCRAM else text, sqlstate
        )
    text = text.format(kind=kind, length=length, most=_MOST.get(code, 0))
    return (SilentLoginError if code in _SILENT else LoginError)(text, sqlstate)


@cython.final
cdef class Proof:
    """We are the server: have one client prove who it is.

    Send ``answer`` after the start and after each ``take``, until that returns True.
    """
    cdef Exchange x

    def __cinit__(
        self, int question, StoredSecret secret not None, bytes random not None, *,
        bytes binding=b"", bytes nonce=None,
    ):
        """``random``: 18 bytes that nobody can guess.

        ``binding``: the hash of our certificate, over TLS; then SCRAM-SHA-256-PLUS is
        offered, and a client that believes it was not is refused. ``nonce``: our part
        of it, for the examples of the RFC.
        """
        if len(random) != RANDOM_N:
            raise ValueError(f"{len(random)} random bytes")
        if not exchange_begin(
            &self.x, <Question> question, secret.secret,
            <const uint8_t *> PyBytes_AS_STRING(binding), len(binding),
            <const uint8_t *> PyBytes_AS_STRING(random),
        ):
            raise ValueError("the secret does not fit the question")
        if nonce is not None:
            if len(nonce) > NONCE_MAX_BYTES:
                raise ValueError(f"nonce of {len(nonce)} bytes")
            self.x.ours_n = <uint8_t> len(nonce)
            memcpy(self.x.ours, PyBytes_AS_STRING(nonce), self.x.ours_n)

    def __dealloc__(self):
        exchange_end(&self.x)

    @property
    def question(self):
        """What was asked."""
        return self.x.question

    @property
    def answer(self):
        """Whole messages to send."""
        return PyBytes_FromStringAndSize(<char *> self.x.answer, self.x.answer_n)

    def take(self, bytes data not None):
        """Take one message, if it is here: (code, bytes consumed, password or None).

        The code is PROOF_MORE, PROOF_ANSWERED, PROOF_GIVEN or, with a password that
        the caller has to judge, PROOF_TOLD. LoginError: it is over.
        """
        cdef size_t consumed = 0
        cdef ProofCode code = exchange_take(
            &self.x, <const uint8_t *> PyBytes_AS_STRING(data), len(data), &consumed
        )
        cdef bytes told = None
        if code >= PROOF_WRONG:
            raise proof_error(code, self.x.question, self.x.kind, self.x.length)
        if self.x.told != NULL:
            told = PyBytes_FromStringAndSize(<char *> self.x.told, self.x.told_n)
            self.x.told = NULL
        return <int> code, consumed, told

    @property
    def client_key(self):
        """The key that a client has proved to own by SCRAM; zeros before."""
        return PyBytes_FromStringAndSize(<char *> self.x.client_key, KEY_BYTES)
