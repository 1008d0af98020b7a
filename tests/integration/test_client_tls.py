# SPDX-License-Identifier: MIT
"""TLS between clients and the pooler."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from pooler.login.scram import Verifier
from tests.certificates import Certificates, make_certificates
from tests.integration.harness import (
    DATABASE,
    HOST,
    USER,
    MakePooler,
    Pooler,
    refused_start,
    wait_until,
)
from tests.wire_client import SSL_REQUEST, ConnectionEnded, WireClient, startup

pytestmark = pytest.mark.timeout(60)

PASSWORD = "pass wörd"
ALERT = b"\x15"
SECRETS = "".join(
    f'"{user}" "{secret}"\n'
    for user, secret in (
        ("plain_user", PASSWORD),
        ("scram_user", Verifier.from_password(PASSWORD, 4096).to_text()),
    )
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def tls_settings(certificates: Certificates, mode: str) -> dict[str, Any]:
    return {
        "client_tls_sslmode": mode,
        "client_tls_cert_file": certificates.cert_file,
        "client_tls_key_file": certificates.key_file,
    }


def trusting(certificates: Certificates, **more: Any) -> dict[str, Any]:
    """What libpq needs to check our certificate."""
    return {"sslmode": "verify-full", "sslrootcert": str(certificates.ca_file), **more}


def answer(pooler: Pooler, **more: Any) -> object:
    with pooler.connect(**more) as link:
        row = link.execute("SELECT 42").fetchone()
        assert row is not None
        return row[0]


def refusal(pooler: Pooler, **more: Any) -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        answer(pooler, **more)
    return str(caught.value)


# ------------------------------------------------------------ modes


@pytest.mark.parametrize(
    ("mode", "in_clear"),
    [("allow", True), ("prefer", True), ("require", False)],
)
def test_modes(
    make_pooler: MakePooler, certificates: Certificates, mode: str, in_clear: bool
) -> None:
    pooler = make_pooler(log_connections=1, **tls_settings(certificates, mode))
    assert answer(pooler, **trusting(certificates)) == 42
    pooler.wait_log("tls=TLSv1.3/TLS_AES_256_GCM_SHA384")
    if in_clear:
        assert answer(pooler, sslmode="disable") == 42
        pooler.wait_log("tls=no ")
    else:
        assert "SSL required" in refusal(pooler, sslmode="disable")


def test_off_means_off(make_pooler: MakePooler) -> None:
    pooler = make_pooler()
    assert "does not support SSL" in refusal(pooler, sslmode="require")


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_clients_show_a_certificate(
    make_pooler: MakePooler, certificates: Certificates, tmp_path: Path, mode: str
) -> None:
    cert_file, key_file = certificates.of_client("somebody", tmp_path)
    stranger = make_certificates(tmp_path / "stranger")
    other_cert, other_key = stranger.of_client("somebody", tmp_path / "stranger")
    pooler = make_pooler(
        client_tls_ca_file=certificates.ca_file, **tls_settings(certificates, mode)
    )
    shown = trusting(certificates, sslcert=str(cert_file), sslkey=str(key_file))
    assert answer(pooler, **shown) == 42
    assert "certificate required" in refusal(pooler, **trusting(certificates))
    foreign = trusting(certificates, sslcert=str(other_cert), sslkey=str(other_key))
    refusal(pooler, **foreign)
    pooler.wait_log("TLS handshake error: unable to get local issuer certificate")


def test_a_unix_socket_is_exempt(
    make_pooler: MakePooler, certificates: Certificates, tmp_path: Path
) -> None:
    pooler = make_pooler(
        unix_socket_dir=tmp_path, **tls_settings(certificates, "require")
    )
    pooler.host = str(tmp_path)
    assert answer(pooler, sslmode="prefer") == 42


def test_direct_tls(make_pooler: MakePooler, certificates: Certificates) -> None:
    """Without a question first, as PostgreSQL 17 and newer take it; ALPN is a must."""
    pooler = make_pooler(**tls_settings(certificates, "require"))
    if psycopg.pq.version() < 170000:
        pytest.skip("this libpq has no sslnegotiation")
    assert answer(pooler, **trusting(certificates, sslnegotiation="direct")) == 42
    context = certificates.client_context()
    with (
        socket.create_connection((HOST, pooler.port)) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as link,
    ):
        link.settimeout(10)
        link.sendall(startup(USER, DATABASE))
        assert link.recv(1) == b""


def test_versions(make_pooler: MakePooler, certificates: Certificates) -> None:
    pooler = make_pooler(
        client_tls_protocols="tlsv1.2", **tls_settings(certificates, "require")
    )
    tls12 = trusting(certificates, ssl_max_protocol_version="TLSv1.2")
    assert answer(pooler, **tls12) == 42
    tls13 = trusting(certificates, ssl_min_protocol_version="TLSv1.3")
    assert "alert" in refusal(pooler, **tls13)


# ------------------------------------------------------------ channel binding


@pytest.mark.parametrize("user", ["plain_user", "scram_user"])
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_scram_is_bound_to_the_certificate(
    make_pooler: MakePooler, certificates: Certificates, user: str, version: str
) -> None:
    pooler = make_pooler(
        {DATABASE: f"user={USER}"},
        SECRETS,
        auth_type="scram-sha-256",
        **tls_settings(certificates, "require"),
    )
    options = trusting(
        certificates, channel_binding="require", ssl_max_protocol_version=version
    )
    assert answer(pooler, user=user, password=PASSWORD, **options) == 42
    assert "SASL authentication failed" in refusal(
        pooler, user=user, password="wrong", **options
    )
    unbound = {**options, "channel_binding": "disable"}
    assert answer(pooler, user=user, password=PASSWORD, **unbound) == 42


# ------------------------------------------------------------ attacks


def rest_of(client: WireClient) -> bytes:
    """All that is sent before the connection ends."""
    got = b""
    with contextlib.suppress(ConnectionEnded):
        while True:
            got += client.read_exactly(1)
    return got


@pytest.mark.parametrize("glued", [b"x", startup(USER, DATABASE)])
@pytest.mark.parametrize("apart", [True, False])
def test_bytes_in_front_of_the_handshake(
    make_pooler: MakePooler, certificates: Certificates, glued: bytes, apart: bool
) -> None:
    """CVE-2021-23214: what somebody puts behind the request is no part of the login."""
    pooler = make_pooler(**tls_settings(certificates, "require"))
    with pooler.wire() as client:
        if apart:
            client.send(SSL_REQUEST)
            assert client.read_exactly(1) == b"S"
            client.send(glued * 20)
        else:
            client.send(SSL_REQUEST + glued)
        assert rest_of(client)[:1] in (b"", b"E", ALERT)
    assert answer(pooler, **trusting(certificates)) == 42


def test_a_handshake_that_never_ends_is_limited(
    make_pooler: MakePooler, certificates: Certificates
) -> None:
    pooler = make_pooler(
        client_login_timeout=1, **tls_settings(certificates, "require")
    )
    with pooler.wire() as client:
        client.send(SSL_REQUEST)
        assert client.read_exactly(1) == b"S"
        client.send(b"\x16\x03\x01\x02\x00")
        assert rest_of(client) == b""  # nobody would understand a message


# ------------------------------------------------------------ traffic


def test_big_results_and_slow_readers(
    make_pooler: MakePooler, certificates: Certificates
) -> None:
    pooler = make_pooler(default_pool_size=2, **tls_settings(certificates, "require"))
    with contextlib.ExitStack() as stack:
        links = [
            stack.enter_context(pooler.connect(**trusting(certificates)))
            for _ in range(6)
        ]
        for i, link in enumerate(links):
            text = "".join(
                row[0]
                for row in link.execute(
                    "SELECT repeat(chr(65 + %s), 100000) FROM generate_series(1, 50)",
                    (i,),
                )
            )
            assert text == chr(65 + i) * 5_000_000
            value = chr(97 + i) * 3_000_000
            row = link.execute("SELECT %s::text", (value,)).fetchone()
            assert row == (value,)
            link.commit()
        for link in links:
            with link.cursor() as cursor:
                cursor.execute(
                    "CREATE TEMP TABLE IF NOT EXISTS t (a text) ON COMMIT DROP"
                )
                with cursor.copy("COPY t FROM STDIN") as copy:
                    for n in range(20_000):
                        copy.write_row((f"{n:0100d}",))
                cursor.execute("SELECT count(*), sum(length(a)) FROM t")
                assert cursor.fetchone() == (20_000, 2_000_000)
            link.commit()


def test_asyncpg(make_pooler: MakePooler, certificates: Certificates) -> None:
    pooler = make_pooler(**tls_settings(certificates, "require"))

    async def run() -> list[int]:
        links = [
            await asyncpg.connect(pooler.dsn(), ssl=certificates.client_context())
            for _ in range(20)
        ]
        try:
            answers: list[int] = await asyncio.gather(
                *(link.fetchval("SELECT $1::int", i) for i, link in enumerate(links))
            )
            return answers
        finally:
            for link in links:
                await link.close()

    assert asyncio.run(run()) == list(range(20))


def test_a_cancel_by_tls(make_pooler: MakePooler, certificates: Certificates) -> None:
    pooler = make_pooler(**tls_settings(certificates, "require"))
    with (
        pooler.connect(**trusting(certificates)) as link,
        pooler.connect(autocommit=True, **trusting(certificates)) as watch,
    ):

        def cancel() -> None:
            wait_until(
                lambda: watch.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                ).fetchone(),
                "the query runs",
            )
            link.cancel_safe(timeout=10)

        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(cancel)
            with pytest.raises(psycopg.errors.QueryCanceled):
                link.execute("SELECT pg_sleep(30)")
            done.result()


# ------------------------------------------------------------ files


def test_new_certificates_serve_new_clients(
    make_pooler: MakePooler, tmp_path: Path
) -> None:
    folder = tmp_path / "certificates"
    old = make_certificates(folder)
    kept = old.ca_file.read_bytes()
    pooler = make_pooler(**tls_settings(old, "require"))
    with pooler.connect(**trusting(old)) as link:
        new = make_certificates(folder)
        pooler.reload()
        wait_until(
            lambda: "certificate verify failed" not in _try(pooler, new), "new ones"
        )
        assert link.execute("SELECT 1").fetchone() == (1,)
        (tmp_path / "old.crt").write_bytes(kept)
        gone = {"sslmode": "verify-full", "sslrootcert": str(tmp_path / "old.crt")}
        assert "certificate verify failed" in refusal(pooler, **gone)


def _try(pooler: Pooler, certificates: Certificates) -> str:
    try:
        answer(pooler, **trusting(certificates))
    except psycopg.OperationalError as error:
        return str(error)
    return ""


def resumed(
    pooler: Pooler, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[bool, ssl.SSLSession | None]:
    """Log in; whether an earlier session was taken up, and this one."""
    with socket.create_connection((HOST, pooler.port), 10) as raw:
        raw.sendall(SSL_REQUEST)
        assert raw.recv(1) == b"S"
        with context.wrap_socket(
            raw, server_hostname="localhost", session=session
        ) as link:
            link.sendall(startup(USER, DATABASE))
            got = b""
            while b"Z\0\0\0\x05I" not in got:
                part = link.recv(65536)
                assert part, got
                got += part
            return bool(link.session_reused), link.session


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_an_earlier_session_is_no_way_round_a_certificate(
    make_pooler: MakePooler, certificates: Certificates, tmp_path: Path, version: str
) -> None:
    """Who comes again shows it again, whatever was agreed on before."""
    authority = tmp_path / "authority.crt"
    authority.write_bytes(certificates.ca_file.read_bytes())
    pooler = make_pooler(**tls_settings(certificates, "require"))
    context = certificates.client_context()
    context.maximum_version = ssl.TLSVersion[version.replace(".", "_")]
    context.check_hostname = False
    _, session = resumed(pooler, context, None)
    assert resumed(pooler, context, session)[0] is True
    pooler.reload(client_tls_sslmode="verify-ca", client_tls_ca_file=authority)
    wait_until(lambda: not _logs_in(pooler, context, None), "a certificate is a must")
    assert not _logs_in(pooler, context, session)
    context.load_cert_chain(*certificates.of_client("somebody", tmp_path))
    _, session = resumed(pooler, context, None)
    assert resumed(pooler, context, session)[0] is False
    stranger = make_certificates(tmp_path / "stranger")
    authority.write_bytes(stranger.ca_file.read_bytes())
    pooler.reload()
    wait_until(lambda: not _logs_in(pooler, context, None), "the other authority")
    assert not _logs_in(pooler, context, session)


def _logs_in(
    pooler: Pooler, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> bool:
    try:
        resumed(pooler, context, session)
    except (ssl.SSLError, AssertionError, OSError):
        return False
    return True


def test_a_reload_without_its_files_changes_nothing(
    make_pooler: MakePooler, certificates: Certificates, tmp_path: Path
) -> None:
    pooler = make_pooler(**tls_settings(certificates, "require"))
    missing = tmp_path / "missing.key"
    pooler.reload(client_tls_key_file=missing, max_client_conn=1)
    pooler.wait_log(f"client_tls_key_file: {missing}: No such file or directory")
    with pooler.connect(**trusting(certificates)):
        assert answer(pooler, **trusting(certificates)) == 42


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"client_tls_key_file": ""}, "client_tls_key_file: client_tls_sslmode"),
        ({"client_tls_cert_file": "/none"}, "client_tls_cert_file: /none: No such"),
        ({"client_tls_sslmode": "verify-ca"}, "client_tls_ca_file: client_tls_sslmode"),
        ({"client_tls_ciphers": "rot13"}, "client_tls_ciphers: no cipher matches"),
        ({"client_tls_protocols": "ssl3"}, "client_tls_protocols: unknown TLS version"),
        ({"client_tls13_ciphers": "rot13"}, "client_tls13_ciphers: unknown TLS 1.3"),
        ({"client_tls_ecdhcurve": "circle"}, "client_tls_ecdhcurve: circle"),
    ],
)
def test_what_cannot_be_had_ends_the_start(
    certificates: Certificates,
    tmp_path: Path,
    changes: dict[str, object],
    complaint: str,
) -> None:
    """Never without TLS in silence."""
    settings = {**tls_settings(certificates, "require"), **changes}
    assert complaint in refused_start(tmp_path, settings)
