# SPDX-License-Identifier: MIT
"""TLS settings that are more than a value: versions, files. Config layer.

The files are read here only to see that they can be used, before anything is started
or changed; workers read them again.

Source: PgBouncer documentation, "TLS settings"; man page tls_config_set_protocols(3).
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pooler.config.kinds import AuthType, TlsMode, TlsNegotiation
from pooler.config.settings import Database, Settings
from pooler.errors import ConfigError

ALL_VERSIONS = frozenset({"tlsv1.0", "tlsv1.1", "tlsv1.2", "tlsv1.3"})
SECURE_VERSIONS = frozenset({"tlsv1.2", "tlsv1.3"})
VERIFIED = frozenset({TlsMode.VERIFY_CA, TlsMode.VERIFY_FULL})

# RFC 8446, "Cipher Suites".
SUITES = frozenset(
    {
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
        "TLS_AES_128_CCM_SHA256",
        "TLS_AES_128_CCM_8_SHA256",
    }
)

_VERSION_WORDS: Mapping[str, frozenset[str]] = {
    **{name: frozenset({name}) for name in ALL_VERSIONS},
    "tlsv1": ALL_VERSIONS,
    "all": ALL_VERSIONS,
    "legacy": ALL_VERSIONS,
    "secure": SECURE_VERSIONS,
    "default": SECURE_VERSIONS,
}
# PgBouncer's own words for lists of ciphers, in OpenSSL's.
_CIPHER_WORDS = {"default": "", "secure": "", "fast": "", "normal": "", "all": "ALL"}


def tls_versions(protocols: str) -> frozenset[str]:
    """What a list allows; ``!`` takes versions away. ValueError: a bad word."""
    words = [word.strip().lower() for word in protocols.replace(":", ",").split(",")]
    allowed = ALL_VERSIONS if words[0].startswith("!") else frozenset()
    for word in words:
        named = _VERSION_WORDS.get(word.removeprefix("!"))
        if named is None:
            raise ValueError(
                f"unknown TLS version {word!r}; known are"
                f" {', '.join(sorted(_VERSION_WORDS))}"
            )
        allowed = allowed - named if word.startswith("!") else allowed | named
    if not allowed:
        raise ValueError("no TLS version is left")
    return allowed


def tls_ciphers(ciphers: str) -> str:
    """A list of ciphers as OpenSSL writes it; empty for its own choice."""
    return _CIPHER_WORDS.get(ciphers.lower(), ciphers)


def check_client_tls(settings: Settings) -> None:
    """ConfigError unless clients can be served as the settings say."""
    _check_versions("client_tls_protocols", settings.client_tls_protocols)
    mode = settings.client_tls_sslmode
    if settings.auth_type is AuthType.CERT and mode is not TlsMode.VERIFY_FULL:
        raise ConfigError(
            f"auth_type = cert needs verify-full, not {mode}",
            setting="client_tls_sslmode",
        )
    if mode is TlsMode.DISABLE:
        return
    for name in ("client_tls_key_file", "client_tls_cert_file"):
        if not getattr(settings, name):
            raise ConfigError(f"client_tls_sslmode = {mode} needs it", setting=name)
    if mode in VERIFIED and not settings.client_tls_ca_file:
        raise ConfigError(
            f"client_tls_sslmode = {mode} needs it", setting="client_tls_ca_file"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _check_pair(
        context,
        "client_tls",
        settings.client_tls_cert_file,
        settings.client_tls_key_file,
    )
    if settings.client_tls_ca_file:
        _check_authorities(context, "client_tls", settings.client_tls_ca_file)
    _check_ciphers(context, "client_tls", settings.client_tls_ciphers)
    _check_suites("client_tls13_ciphers", settings.client_tls13_ciphers)


@dataclass(frozen=True, slots=True)
class ServerTls:
    """TLS towards the servers of a database: its own settings, or the wider ones.

    The names are those of the settings without ``server_tls_``. Databases that say
    the same share one of these, and with it one context.
    """

    sslmode: TlsMode
    sslnegotiation: TlsNegotiation
    protocols: str
    ciphers: str
    tls13_ciphers: str | None
    ca_file: str
    cert_file: str
    key_file: str

    @property
    def is_direct(self) -> bool:
        """Whether TLS begins without a question."""
        return self.sslnegotiation is TlsNegotiation.DIRECT


def server_tls_from(row: dict[str, Any]) -> ServerTls:
    """What ``dataclasses.asdict`` and JSON have made of one; ValueError."""
    return ServerTls(
        **{
            **row,
            "sslmode": TlsMode(row["sslmode"]),
            "sslnegotiation": TlsNegotiation(row["sslnegotiation"]),
        }
    )


SERVER_TLS_ROWS = {
    name: f"server_{name}" if name.startswith("tls") else f"server_tls_{name}"
    for name in ServerTls.__dataclass_fields__
}


def server_tls_of(settings: Settings, database: Database | None = None) -> ServerTls:
    """What counts for a database, or for one that says nothing itself."""
    values = {}
    for name, row in SERVER_TLS_ROWS.items():
        own = None if database is None else getattr(database, row)
        values[name] = getattr(settings, row) if own is None else own
    return ServerTls(**values)


def check_server_tls(tls: ServerTls) -> None:
    """ConfigError unless servers can be reached as the settings say."""
    _check_versions("server_tls_protocols", tls.protocols)
    mode = tls.sslmode
    if tls.is_direct and mode in (TlsMode.DISABLE, TlsMode.ALLOW, TlsMode.PREFER):
        raise ConfigError(
            f"direct needs server_tls_sslmode of at least require, not {mode}",
            setting="server_tls_sslnegotiation",
        )
    if mode is TlsMode.DISABLE:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if bool(tls.cert_file) != bool(tls.key_file):
        raise ConfigError(
            "server_tls_cert_file and server_tls_key_file need each other",
            setting="server_tls_cert_file" if tls.cert_file else "server_tls_key_file",
        )
    if tls.cert_file:
        _check_pair(context, "server_tls", tls.cert_file, tls.key_file)
    if tls.ca_file:
        _check_authorities(context, "server_tls", tls.ca_file)
    _check_ciphers(context, "server_tls", tls.ciphers)
    _check_suites("server_tls13_ciphers", tls.tls13_ciphers)


def _check_versions(setting: str, protocols: str) -> None:
    try:
        tls_versions(protocols)
    except ValueError as error:
        raise ConfigError(str(error), setting=setting) from None


def _check_pair(
    context: ssl.SSLContext, prefix: str, cert_file: str, key_file: str
) -> None:
    for name, path in (("cert", cert_file), ("key", key_file)):
        _check_readable(f"{prefix}_{name}_file", path)
    try:
        # Without a prompt: nobody is there to type the key's password.
        context.load_cert_chain(cert_file, key_file, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"{cert_file} and {key_file} (_key_file): {_reason(error)}",
            setting=f"{prefix}_cert_file",
        ) from None


def _no_password() -> str:
    raise ValueError("the key is encrypted; a key without a password is needed")


def _check_authorities(context: ssl.SSLContext, prefix: str, path: str) -> None:
    _check_readable(f"{prefix}_ca_file", path)
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"{path}: {_reason(error)}", setting=f"{prefix}_ca_file"
        ) from None


def _check_ciphers(context: ssl.SSLContext, prefix: str, ciphers: str) -> None:
    try:
        context.set_ciphers(tls_ciphers(ciphers) or "DEFAULT")
    except (ssl.SSLError, ValueError):  # the latter for a zero byte
        raise ConfigError(
            f"no cipher matches {ciphers!r}", setting=f"{prefix}_ciphers"
        ) from None


def _check_suites(setting: str, suites: str | None) -> None:
    """Against the list of them: Python's ssl cannot try them."""
    for name in filter(None, (suites or "").split(":")):
        if name not in SUITES:
            raise ConfigError(
                f"unknown TLS 1.3 cipher suite {name!r}; known are"
                f" {', '.join(sorted(SUITES))}",
                setting=setting,
            )


def _check_readable(setting: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ConfigError(
            f"{path}: {os.strerror(error.errno or 0)}", setting=setting
        ) from None
    except ValueError as error:  # a zero byte
        raise ConfigError(f"{path!r}: {error}", setting=setting) from None


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error)
