# SPDX-License-Identifier: MIT
"""The server's half of SCRAM for tests: the parts of its messages, one by one."""

from __future__ import annotations

import os

from pooler.auth.exchange import ProofCode, Question
from pooler.auth.proof import RANDOM_BYTES, Proof
from pooler.login import packets
from pooler.login.scram import ScramKeys, Verifier

HEADER_BYTES = 9  # of an Authentication message


class ServerExchange:
    """``choose`` if it is to be PLUS, ``first``, then ``final``, as a client has them.

    ``keys`` holds what the client proved to own.
    """

    def __init__(
        self,
        verifier: Verifier,
        *,
        doomed: bool = False,
        binding: bytes = b"",
        nonce: bytes | None = None,
    ) -> None:
        self._verifier = verifier
        self._proof = Proof(
            Question.ASK_SCRAM,
            verifier.stored_secret(doomed=doomed),
            os.urandom(RANDOM_BYTES),
            binding=binding,
            nonce=nonce,
        )
        self.mechanisms = packets.read_sasl_mechanisms(self._proof.answer[9:])
        self._chosen = ""
        self.keys: ScramKeys | None = None

    def _take(self, body: bytes) -> bytes:
        """Send a whole message; what is in the answer."""
        whole = packets.message(b"p", body)
        _, consumed, told = self._proof.take(whole)
        assert (consumed, told) == (len(whole), None)
        return self._proof.answer[HEADER_BYTES:]

    def choose(self, mechanism: str) -> None:
        """Hold the first response back."""
        self._chosen = mechanism
        none = (0xFFFFFFFF).to_bytes(4, "big")
        assert self._take(packets.cstring(mechanism) + none) == b""

    def first(self, message: bytes) -> bytes:
        """Take client-first-message, return server-first-message."""
        if self._chosen:
            return self._take(message)
        name = packets.cstring("SCRAM-SHA-256")
        return self._take(name + len(message).to_bytes(4, "big") + message)

    def final(self, message: bytes) -> bytes:
        """Take client-final-message, return server-final-message."""
        whole = packets.message(b"p", message)
        code, _, _ = self._proof.take(whole)
        assert code == ProofCode.PROOF_GIVEN
        verifier = self._verifier
        self.keys = ScramKeys(
            verifier.salt,
            verifier.iterations,
            self._proof.client_key,
            verifier.server_key,
        )
        return self._proof.answer[HEADER_BYTES:]
