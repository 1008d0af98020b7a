from collections.abc import Collection
from typing import final

from pooler.errors import ConfigError as ConfigError

TICKET_KEY_BYTES: int

@final
class TlsContext:
    def __new__(
        cls,
        *,
        accepts: bool,
        prefix: str,
        versions: Collection[str],
        cert_file: str = ...,
        key_file: str = ...,
        ca_file: str = ...,
        verify: bool = ...,
        verify_if_shown: bool = ...,
        checks_host: bool = ...,
        ciphers: str = ...,
        suites: str = ...,
        groups: str = ...,
        dh_auto: bool = ...,
        ticket_keys: bytes = ...,
    ) -> TlsContext: ...
    @property
    def certificate_hash(self) -> bytes: ...
