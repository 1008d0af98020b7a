# SPDX-License-Identifier: MIT
"""TLS as the configuration has it. Worker layer, cold.

A context is made when a worker starts and at each reload, so that certificates which
have changed meanwhile are those of new connections.
"""

from __future__ import annotations

import hashlib

from pooler.config.kinds import AuthType, DhParams, TlsMode
from pooler.config.settings import Settings
from pooler.config.tls import VERIFIED, ServerTls, tls_ciphers, tls_versions
from pooler.io.tls_context import TICKET_KEY_BYTES, TlsContext
from pooler.login.policy import ClientTls

CLIENT_TLS = {
    TlsMode.DISABLE: ClientTls.REFUSED,
    TlsMode.ALLOW: ClientTls.OFFERED,
    TlsMode.PREFER: ClientTls.OFFERED,
    TlsMode.REQUIRE: ClientTls.REQUIRED,
    TlsMode.VERIFY_CA: ClientTls.REQUIRED,
    TlsMode.VERIFY_FULL: ClientTls.REQUIRED,
}


def client_context(settings: Settings, mock_key: bytes) -> TlsContext | None:
    """For connections that clients open; None where TLS is off.

    ``mock_key``: known to all workers and nobody else; the keys of tickets are made of
    it. Where certificates are looked at there are no tickets: who comes again shows his
    certificate again, and what was agreed on before a reload is no way round it.
    ConfigError names the setting and the file that cannot be had.
    """
    if settings.client_tls_sslmode is TlsMode.DISABLE:
        return None
    verify = settings.client_tls_sslmode in VERIFIED
    # Where lines may ask for one (cert).
    verify_if_shown = settings.auth_type is AuthType.HBA and bool(
        settings.client_tls_ca_file
    )
    tickets = hashlib.shake_256(b"tickets\0" + mock_key).digest(TICKET_KEY_BYTES)
    groups = settings.client_tls_ecdhcurve
    return TlsContext(
        accepts=True,
        prefix="client_tls",
        versions=tls_versions(settings.client_tls_protocols),
        cert_file=settings.client_tls_cert_file,
        key_file=settings.client_tls_key_file,
        ca_file=settings.client_tls_ca_file,
        verify=verify,
        verify_if_shown=verify_if_shown,
        ciphers=tls_ciphers(settings.client_tls_ciphers),
        suites=settings.client_tls13_ciphers or "",
        groups="" if groups in ("auto", "none") else groups,
        dh_auto=settings.client_tls_dheparams is not DhParams.NONE,
        ticket_keys=b"" if verify or verify_if_shown else tickets,
    )


def server_context(tls: ServerTls) -> TlsContext | None:
    """For connections that we open to servers; None where TLS is off."""
    if tls.sslmode is TlsMode.DISABLE:
        return None
    return TlsContext(
        accepts=False,
        prefix="server_tls",
        versions=tls_versions(tls.protocols),
        cert_file=tls.cert_file,
        key_file=tls.key_file,
        ca_file=tls.ca_file,
        verify=tls.sslmode in VERIFIED,
        checks_host=tls.sslmode is TlsMode.VERIFY_FULL,
        ciphers=tls_ciphers(tls.ciphers),
        suites=tls.tls13_ciphers or "",
    )
