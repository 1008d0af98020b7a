# SPDX-License-Identifier: MIT
"""TLS between the pooler and PostgreSQL."""

from __future__ import annotations

import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pooler.demo.postgres import Postgres
from tests.certificates import Certificates, make_certificates
from tests.integration.harness import (
    DATABASE,
    HOST,
    SERVER_PASSWORD,
    USER,
    MakePooler,
    Pooler,
    refused_start,
    wait_until,
)
from tests.wire_client import SSL_REQUEST

pytestmark = pytest.mark.timeout(60)


def entry(server: Postgres, **more: object) -> dict[str, str]:
    """The database entry that leads to this server."""
    options = {"host": HOST, "port": server.port, **more}
    return {DATABASE: " ".join(f"{key}={value}" for key, value in options.items())}


def security(
    pooler: Pooler, user: str = USER, database: str = DATABASE
) -> tuple[Any, ...]:
    """(whether the server is reached by TLS, version, name in our certificate)."""
    with pooler.connect(database, user) as link:
        row = link.execute(
            "SELECT ssl, version, client_dn FROM pg_stat_ssl"
            " WHERE pid = pg_backend_pid()"
        ).fetchone()
        assert row is not None
        return row


def refusal(pooler: Pooler, user: str = USER) -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        security(pooler, user)
    return str(caught.value)


# ------------------------------------------------------------ modes


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("disable", {USER: False, "by_tls": None, "in_clear": False}),
        ("allow", {USER: False, "by_tls": True, "in_clear": False}),
        ("prefer", {USER: True, "by_tls": True, "in_clear": False}),
        ("require", {USER: True, "by_tls": True, "in_clear": None}),
    ],
)
def test_modes(
    make_pooler: MakePooler,
    secure_postgres: Postgres,
    mode: str,
    expected: dict[str, bool | None],
) -> None:
    """As libpq: what is tried first, and what then."""
    pooler = make_pooler(entry(secure_postgres), server_tls_sslmode=mode)
    for user, secure in expected.items():
        if secure is None:
            assert "pg_hba.conf rejects connection" in refusal(pooler, user)
        else:
            assert security(pooler, user)[0] is secure


@pytest.mark.parametrize("mode", ["allow", "prefer"])
def test_a_server_without_tls(
    make_pooler: MakePooler, postgres: Postgres, mode: str
) -> None:
    pooler = make_pooler(server_tls_sslmode=mode)
    assert security(pooler)[0] is False


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_a_server_without_tls_where_it_is_a_must(
    make_pooler: MakePooler, postgres: Postgres, mode: str
) -> None:
    pooler = make_pooler(server_tls_sslmode=mode)
    assert "server refused SSL" in refusal(pooler)


def test_a_unix_socket_is_exempt(
    make_pooler: MakePooler, secure_postgres: Postgres
) -> None:
    pooler = make_pooler(
        entry(secure_postgres, host=secure_postgres.socket_dir, user="postgres"),
        server_tls_sslmode="require",
    )
    assert security(pooler)[0] is False


# ------------------------------------------------------------ certificates


def test_the_server_is_who_it_should_be(
    make_pooler: MakePooler,
    secure_postgres: Postgres,
    server_certificates: Certificates,
    tmp_path: Path,
) -> None:
    stranger = make_certificates(tmp_path / "stranger")
    for mode in ("verify-ca", "verify-full"):
        pooler = make_pooler(
            entry(secure_postgres),
            server_tls_sslmode=mode,
            server_tls_ca_file=server_certificates.ca_file,
        )
        assert security(pooler)[:2] == (True, "TLSv1.3")
        pooler = make_pooler(
            entry(secure_postgres),
            server_tls_sslmode=mode,
            server_tls_ca_file=stranger.ca_file,
        )
        assert "TLS handshake failed: self-signed certificate" in refusal(pooler)


def test_a_certificate_of_another_host(
    make_pooler: MakePooler, server_certificates: Certificates, tmp_path: Path
) -> None:
    """verify-full looks at the name, verify-ca does not; neither sends a password."""
    other = server_certificates.authority.issue_cert("another.example")
    server = make_certificates(tmp_path / "other")
    server.cert_file.write_bytes(b"".join(p.bytes() for p in other.cert_chain_pems))
    other.private_key_pem.write_to_path(server.key_file)
    with Postgres(hba="local all all trust\nhostssl all all all trust") as postgres:
        owner = postgres.data_dir.owner()
        for path in (server.cert_file, server.key_file):
            there = postgres.data_dir / path.name
            shutil.copyfile(path, there)
            there.chmod(0o600)
            shutil.chown(there, owner)
        postgres.psql("ALTER SYSTEM SET ssl = 'on'")
        postgres.reload()
        for mode, works in (("verify-ca", True), ("verify-full", False)):
            pooler = make_pooler(
                entry(postgres, dbname="postgres", user="postgres"),
                server_tls_sslmode=mode,
                server_tls_ca_file=server_certificates.ca_file,
            )
            if works:
                assert security(pooler)[0] is True
            else:
                assert "mismatch" in refusal(pooler)


