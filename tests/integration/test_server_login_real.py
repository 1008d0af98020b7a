# SPDX-License-Identifier: MIT
"""Our login against a real PostgreSQL, over a plain blocking socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pooler.demo.postgres import Postgres
from pooler.login import packets
from pooler.login.md5 import md5_secret
from pooler.login.scram import ScramKeys, Verifier, saslprep
from pooler.login.server import ServerGreeting, ServerLogin, ServerLoginError

# "by_" and the method, so that one cluster serves all.
HBA = """
host all by_trust 127.0.0.1/32 trust
host all by_password 127.0.0.1/32 password
host all by_md5 127.0.0.1/32 md5
host all all 127.0.0.1/32 scram-sha-256
"""

# RFC 4013 cases where a wrong SASLprep gives other keys; the last but one is
# refused by it and used as it is.
PASSWORDS = {
    "scram_ascii": "secret",
    "scram_latin": "pässwörd",
    "scram_mapped": "I\u00adX\u2168\u00a0\u00aa",
    "scram_bidi": "\u0627\u0031",
    "scram_unassigned": "\u0221\u2168",
    "scram_long": "x" * 900,
}


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres(hba=HBA) as postgres:
        postgres.psql("CREATE ROLE by_trust LOGIN")
        postgres.psql("CREATE ROLE by_password LOGIN PASSWORD 'secret'")
        for user, password in PASSWORDS.items():
            postgres.psql(f"CREATE ROLE {user} LOGIN PASSWORD '{password}'")
        postgres.psql(
            "SET password_encryption = md5; CREATE ROLE by_md5 LOGIN PASSWORD 'secret'"
        )
        yield postgres


def log_in(
    server: Postgres,
    user: str,
    secret: str | None,
    keys: ScramKeys | None = None,
    *,
    piece: int = 4096,
    **parameters: str,
) -> ServerGreeting:
    login = ServerLogin(user, "postgres", secret, parameters, keys)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as link:
        link.sendall(login.start())
        pending = b""
        while login.greeting is None:
            received = link.recv(piece)
            assert received, "the server closed without a word"
            pending += received
            consumed, send = login.receive(pending)
            pending = pending[consumed:]
            link.sendall(send)
        link.sendall(b"Q\0\0\0\x18select current_user\0")
        answer = b""
        while not answer.endswith(packets.ready_for_query()):
            received = link.recv(4096)
            assert received
            answer += received
        assert user.encode() in answer
        link.sendall(packets.message(b"X"))
    return login.greeting


@pytest.mark.parametrize("piece", [1, 4096])
@pytest.mark.parametrize(
    ("user", "secret"),
    [
        ("by_trust", None),
        ("by_password", "secret"),
        ("by_md5", "secret"),
        ("by_md5", md5_secret("secret", "by_md5")),
        *PASSWORDS.items(),
    ],
)
def test_login(server: Postgres, user: str, secret: str | None, piece: int) -> None:
    greeting = log_in(
        server, user, secret, piece=piece, TimeZone="Asia/Tokyo", DateStyle="German"
    )
    assert greeting.parameters["TimeZone"] == "Asia/Tokyo"
    assert greeting.parameters["DateStyle"] == "German, DMY"
    version = greeting.parameters["server_version"].split()[0]
    assert version == server.installation.version
    assert greeting.backend_pid > 0
    assert len(greeting.cancel_key) == 4
    assert greeting.notices == ()


def test_stored_forms_are_those_of_the_server(server: Postgres) -> None:
    stored = dict(server.psql("SELECT rolname, rolpassword FROM pg_authid"))
    assert stored["by_md5"] == md5_secret("secret", "by_md5")
    for user, password in PASSWORDS.items():
        verifier = Verifier.parse(stored[user])
        assert verifier is not None
        assert verifier.to_text() == stored[user]
        assert verifier.matches(password), (user, saslprep(password))


def test_server_takes_our_verifier(server: Postgres) -> None:
    ours = Verifier.from_password("pässwörd", 5000)
    server.psql(f"CREATE ROLE ours LOGIN PASSWORD '{ours.to_text()}'")
    assert log_in(server, "ours", "pässwörd").scram_keys is not None


def test_keys_instead_of_a_password(server: Postgres) -> None:
    keys = log_in(server, "scram_ascii", "secret").scram_keys
    assert keys is not None
    stored = server.psql(
        "SELECT rolpassword FROM pg_authid WHERE rolname = 'scram_ascii'"
    )
    again = log_in(server, "scram_ascii", stored[0][0], keys)
    assert again.scram_keys == keys


@pytest.mark.parametrize("user", ["by_password", "by_md5", "scram_ascii", "nobody"])
def test_wrong_password(server: Postgres, user: str) -> None:
    with pytest.raises(ServerLoginError) as caught:
        log_in(server, user, "wrong")
    assert caught.value.sqlstate == "28P01"
    assert caught.value.server_message == (
        f'password authentication failed for user "{user}"'
    )


def test_bad_parameter_value(server: Postgres) -> None:
    with pytest.raises(ServerLoginError) as caught:
        log_in(server, "by_trust", None, DateStyle="nonsense")
    assert caught.value.sqlstate == "22023"
