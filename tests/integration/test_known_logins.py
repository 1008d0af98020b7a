# SPDX-License-Identifier: MIT
"""Logins that the engine leads alone: told what Python tells, and forgotten in time."""

from __future__ import annotations

import os
import re
import resource
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pooler.config import loading, travel
from pooler.login import packets
from pooler.login.md5 import md5_response, md5_secret
from pooler.login.scram import Verifier
from pooler.login.server import ServerLogin
from tests.certificates import Certificates, make_certificates
from tests.integration.harness import (
    DATABASE,
    HOST,
    USER,
    InProcess,
    MakePooler,
    wait_until,
)
from tests.wire_client import (
    SSL_REQUEST,
    ConnectionEnded,
    Message,
    WireClient,
    message,
    messages_in,
    query,
    startup,
    text,
)

pytestmark = pytest.mark.timeout(60)

PASSWORD = "pass wörd"
SECRETS = {
    USER: PASSWORD,
    "md5_user": md5_secret(PASSWORD, "md5_user"),
    "scram_user": Verifier.from_password(PASSWORD, 4096).to_text(),
}
# What ``logged_in`` begins with.
PACKET = ServerLogin(USER, DATABASE, PASSWORD, {}).start()
MakeWorker = Callable[..., InProcess]


def userlist(secrets: dict[str, str]) -> str:
    return "".join(f'"{user}" "{secret}"\n' for user, secret in secrets.items())


@dataclass
class Site:
    """A worker with an auth_file, whose servers are all reached as one user."""

    make: MakeWorker
    folder: Path
    settings: dict[str, Any]
    secrets: dict[str, str] = field(default_factory=lambda: dict(SECRETS))

    def __post_init__(self) -> None:
        self.auth_file = self.folder / "userlist.txt"
        self.write()
        self.worker = self.make(auth_file=self.auth_file, **self.settings)
        self.ini = Path(str(self.worker.worker._pools.config.path))
        self.edit("* =", f"* = user={USER} host={HOST}")

    def write(self) -> None:
        self.auth_file.write_text(userlist(self.secrets))

    def edit(self, old: str, new: str) -> None:
        """Change the configuration and reload it."""
        lines = self.ini.read_text()
        assert old in lines
        self.ini.write_text(lines.replace(old, new))
        self.reload()

    def reload(self) -> None:
        policy = self.worker.worker._admission._policy
        packed = travel.pack(loading.load(self.ini))
        self.worker._bus.send(0, "reload", {"number": 1}, [packed])
        os.close(packed)
        wait_until(
            lambda: self.worker.worker._admission._policy is not policy, "reload"
        )

    @property
    def known(self) -> int:
        """How many logins Python has not led."""
        return self.worker.counters()["known_logins"]


@pytest.fixture
def site(worker_in_process: MakeWorker, tmp_path: Path) -> Callable[..., Site]:
    return lambda **settings: Site(worker_in_process, tmp_path, settings)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@dataclass
class Login:
    """One client's login, and all it has heard."""

    socket: socket.socket
    heard: bytes = b""

    def messages(self) -> list[Message]:
        """All that it has heard, without what is random."""
        return [plain(one) for one in messages_in(self.heard)]


def plain(one: Message) -> Message:
    """A message without what is new each time."""
    body = one.body
    if one.code == "K":
        body = bytes(len(body))
    elif one.code == "R" and body[3] == packets.AUTH_MD5:
        body = body[:4]
    elif one.code == "R" and body[3] == packets.AUTH_SASL_CONTINUE:
        body = re.sub(rb"r=[^,]*", b"r=", body)
    elif one.code == "R" and body[3] == packets.AUTH_SASL_FINAL:
        body = body[:6]
    return Message(one.code, body)


@contextmanager
def logged_in(
    site: Site,
    user: str = USER,
    password: str = PASSWORD,
    *,
    piece: int = 0,
    first: bytes = b"",
    source: str = HOST,
    database: str = DATABASE,
    **parameters: str,
) -> Iterator[Login]:
    """Log in with our own half for servers."""
    other = ServerLogin(user, database, password, parameters)
    with socket.create_connection(
        (HOST, site.worker.port), timeout=10, source_address=(source, 0)
    ) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        login = Login(link)
        if first:
            link.sendall(first)
            assert link.recv(1) == b"N"
        going, coming = other.start(), b""
        while other.greeting is None:
            for at in range(0, len(going), piece or max(1, len(going))):
                link.sendall(going[at : at + (piece or len(going))])
            data = link.recv(65536)
            if not data:
                raise ConnectionEnded(login.heard)
            login.heard += data
            coming += data
            consumed, going = other.receive(coming)
            coming = coming[consumed:]
        yield login


