# SPDX-License-Identifier: MIT
"""A login that waits for what is asked elsewhere: nobody else waits with it."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from pooler.errors import LoginError
from pooler.login.outcomes import NeedVerdict
from pooler.login.policy import AuthMethod
from pooler.login.scram import Verifier
from tests.certificates import make_certificates
from tests.integration.harness import (
    DATABASE,
    HOST,
    USER,
    Derivations,
    InProcess,
    wait_until,
)
from tests.wire_client import (
    SSL_REQUEST,
    WireClient,
    codes,
    message,
    query,
    startup,
    text,
)

pytestmark = pytest.mark.timeout(30)

START = startup(USER, DATABASE)
PASSWORD = message("p", text("secret"))


class Judge:
    """Says what it is told to, when it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[NeedVerdict, str]] = []
        self.answers: list[asyncio.Future[str]] = []
        self.cancelled = 0

    async def __call__(self, question: NeedVerdict, host: str) -> str:
        self.asked.append((question, host))
        self.answers.append(asyncio.get_running_loop().create_future())
        try:
            return await self.answers[-1]
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


class Judged:
    """A worker where ``auth_type`` is pam, and the judge is ours."""

    def __init__(self, worker: InProcess) -> None:
        self.worker = worker
        self.judge = Judge()
        self.admission = worker.worker._admission
        self.admission.judges[AuthMethod.PAM] = self.judge

    def set_method(self, method: AuthMethod) -> None:
        self.admission._policy = dataclasses.replace(
            self.admission._policy, method=method
        )

    def call(self, what: Callable[[], object]) -> None:
        self.worker.loop.call_soon_threadsafe(what)

    def ask(self, *more: bytes, tls: ssl.SSLContext | None = None) -> WireClient:
        """A client whose password is being judged."""
        count = len(self.judge.answers)
        self.set_method(AuthMethod.PAM)
        client = WireClient(self.worker.port)
        if tls is not None:
            client.send(SSL_REQUEST)
            assert client.read_exactly(1) == b"S"
            client.socket = tls.wrap_socket(client.socket, server_hostname="localhost")
        client.send(START)
        assert client.read().code == "R"
        client.send(PASSWORD, *more)
        wait_until(lambda: len(self.judge.answers) > count, "the judge is asked")
        return client


@pytest.fixture
def judged(worker_in_process: Callable[..., InProcess]) -> Judged:
    return Judged(worker_in_process(client_login_timeout=60))


def test_others_go_on_while_one_is_judged(judged: Judged) -> None:
    with judged.ask(query("SELECT 7")) as waits, judged.ask() as wrong:
        question, host = judged.judge.asked[0]
        assert (question.user, question.password) == (USER, "secret")
        assert host == "127.0.0.1"
        judged.set_method(AuthMethod.ANY)
        with judged.worker.client() as other:
            assert other.value("SELECT 1") == "1"
        judged.call(lambda: judged.judge.answers[0].set_result(""))
        waits.read_greeting()
        assert codes(waits.read_until("Z")) == "TDCZ"  # its query has waited with it
        judged.call(lambda: judged.judge.answers[1].set_result("PAM says no"))
        said = wrong.read_fatal()
        assert (said["M"], said["C"]) == ("PAM authentication failed", "28P01")


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (LoginError("bouncer config error", why="no such service"), "bouncer config"),
        (RuntimeError("broken judge"), "internal error"),
    ],
)
def test_a_judge_that_cannot_say(judged: Judged, failure: Exception, told: str) -> None:
    with judged.ask() as client:
        judged.call(lambda: judged.judge.answers[0].set_exception(failure))
        said = client.read_fatal()
        assert told in said["M"]
        assert "judge" not in said["M"]
        assert "service" not in said["M"]


@pytest.mark.parametrize("reset", [True, False])
def test_nobody_is_asked_for_a_client_that_has_left(
    judged: Judged, reset: bool
) -> None:
    client = judged.ask()
    if reset:
        client.reset()
    else:
        client.close()
    wait_until(lambda: judged.judge.cancelled, "the question is taken back", 5)
    judged.worker.wait_for_clients_to_leave()
    assert judged.admission._arrivals == {}


