# SPDX-License-Identifier: MIT
"""Certificates for tests, made when they are needed."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificates:
    """An authority and what it vouches for; files in PEM."""

    authority: trustme.CA
    ca_file: Path
    cert_file: Path
    key_file: Path

    def client_context(self) -> ssl.SSLContext:
        """What a client needs that trusts the authority."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        context.check_hostname = False
        return context

    def of_client(self, name: str, folder: Path) -> tuple[Path, Path]:
        """A client's certificate with this common name: (certificate, key)."""
        made = self.authority.issue_cert(f"{name}@example.org", common_name=name)
        cert_file, key_file = folder / f"{name}.crt", folder / f"{name}.key"
        made.cert_chain_pems[0].write_to_path(cert_file)
        made.private_key_pem.write_to_path(key_file)
        key_file.chmod(0o600)
        return cert_file, key_file


def make_certificates(folder: Path, *names: str) -> Certificates:
    """An authority, and a certificate for these host names or addresses."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    made = authority.issue_cert(*(names or ("localhost", "127.0.0.1")))
    ca_file, cert_file, key_file = (
        folder / name for name in ("ca.crt", "server.crt", "server.key")
    )
    authority.cert_pem.write_to_path(ca_file)
    cert_file.write_bytes(b"".join(one.bytes() for one in made.cert_chain_pems))
    made.private_key_pem.write_to_path(key_file)
    key_file.chmod(0o600)
    return Certificates(authority, ca_file, cert_file, key_file)