def twice(site: Site, *args: Any, **options: Any) -> list[Message]:
    """Log in twice: by Python, then by the engine; what the latter was told."""
    before = site.known
    with logged_in(site, *args, **options) as slow:
        assert site.known == before
        with logged_in(site, *args, **options) as fast:
            assert site.known == before + 1
            assert fast.messages() == slow.messages()
            assert fast.heard != slow.heard  # its key is its own
            return fast.messages()


def refused(site: Site, *args: Any, **options: Any) -> str:
    with (
        pytest.raises((ConnectionEnded, Exception)) as caught,
        logged_in(site, *args, **options),
    ):
        raise AssertionError("was let in")
    return str(caught.value)


METHODS = {
    "trust": tuple(SECRETS),
    "any": (*SECRETS, "nobody"),
    "plain": (USER, "md5_user"),
    "md5": tuple(SECRETS),
    "scram-sha-256": (USER, "scram_user"),
}


@pytest.mark.parametrize("method", METHODS)
def test_the_engine_tells_what_python_tells(
    site: Callable[..., Site], method: str
) -> None:
    here = site(auth_type=method)
    for user in METHODS[method]:
        told = twice(here, user)
        assert [one.code for one in told[-2:]] == ["K", "Z"]
        twice(here, user, TimeZone="Asia/Tokyo", application_name="x" * 70)
        for piece in (1, 7):
            before = here.known
            with logged_in(here, user, piece=piece, first=SSL_REQUEST) as login:
                assert login.messages() == told
                assert here.known == before + 1


def test_negotiation_and_longer_keys(site: Callable[..., Site]) -> None:
    here = site(auth_type="trust")
    body = b"user\0app\0database\0bench\0_pq_.new\0x\0\0"
    packet = struct.pack("!II", len(body) + 8, 0x0003_0063) + body
    told = []
    for known in (0, 1):
        with WireClient(here.worker.port) as client:
            client.send(packet)
            told.append([plain(one) for one in client.read_until("Z")])
        assert here.known == known
    assert told[0] == told[1]
    assert told[0][0].code == "v"
    assert [len(one.body) for one in told[0] if one.code == "K"] == [36]


def test_a_query_glued_to_the_login(site: Callable[..., Site]) -> None:
    here = site(auth_type="plain")
    password = message("p", text(PASSWORD))
    login = PACKET + password + query("SELECT 7")
    for known in (0, 1, 2):
        with WireClient(here.worker.port) as client:
            client.send(login)
            client.read_until("Z")
            assert client.read_until("Z")[1].row == [b"7"]
        assert here.known == known


def test_cancel_keys_reach_their_clients(site: Callable[..., Site]) -> None:
    here = site(auth_type="trust")
    clients = [here.worker.client() for _ in range(3)]
    assert here.known == 2
    assert len({client.key for client in clients}) == 3
    clients[1].send(query("SELECT pg_sleep(30)"))
    wait_until(lambda: here.worker.engine.pool_stats(0)["active"] == 1, "runs")
    with WireClient(here.worker.port) as canceller:
        canceller.send(struct.pack("!II", 16, 80877102) + clients[1].key)
        assert clients[1].read_until("Z")[-2].fields["C"] == "57014"
    for client in clients:
        client.close()


@pytest.mark.parametrize("method", ["plain", "md5", "scram-sha-256"])
def test_wrong_proofs(site: Callable[..., Site], method: str) -> None:
    """Who has failed is not known any more: the next one costs what all others do."""
    here = site(auth_type=method)
    unknown = refused(here, USER, "wrong")
    twice(here)
    before = here.known
    assert refused(here, USER, "wrong") == unknown
    with logged_in(here):
        assert here.known == before
    with logged_in(here):
        assert here.known == before + 1


