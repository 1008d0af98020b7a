# SPDX-License-Identifier: MIT
"""TLS towards the servers of each database: what counts, and what is shared."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pooler.config.kinds import TlsMode, TlsNegotiation
from pooler.config.loading import load_text
from pooler.config.model import Config
from pooler.config.settings import Database
from pooler.errors import ConfigError, LoginError
from pooler.io.links import Links
from pooler.worker.console import ConsoleDoor
from pooler.worker.servers import ServerOpener
from pooler.worker.stays import Stays
from tests.certificates import Certificates, make_certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"), "localhost")


def config_of(databases: str, settings: str = "") -> Config:
    return load_text(
        f"[databases]\n{databases}[pgbouncer]\nauth_type = any\n{settings}", "p.ini"
    )


def database(config: Config, name: str) -> Database:
    found = config.database(name)
    assert found is not None
    return found


def opener_of(config: Config) -> ServerOpener:
    return ServerOpener(
        cast("Links", SimpleNamespace()),
        config,
        {},
        cast("ConsoleDoor", None),
        cast("Stays", None),
    )


def test_the_entry_beats_the_setting() -> None:
    config = config_of(
        "own = host=h server_tls_sslmode=require server_tls_sslnegotiation=direct"
        " server_tls13_ciphers=TLS_AES_128_GCM_SHA256\nother = host=h\n* = host=h\n",
        "server_tls_sslmode = allow\nserver_tls_protocols = tlsv1.2\n",
    )
    own = config.server_tls(database(config, "own"))
    assert own.sslmode is TlsMode.REQUIRE
    assert own.sslnegotiation is TlsNegotiation.DIRECT
    assert own.tls13_ciphers == "TLS_AES_128_GCM_SHA256"
    assert own.protocols == "tlsv1.2"
    other = config.server_tls(database(config, "other"))
    assert other.sslmode is TlsMode.ALLOW
    assert other == config.server_tls(database(config, "whatever"))
    assert config.all_server_tls() == {own, other}


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("server_tls_sslmode=perhaps", "must be one of"),
        ("server_tls_sslnegotiation=direct", "needs server_tls_sslmode of at least"),
        ("server_tls_cert_file=/no/such", "need each other"),
        ("server_tls_ca_file=/no/such", "/no/such: No such file"),
        ("server_tls_protocols=ssl3", "unknown TLS version"),
        ("server_tls_ciphers=NOTHING", "no cipher matches"),
        ("server_tls13_ciphers=NOTHING", "unknown TLS 1.3 cipher suite"),
    ],
)
@pytest.mark.parametrize("name", ["own", "*"])
def test_what_cannot_be_had_names_the_entry(
    entry: str, problem: str, name: str
) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        config_of(f"first = host=h\n{name} = host=h {entry}\n")
    assert str(caught.value).startswith(f'p.ini:3: [databases] "{name}": server_tls')


def test_databases_that_say_the_same_share_a_context(
    certificates: Certificates,
) -> None:
    """An authority is read once, not once for each database."""
    strict = f"server_tls_sslmode=verify-ca server_tls_ca_file={certificates.ca_file}"
    config = config_of(
        f"a = host=h {strict}\nb = host=i {strict} user=u\nc = host=h\n"
        "off = host=h server_tls_sslmode=disable\n* = host=h\n"
    )
    opener = opener_of(config)
    found = {
        name: opener._security_of(database(config, name))
        for name in ("a", "b", "c", "off", "any", "other")
    }
    assert found["a"] is found["b"]
    assert found["a"].context is not None
    assert found["c"] is found["any"] is found["other"]
    assert found["c"].context is not found["a"].context
    assert found["off"].context is None
    assert len(opener._security) == 3
    opener.use(config)  # a reload: certificates are read anew
    again = opener._security_of(database(config, "a"))
    assert again.context is not found["a"].context


def test_files_that_go_between_the_check_and_the_use(
    certificates: Certificates, tmp_path: Path
) -> None:
    """Never the clear instead of TLS."""
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(certificates.ca_file.read_bytes())
    opener = opener_of(config_of("a = host=h\n"))
    new = config_of(
        f"a = host=h server_tls_sslmode=verify-ca server_tls_ca_file={ca_file}\n"
    )
    ca_file.unlink()
    with pytest.raises(ConfigError):
        opener.use(new)
    opener.config = new  # as a reload does in this case
    with pytest.raises(LoginError, match="TLS towards the server cannot be had"):
        opener._security_of(database(new, "a"))