def test_we_show_a_certificate(
    make_pooler: MakePooler,
    secure_postgres: Postgres,
    server_certificates: Certificates,
    tmp_path: Path,
) -> None:
    cert_file, key_file = server_certificates.of_client("by_certificate", tmp_path)
    pooler = make_pooler(
        entry(secure_postgres),
        server_tls_sslmode="require",
        server_tls_cert_file=cert_file,
        server_tls_key_file=key_file,
    )
    # PostgreSQL cuts the name
    assert "/CN=by_certi" in security(pooler, "by_certificate")[2]
    pooler = make_pooler(entry(secure_postgres), server_tls_sslmode="require")
    assert "client certificate" in refusal(pooler, "by_certificate")


def test_scram_by_tls(make_pooler: MakePooler, secure_postgres: Postgres) -> None:
    """Bound to the server's certificate (SCRAM-SHA-256-PLUS), which it offers."""
    pooler = make_pooler(
        entry(secure_postgres, password=f"'{SERVER_PASSWORD}'"),
        server_tls_sslmode="require",
    )
    assert security(pooler, "by_scram")[0] is True
    pooler = make_pooler(
        entry(secure_postgres, password="wrong"), server_tls_sslmode="require"
    )
    assert "password authentication failed" in refusal(pooler, "by_scram")


def test_direct_tls(make_pooler: MakePooler, secure_postgres: Postgres) -> None:
    """PostgreSQL 17 and newer take it; older ones close the connection."""
    pooler = make_pooler(
        entry(secure_postgres),
        server_tls_sslmode="require",
        server_tls_sslnegotiation="direct",
    )
    if secure_postgres.installation.major >= 17:
        assert security(pooler)[0] is True
    else:
        assert "server closed" in refusal(pooler) or "TLS" in refusal(pooler)


# ------------------------------------------------------------ traffic