@pytest.mark.parametrize(
    "answer",
    [
        b"X\0\0\0\x04",
        b"p\0\0\0\x03",
        b"p\x7f\0\0\0",
        message("p", b"no end"),
        message("p", text("")),
        message("p", text("SCRAM-SHA-1") + b"\0\0\0\0"),
    ],
    ids=lambda answer: answer[:5].hex(),
)
@pytest.mark.parametrize("method", ["plain", "md5", "scram-sha-256"])
def test_what_is_no_proof_ends_alike(
    site: Callable[..., Site], method: str, answer: bytes
) -> None:
    here = site(auth_type=method)
    ends = []
    for known in (0, 1):
        if known:
            twice(here)
        with WireClient(here.worker.port) as client:
            client.send(PACKET)
            client.read()
            client.send(answer)
            ends.append([one.fields for one in client.read_to_end()])
    assert ends[0] == ends[1]


def test_somebody_from_elsewhere_is_not_known(site: Callable[..., Site]) -> None:
    here = site(auth_type="scram-sha-256")
    twice(here)
    before = here.known
    with logged_in(here, source="127.0.0.2"):
        assert here.known == before
    with logged_in(here, source="127.0.0.2"), logged_in(here):
        assert here.known == before + 2


def test_a_reload_forgets(site: Callable[..., Site]) -> None:
    here = site(auth_type="scram-sha-256")
    twice(here)
    here.secrets[USER] = "another"
    here.write()
    here.reload()
    assert "SASL authentication failed" in refused(here)
    twice(here, password="another")
    del here.secrets[USER]
    here.write()
    here.reload()
    assert "SASL authentication failed" in refused(here, password="another")
    twice(here, "scram_user")
    here.edit("* =", "only =")
    assert "no such database" in refused(here, "scram_user")


def test_a_reload_of_hba_forgets(site: Callable[..., Site], tmp_path: Path) -> None:
    rules = tmp_path / "hba.conf"
    rules.write_text("host all all 127.0.0.1/32 trust\n")
    here = site(auth_type="hba", auth_hba_file=rules)
    twice(here)
    before = here.known
    assert "login rejected" in refused(here, source="127.0.0.2")
    assert here.known == before
    rules.write_text("host all all 127.0.0.2/32 trust\n")
    here.reload()
    assert "login rejected" in refused(here)


@pytest.mark.parametrize("changed", [False, True], ids=["same", "changed"])
@pytest.mark.parametrize("method", ["plain", "md5"])
def test_a_reload_between_question_and_proof(
    site: Callable[..., Site], method: str, changed: bool
) -> None:
    """The proof is worth what it is worth today."""
    here = site(auth_type=method)
    twice(here)
    with WireClient(here.worker.port) as client:
        client.send(PACKET)
        asked = client.read().body
        if changed:
            here.secrets[USER] = "another"
            here.write()
        here.reload()
        answer = PASSWORD
        if method == "md5":
            answer = md5_response(md5_secret(PASSWORD, USER), asked[4:])
        client.send(message("p", text(answer)), query("SELECT 7"))
        if changed:
            said = client.read_fatal()
            assert (said["C"], said["M"]) == ("28P01", "password authentication failed")
        else:
            client.read_until("Z")
            assert client.read_until("Z")[1].row == [b"7"]


def test_limits_hold(site: Callable[..., Site]) -> None:
    here = site(auth_type="trust", max_client_conn=3)
    twice(here)
    here.worker.wait_for_clients_to_leave()
    clients = [here.worker.client() for _ in range(3)]
    before = here.known
    with WireClient(here.worker.port) as client:
        client.send(PACKET)
        assert client.read_fatal()["C"] == "53300"
    assert here.known == before
    clients.pop().close()
    wait_until(lambda: here.worker.engine.client_count == 2, "one leaves")
    with WireClient(here.worker.port) as client:
        client.send(PACKET)
        client.read_until("Z")
        assert here.known == before + 1
        assert here.worker.board.get(0, "clients") == 3
    for client in clients:
        client.close()