def test_client_login_timeout_goes_on(
    worker_in_process: Callable[..., InProcess],
) -> None:
    judged = Judged(worker_in_process(client_login_timeout=0.3))
    with judged.ask() as client:
        assert client.read_fatal()["M"] == "client_login_timeout"
    wait_until(lambda: judged.judge.cancelled, "the question is taken back", 5)


@pytest.mark.parametrize("by_tls", [False, True])
def test_what_comes_meanwhile_is_bounded_and_not_lost(
    worker_in_process: Callable[..., InProcess], tmp_path: Path, by_tls: bool
) -> None:
    """A pipelined query of some MiB behind the password: most of it waits outside."""
    certificates = make_certificates(tmp_path / "tls")
    judged = Judged(
        worker_in_process(
            client_tls_sslmode="allow",
            client_tls_cert_file=certificates.cert_file,
            client_tls_key_file=certificates.key_file,
        )
    )
    context = ssl.create_default_context(cafile=certificates.ca_file)
    size = 8 << 20
    pieces = [b"SELECT length('", b"x" * size, b"')"]
    long = message("Q", b"".join(pieces) + b"\0")
    with judged.ask(tls=context if by_tls else None) as client:
        client.socket.setblocking(False)
        sent = 0

        def is_full() -> bool:
            nonlocal sent
            try:
                sent += client.socket.send(long[sent : sent + 65536])
            except (BlockingIOError, ssl.SSLWantWriteError):
                return True
            return False

        wait_until(is_full, "nothing more is taken")
        assert sent < size
        (handle,) = judged.admission._arrivals
        held = asyncio.run_coroutine_threadsafe(
            _bytes_held(judged, handle), judged.worker.loop
        ).result(10)
        assert held <= 16384
        judged.call(lambda: judged.judge.answers[0].set_result(""))
        client.socket.settimeout(10)
        client.send(long[sent:])
        client.read_greeting()
        answer = client.read_until("Z")
        assert answer[1].row == [str(size).encode()]


async def _bytes_held(judged: Judged, handle: int) -> int:
    return len(judged.worker.engine.login_bytes(handle))


# ------------------------------------------------------------ hashes


SECRETS = {
    "scram-sha-256": ("costly", "a secret"),  # no verifier is there yet
    "plain": ("verified", Verifier.from_password("a secret", 2).to_text()),
}


@pytest.mark.parametrize("method", SECRETS)
@pytest.mark.parametrize("password", ["a secret", "wrong"])
def test_hashes_of_a_login_hold_nobody_up(
    worker_in_process: Callable[..., InProcess],
    tmp_path: Path,
    derivations: Derivations,
    method: str,
    password: str,
) -> None:
    """They are made in a thread; others log in and run their queries meanwhile."""
    user, secret = SECRETS[method]
    auth_file, rules = tmp_path / "userlist.txt", tmp_path / "hba.conf"
    auth_file.write_text(f'"{user}" "{secret}"\n"{USER}" ""\n')
    line = {"plain": "password"}.get(method, method)
    rules.write_text(f"host all {USER} all trust\nhost all {user} all {line}\n")
    worker = worker_in_process(
        auth_type="hba", auth_file=auth_file, auth_hba_file=rules
    )

    def log_in() -> str:
        try:
            psycopg.connect(
                host=HOST,
                port=worker.port,
                user=user,
                password=password,
                dbname=DATABASE,
            )
        except psycopg.OperationalError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(1) as pool:
        said = pool.submit(log_in)
        wait_until(lambda: derivations.asked, "hashes are wanted")
        with worker.client() as other:
            assert other.value("SELECT 1") == "1"
        assert not said.done()
        derivations.may_go.set()
        # Behind the proof, the server does not know the user.
        right = f'role "{user}" does not exist' in said.result()
    assert right == (password == "a secret"), said.result()
    assert len(derivations.asked) == 1
