from typing import final

from pooler.auth.exchange import ProofCode as Code
from pooler.auth.exchange import Question as Asked
from pooler.auth.secrets import StoredSecret
from pooler.errors import INVALID_AUTHORIZATION as INVALID_AUTHORIZATION
from pooler.errors import INVALID_PASSWORD as INVALID_PASSWORD
from pooler.errors import PROTOCOL_VIOLATION as PROTOCOL_VIOLATION
from pooler.errors import LoginError
from pooler.errors import SilentLoginError as SilentLoginError

PROOF_ERRORS: tuple[tuple[str, str, str], ...]
RANDOM_BYTES: int

class WrongProofError(LoginError): ...

def proof_error(
    code: int, question: int, kind: int = ..., length: int = ...
) -> LoginError: ...
@final
class Proof:
    def __new__(
        cls,
        question: int,
        secret: StoredSecret,
        random: bytes,
        *,
        binding: bytes = ...,
        nonce: bytes | None = ...,
    ) -> Proof: ...
    @property
    def question(self) -> int: ...
    @property
    def answer(self) -> bytes: ...
    @property
    def client_key(self) -> bytes: ...
    def take(self, data: bytes) -> tuple[int, int, bytes | None]: ...