def test_words_that_have_changed_are_forgotten(site: Callable[..., Site]) -> None:
    here = site(auth_type="trust")
    twice(here, TimeZone="utc")
    before = here.known
    pool = here.worker.worker._pools.by_id(0)
    assert pool is not None
    done: list[None] = []

    def learn() -> None:
        pool.words.learn("TimeZone", "utc", "Etc/UTC")
        done.append(None)

    here.worker.loop.call_soon_threadsafe(learn)
    wait_until(lambda: done, "learned")
    with logged_in(here, TimeZone="utc") as login:
        assert here.known == before
        assert b"Etc/UTC" in login.heard


def test_a_client_that_says_nothing_more(site: Callable[..., Site]) -> None:
    """In the midst of a proof it leaves, or is closed after client_login_timeout."""
    here = site(auth_type="scram-sha-256", client_login_timeout=0.5)
    twice(here)
    with WireClient(here.worker.port) as gone, WireClient(here.worker.port) as silent:
        gone.send(PACKET)
        silent.send(PACKET)
        assert gone.read().code == silent.read().code == "R"
        gone.reset()
        assert silent.read_fatal()["M"] == "client_login_timeout"
    here.worker.wait_for_clients_to_leave()


def lines_of(caplog: pytest.LogCaptureFixture, beginning: str) -> list[str]:
    """What was logged of clients, without handles and ports."""
    lines = [
        f"{getattr(record, 'tag', '')} {record.getMessage()}"
        for record in caplog.records
        if record.getMessage().startswith(beginning)
    ]
    return [re.sub(r"C-0x\w+|:\d+ ", "", line) for line in lines]