def test_much_of_everything(make_pooler: MakePooler, secure_postgres: Postgres) -> None:
    """More clients than servers, both ways, and a cancel that goes by TLS as well."""
    pooler = make_pooler(
        entry(secure_postgres), server_tls_sslmode="require", default_pool_size=2
    )

    def work(i: int) -> None:
        with pooler.connect() as link:
            for _ in range(3):
                value = chr(97 + i) * 2_000_000
                assert link.execute("SELECT %s::text", (value,)).fetchone() == (value,)
                link.commit()
                rows = link.execute(
                    "SELECT repeat(chr(65 + %s), 1000) FROM generate_series(1, 3000)",
                    (i,),
                ).fetchall()
                assert set(rows) == {(chr(65 + i) * 1000,)}
                link.commit()

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work, i) for i in range(6)]:
            done.result()
    with pooler.connect() as link:

        def cancel() -> None:
            wait_until(
                lambda: secure_postgres.psql(
                    "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                ),
                "the query runs",
            )
            link.cancel_safe(timeout=10)

        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(cancel)
            with pytest.raises(psycopg.errors.QueryCanceled):
                link.execute("SELECT pg_sleep(30)")
            done.result()
    assert "cancel request failed" not in pooler.log()


def test_a_change_of_mode_replaces_the_servers(
    make_pooler: MakePooler, secure_postgres: Postgres
) -> None:
    pooler = make_pooler(entry(secure_postgres), server_tls_sslmode="disable")
    assert security(pooler)[0] is False
    pooler.reload(server_tls_sslmode="require")
    wait_until(lambda: security(pooler)[0] is True, "TLS")


# ------------------------------------------------------------ databases


def test_databases_have_their_own_settings(
    make_pooler: MakePooler,
    secure_postgres: Postgres,
    server_certificates: Certificates,
    tmp_path: Path,
) -> None:
    """Mode, authority and certificate of one are no other's; a cancel goes along."""
    cert_file, key_file = server_certificates.of_client("by_certificate", tmp_path)
    stranger = make_certificates(tmp_path / "stranger")
    where = entry(secure_postgres, dbname=DATABASE)[DATABASE]
    forced = f"{where} user=by_certificate server_tls_sslmode=require"
    pooler = make_pooler(
        {
            "wide": where,
            "clear": f"{where} server_tls_sslmode=disable",
            "old": f"{where} server_tls_protocols=tlsv1.2",
            "strict": f"{where} server_tls_sslmode=verify-full"
            f" server_tls_ca_file={server_certificates.ca_file}",
            "strange": f"{where} server_tls_sslmode=verify-ca"
            f" server_tls_ca_file={stranger.ca_file}",
            "shown": f"{forced} server_tls_cert_file={cert_file}"
            f" server_tls_key_file={key_file}",
            "unshown": forced,
        },
        server_tls_sslmode="require",
    )

    def secured(database: str) -> tuple[Any, ...]:
        return security(pooler, database=database)

    assert secured("wide")[:2] == (True, "TLSv1.3")
    assert secured("clear")[0] is False
    assert secured("old")[:2] == (True, "TLSv1.2")
    assert secured("strict")[0] is True
    assert "/CN=by_certi" in secured("shown")[2]
    for database, complaint in (
        ("strange", "TLS handshake failed: self-signed certificate"),
        ("unshown", "client certificate"),
    ):
        with pytest.raises(psycopg.OperationalError, match=complaint):
            secured(database)
    with pooler.connect("old") as link, ThreadPoolExecutor(1) as pool:
        asleep = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"

        def cancel() -> None:
            wait_until(lambda: secure_postgres.psql(asleep), "the query runs")
            link.cancel_safe(timeout=10)

        done = pool.submit(cancel)
        with pytest.raises(psycopg.errors.QueryCanceled):
            link.execute("SELECT pg_sleep(30)")
        done.result()
    # A reload of one entry replaces the servers of that one.
    pooler.databases = {**pooler.databases, "clear": where}
    pooler.reload()
    wait_until(lambda: secured("clear")[0] is True, "TLS")


# ------------------------------------------------------------ attacks


class Impostor:
    """A server that answers SSLRequest in its own way."""

    def __init__(self, answer: bytes) -> None:
        self.listener = socket.create_server((HOST, 0))
        self.port: int = self.listener.getsockname()[1]
        self.heard: list[bytes] = []
        self.answer = answer
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            with link:
                link.settimeout(5)
                first = link.recv(65536)
                self.heard.append(first)
                if first == SSL_REQUEST:
                    link.sendall(self.answer)
                    if self.answer:
                        self.heard.append(link.recv(65536))

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"N", "server refused SSL"),
        (b"", "server closed the connection"),
        (b"E", "no answer that is known"),
        (b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I", "unencrypted data after SSL response"),
        (b"NR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I", "unencrypted data after SSL response"),
    ],
)
def test_nothing_is_said_in_the_clear(
    make_pooler: MakePooler, answer: bytes, complaint: str
) -> None:
    """CVE-2021-23222, and a server that is talked out of TLS."""
    impostor = Impostor(answer)
    try:
        pooler = make_pooler(
            {DATABASE: f"host={HOST} port={impostor.port} password=secret"},
            server_tls_sslmode="require",
        )
        assert complaint in refusal(pooler)
        assert impostor.heard[0] == SSL_REQUEST
        assert set(impostor.heard) <= {SSL_REQUEST, b""}
    finally:
        impostor.close()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"server_tls_ca_file": "/none"}, "server_tls_ca_file: /none: No such file"),
        ({"server_tls_cert_file": "/none"}, "and server_tls_key_file need each other"),
        ({"server_tls_ciphers": "rot13"}, "server_tls_ciphers: no cipher matches"),
        ({"server_tls_protocols": "ssl3"}, "server_tls_protocols: unknown TLS version"),
        (
            {"server_tls_sslnegotiation": "direct", "server_tls_sslmode": "prefer"},
            "server_tls_sslnegotiation: direct needs",
        ),
    ],
)
def test_what_cannot_be_had_ends_the_start(
    tmp_path: Path, changes: dict[str, object], complaint: str
) -> None:
    settings = {"server_tls_sslmode": "require", **changes}
    assert complaint in refused_start(tmp_path, settings)


@pytest.mark.parametrize(
    ("mode", "asker", "answer"),
    [
        ("require", "by_tls", ""),
        ("require", "in_clear", "cannot connect"),
        ("disable", "by_tls", "cannot connect"),
    ],
)
def test_auth_query_goes_the_way_of_servers(
    make_pooler: MakePooler,
    secure_postgres: Postgres,
    mode: str,
    asker: str,
    answer: str,
) -> None:
    pooler = make_pooler(
        {DATABASE: f"host={HOST} port={secure_postgres.port}"},
        auth_type="plain",
        auth_user=asker,
        auth_query="SELECT $1::text, 'secret'",
        server_tls_sslmode=mode,
    )
    if answer:
        with pytest.raises(psycopg.OperationalError, match=answer):
            pooler.connect(user=USER, password="secret")
        return
    with pooler.connect(user=USER, password="secret") as link:
        assert link.execute("SELECT 1").fetchone() == (1,)
    assert secure_postgres.psql(
        "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
        f" WHERE usename = '{asker}'"
    ) == [(True,)]
