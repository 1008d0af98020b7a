# SPDX-License-Identifier: MIT
"""Who may log in from where: auth_type hba, cert and peer."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pooler.login.scram import Verifier
from tests.certificates import Certificates, make_certificates
from tests.integration.harness import DATABASE, USER, MakePooler, Pooler, wait_until

pytestmark = pytest.mark.timeout(60)

PASSWORD = "secret"
SECRETS = "".join(
    f'"{user}" "{secret}"\n'
    for user, secret in (
        ("joe", PASSWORD),
        ("ann", Verifier.from_password(PASSWORD, 4096).to_text()),
        ("eve", PASSWORD),
    )
)
ENTRY = {DATABASE: f"user={USER}"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def outcome(pooler: Pooler, user: str, **more: Any) -> str:
    """What comes of a login; empty: it has worked."""
    options = {"sslmode": "prefer", "password": PASSWORD, **more}
    try:
        with pooler.connect(user=user, **options) as link:
            link.execute("SELECT 1")
    except psycopg.OperationalError as error:
        return str(error)
    return ""


def tls_settings(certificates: Certificates, mode: str = "allow") -> dict[str, Any]:
    return {
        "client_tls_sslmode": mode,
        "client_tls_cert_file": certificates.cert_file,
        "client_tls_key_file": certificates.key_file,
        "client_tls_ca_file": certificates.ca_file,
    }


def test_lines_decide(
    make_pooler: MakePooler, certificates: Certificates, tmp_path: Path
) -> None:
    rules = tmp_path / "hba.conf"
    rules.write_text(
        "local     all eve               reject\n"
        "local     all all               trust\n"
        "hostssl   all joe 127.0.0.1/32  trust\n"
        "hostnossl all joe 127.0.0.1/32  scram-sha-256\n"
        "host      all ann 127.0.0.0/8   md5\n"
    )
    pooler = make_pooler(
        ENTRY,
        SECRETS,
        auth_type="hba",
        auth_hba_file=rules,
        unix_socket_dir=tmp_path,
        **tls_settings(certificates),
    )
    assert outcome(pooler, "joe", sslmode="require", password="") == ""
    assert outcome(pooler, "joe", sslmode="disable") == ""
    wrong = outcome(pooler, "joe", sslmode="disable", password="x")
    assert "SASL authentication failed" in wrong
    pooler.wait_log(f"{DATABASE}/joe@127.0.0.1")
    pooler.wait_log("SASL authentication failed: wrong password")
    assert outcome(pooler, "ann") == ""
    assert "login rejected" in outcome(pooler, "eve")
    pooler.wait_log("login rejected: no line of auth_hba_file fits")
    pooler.host = str(tmp_path)
    assert outcome(pooler, "joe", password="") == ""
    assert "login rejected" in outcome(pooler, "eve")
    pooler.wait_log(f"login rejected: {rules}:1 rejects it")


def test_a_reload_takes_new_lines_and_leaves_bad_ones(
    make_pooler: MakePooler, tmp_path: Path
) -> None:
    rules = tmp_path / "hba.conf"
    rules.write_text("host all joe all trust\n")
    pooler = make_pooler(ENTRY, SECRETS, auth_type="hba", auth_hba_file=rules)
    assert outcome(pooler, "joe") == ""
    assert "login rejected" in outcome(pooler, "ann")
    rules.write_text("host all ann all trust\nhost all joe all nonsense\n")
    pooler.reload()
    pooler.wait_log(f"{rules}:2: unknown method 'nonsense'")
    assert outcome(pooler, "joe") == ""
    rules.write_text("host all ann all trust\n")
    pooler.reload()
    wait_until(lambda: outcome(pooler, "ann") == "", "the new lines")
    assert "login rejected" in outcome(pooler, "joe")


def test_a_certificate_names_its_user(
    make_pooler: MakePooler, certificates: Certificates, tmp_path: Path
) -> None:
    pooler = make_pooler(
        ENTRY, SECRETS, auth_type="cert", **tls_settings(certificates, "verify-full")
    )
    cert_file, key_file = certificates.of_client("joe", tmp_path)
    shown = {"sslmode": "require", "sslcert": cert_file, "sslkey": key_file}
    assert outcome(pooler, "joe", **shown) == ""
    assert "certificate authentication failed" in outcome(pooler, "ann", **shown)
    pooler.wait_log('certificate authentication failed: certificate "joe" may not be')
    stranger, key_file = certificates.of_client("nobody", tmp_path)
    shown = {"sslmode": "require", "sslcert": stranger, "sslkey": key_file}
    assert "certificate authentication failed" in outcome(pooler, "nobody", **shown)
    pooler.wait_log("certificate authentication failed: no such user")


def test_certificates_by_lines_and_maps(
    make_pooler: MakePooler, certificates: Certificates, tmp_path: Path
) -> None:
    rules, maps = tmp_path / "hba.conf", tmp_path / "ident.conf"
    rules.write_text("hostssl all joe all cert map=m\nhost all ann all scram-sha-256\n")
    maps.write_text("m /^(.*)[.]corp$ \\1\n")
    pooler = make_pooler(
        ENTRY,
        SECRETS,
        auth_type="hba",
        auth_hba_file=rules,
        auth_ident_file=maps,
        **tls_settings(certificates),
    )
    cert_file, key_file = certificates.of_client("joe.corp", tmp_path)
    shown = {"sslmode": "require", "sslcert": cert_file, "sslkey": key_file}
    assert outcome(pooler, "joe", **shown) == ""
    without = outcome(pooler, "joe", sslmode="require")
    assert "certificate authentication failed" in without
    pooler.wait_log("certificate authentication failed: there is no certificate")
    assert outcome(pooler, "ann", sslmode="require") == ""
    assert outcome(pooler, "ann", **shown) == ""


def test_the_system_names_its_user(make_pooler: MakePooler, tmp_path: Path) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    pooler = make_pooler(
        ENTRY,
        f'"{me}" ""\n"joe" ""\n',
        auth_type="peer",
        unix_socket_dir=tmp_path,
    )
    assert "unix socket login rejected" in outcome(pooler, me)
    pooler.wait_log("unix socket login rejected: there is no system user")
    pooler.host = str(tmp_path)
    assert outcome(pooler, me) == ""
    assert "unix socket login rejected" in outcome(pooler, "joe")
    pooler.wait_log(f'unix socket login rejected: system user "{me}" may not be')