def test_the_log_says_who(
    site: Callable[..., Site], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pooler")
    here = site(auth_type="scram-sha-256")
    twice(here, "scram_user")
    here.worker.wait_for_clients_to_leave()
    wait_until(lambda: len(lines_of(caplog, "closing because")) == 2, "lines")
    for beginning in ("login attempt: db=bench user=scram_user", "closing because"):
        slow, fast = lines_of(caplog, beginning)
        assert slow == fast
    twice(here)
    before = lines_of(caplog, "pooler error")
    refused(here, USER, "wrong")  # by the engine
    refused(here, USER, "wrong")  # by Python
    slow, fast = lines_of(caplog, "pooler error")[len(before) :]
    assert slow == fast
    assert "wrong password" in fast
    assert f"{DATABASE}/{USER}@{HOST}" in fast


def test_a_known_login_costs_no_python(site: Callable[..., Site]) -> None:
    here = site(auth_type="scram-sha-256", log_connections=0, log_disconnections=0)
    twice(here)
    here.worker.wait_for_clients_to_leave()
    before, began = here.worker.counters(), time.monotonic()
    for _ in range(50):
        with logged_in(here):
            pass
    after, took = here.worker.counters(), time.monotonic() - began
    here.worker.wait_for_clients_to_leave()
    assert after["known_logins"] - before["known_logins"] == 50
    assert after["python"] - before["python"] <= 2 * (took * 3 + 1)
    # the question, the challenge, and the rest with the greeting in one
    assert after["sends"] - before["sends"] == 150


@pytest.mark.parametrize("binding", ["disable", "require"])
def test_by_tls(
    site: Callable[..., Site], certificates: Certificates, binding: str
) -> None:
    here = site(
        auth_type="scram-sha-256",
        client_tls_sslmode="allow",
        client_tls_key_file=certificates.key_file,
        client_tls_cert_file=certificates.cert_file,
    )
    # the first in the clear, and the first by TLS, are Python's
    tries = (("disable", 0), ("require", 0), ("require", 1), ("disable", 2))
    for sslmode, known in tries:
        with psycopg.connect(
            host=HOST,
            port=here.worker.port,
            dbname=DATABASE,
            user="scram_user",
            password=PASSWORD,
            sslmode=sslmode,
            channel_binding=binding if sslmode == "require" else "disable",
        ) as link:
            row = link.execute("SELECT 7").fetchone()
            assert row == (7,)
            assert link.pgconn.ssl_in_use == (sslmode == "require")
        assert here.known == known
    before = here.known
    here.reload()
    with WireClient(here.worker.port) as client:
        client.send(SSL_REQUEST + b"x")
        assert "unencrypted data after SSL request" in client.read_fatal()["M"]
    assert here.known == before


def test_secrets_that_were_asked_for(site: Callable[..., Site]) -> None:
    """They count as long as the answer does, and not after a wrong password."""
    here = site(
        auth_type="scram-sha-256",
        auth_user=USER,
        auth_query="SELECT $1::text, 'found'",
        auth_query_cache_ttl=60,
    )
    for name in ("one", "two"):
        twice(here, "asked", "found", application_name=name)
    before = here.known
    assert "SASL authentication failed" in refused(
        here, "asked", "wrong", application_name="one"
    )
    for name in ("one", "two"):
        with logged_in(here, "asked", "found", application_name=name):
            assert here.known == before
    here.edit("auth_query_cache_ttl = 60", "auth_query_cache_ttl = 0.5")
    with logged_in(here, "asked", "found"):
        assert here.known == before

    def is_asked_again() -> bool:
        known = here.known
        with logged_in(here, "asked", "found"):
            return here.known == known

    wait_until(is_asked_again, "the answer has run out")
    here.edit("auth_query_cache_ttl = 0.5", "auth_query_cache_ttl = 0")
    before = here.known
    for _ in range(2):
        with logged_in(here, "asked", "found"):
            assert here.known == before


class Newcomer:
    """One of many who log in at once, by md5."""

    def __init__(self, port: int, user: str) -> None:
        self.user = user
        self.heard = b""
        self.is_in = False
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex((HOST, port))

    def writable(self) -> None:
        self.socket.send(startup(self.user, DATABASE))

    def readable(self) -> bool:
        """Take what has come; whether it is over."""
        data = self.socket.recv(65536)
        asked = not self.heard
        self.heard += data
        if asked and data:
            secret = SECRETS[self.user]
            secret = secret if secret.startswith("md5") else md5_secret(secret, USER)
            answer = md5_response(secret, data[9:13])
            self.socket.send(message("p", text(answer)))
        self.is_in = self.heard.endswith(b"Z\0\0\0\x05I")
        return self.is_in or not data


def log_in_together(port: int, users: list[str]) -> int:
    """How many are let in."""
    with selectors.DefaultSelector() as selector:
        everybody = [Newcomer(port, user) for user in users]
        for one in everybody:
            selector.register(one.socket, selectors.EVENT_WRITE, one)
        while selector.get_map():
            ready = selector.select(30)
            assert ready, "nothing happens any more"
            for key, mask in ready:
                if mask == selectors.EVENT_WRITE:
                    key.data.writable()
                    selector.modify(key.fileobj, selectors.EVENT_READ, key.data)
                elif key.data.readable():
                    selector.unregister(key.fileobj)
        for one in everybody:
            one.socket.close()
    return sum(one.is_in for one in everybody)


def test_two_thousand_at_once(make_pooler: MakePooler) -> None:
    """None fails, known or not; a client at work goes on."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    pooler = make_pooler(
        {DATABASE: f"user={USER}"},
        userlist(SECRETS),
        auth_type="md5",
        max_client_conn=2500,
        listen_backlog=4096,
        log_connections=0,
        log_disconnections=0,
    )
    with pooler.connect(user=USER, password=PASSWORD) as at_work:
        for user in (USER, "md5_user"):
            assert log_in_together(pooler.port, [user] * 2000) == 2000
            assert at_work.execute("SELECT 7").fetchone() == (7,)
            wait_until(lambda: pooler.sockets_of_workers() == 1, "they leave")
    assert "no more connections" not in pooler.log()


def test_disable_forgets(make_pooler: MakePooler) -> None:
    pooler = make_pooler(
        {DATABASE: ""},
        f'"{USER}" ""\n"chief" ""\n',
        auth_type="trust",
        admin_users="chief",
    )

    def answer() -> object:
        with pooler.connect() as link:
            return link.execute("SELECT 7").fetchone()

    for _ in range(3):
        assert answer() == (7,)
    with pooler.connect("pgbouncer", "chief", autocommit=True) as console:
        console.execute(f"DISABLE {DATABASE}")
        with pytest.raises(psycopg.OperationalError, match="is disabled"):
            answer()
        console.execute(f"ENABLE {DATABASE}")
        assert answer() == (7,)
        console.execute("SET max_client_conn = 1")
        with (
            pooler.connect(),
            pytest.raises(psycopg.OperationalError, match="max_client_conn"),
        ):
            answer()
