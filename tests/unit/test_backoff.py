# SPDX-License-Identifier: MIT
"""Pauses between logins to a server that fails, with a clock of the test's own."""

from __future__ import annotations

import random

import pytest

from pooler.errors import LocalResourceError, LoginError
from pooler.login.server import ServerLoginError
from pooler.worker.backoff import LOGINS_AT_ONCE, Backoff, is_hopeless

REFUSED = LoginError("connect failed: Connection refused", "08001")
WRONG = ServerLoginError("server login failed: no", "28P01", "no")
STARTING = ServerLoginError("server login failed: starts", "57P03", "starts")
FULL = ServerLoginError("server login failed: too many clients", "53300", "too many")
NO_DATABASE = ServerLoginError("server login failed: none", "3D000", "none")
NO_SECRET = ServerLoginError("no password", "28P01", None)
RETRY_S = 15.0


@pytest.fixture
def backoff() -> Backoff:
    return Backoff(random.Random(7))


@pytest.mark.parametrize(
    ("error", "hopeless"),
    [
        (REFUSED, False),
        (STARTING, False),
        (FULL, False),
        (ServerLoginError("shuts down", "57P01", "shuts down"), False),
        (LocalResourceError("connect failed: too many files"), False),
        (WRONG, True),
        (NO_DATABASE, True),
        (NO_SECRET, True),
        (LoginError("what answers is no PostgreSQL"), True),
    ],
)
def test_what_passes_by_itself(error: LoginError, hopeless: bool) -> None:
    assert is_hopeless(error) is hopeless


def pauses(backoff: Backoff, error: LoginError, count: int) -> list[float]:
    now_s, found = 100.0, []
    for _ in range(count):
        backoff.failed(error, now_s, RETRY_S)
        found.append(backoff.pause_s(now_s))
        now_s += found[-1] + 0.01
        assert backoff.pause_s(now_s) == 0
        assert backoff.room(0) == 1, "one goes ahead"
        assert backoff.room(1) == 0
    return found


def test_what_passes_is_tried_sooner_and_then_rarely(backoff: Backoff) -> None:
    found = pauses(backoff, REFUSED, 8)
    for pause, least in zip(found, [1.875, 3.75, 7.5, *[15] * 5], strict=True):
        assert least <= pause <= 1.2 * least
    assert len({round(pause, 3) for pause in found[3:]}) > 1, "they are spread"


def test_what_was_refused_is_left_alone(backoff: Backoff) -> None:
    assert min(pauses(backoff, WRONG, 3)) >= RETRY_S


def test_failures_side_by_side_are_one(backoff: Backoff) -> None:
    for _ in range(LOGINS_AT_ONCE):
        backoff.failed(REFUSED, 100.0, RETRY_S)
    assert backoff.pause_s(100.0) < 2.5


def test_one_that_logs_in_opens_the_gate(backoff: Backoff) -> None:
    backoff.failed(REFUSED, 100.0, RETRY_S)
    backoff.opened(102.9, 103.0)
    assert backoff.pause_s(103.0) == 0
    assert backoff.room(1) == LOGINS_AT_ONCE - 1


def test_a_login_that_began_before_the_failure_opens_nothing(backoff: Backoff) -> None:
    backoff.failed(REFUSED, 100.0, RETRY_S)
    backoff.opened(99.9, 100.1)
    assert backoff.pause_s(100.1) > 1


def test_servers_that_die_at_once_are_not_opened_for_ever(backoff: Backoff) -> None:
    now_s, logins = 100.0, 0
    while now_s < 200:
        logins += 1
        backoff.opened(now_s, now_s)
        backoff.failed(LoginError("server connection closed", "08001"), now_s, RETRY_S)
        now_s += backoff.pause_s(now_s) + 0.001
    assert logins < 12
    backoff.opened(now_s, now_s)
    backoff.failed(REFUSED, now_s + 60, RETRY_S)
    assert backoff.pause_s(now_s + 60) < 2.5, "it had served for a minute"


def test_no_pause_at_all_is_a_short_one(backoff: Backoff) -> None:
    backoff.failed(REFUSED, 100.0, 0)
    assert backoff.pause_s(100.0) >= 0.1
    backoff.forget()
    assert backoff.pause_s(100.0) == 0
    backoff.failed(WRONG, 100.0, 0)
    assert backoff.pause_s(100.0) == 0


def test_who_has_heard_of_a_failure_tries_later_than_who_has_failed() -> None:
    ours, theirs = Backoff(random.Random(1)), Backoff(random.Random(2))
    now_s = 100.0
    for failures in range(1, 5):
        assert theirs.failed(REFUSED, now_s, RETRY_S)
        assert theirs.failures == failures
        ours.heard(
            LoginError(REFUSED.message, REFUSED.sqlstate),
            now_s,
            pause_s=theirs.pause_s(now_s),
            failures=theirs.failures,
            hopeless=theirs.hopeless,
        )
        assert theirs.pause_s(now_s) < ours.pause_s(now_s) < 1.5 * RETRY_S
        assert not ours.hopeless
        now_s += theirs.pause_s(now_s)
    assert not ours.failed(REFUSED, now_s, RETRY_S), "its pause goes on"


def test_what_was_heard_is_said_to_those_who_come(backoff: Backoff) -> None:
    backoff.heard(
        LoginError("no such database", "3D000"),
        100.0,
        pause_s=15.0,
        failures=1,
        hopeless=True,
    )
    assert backoff.hopeless
    assert "cached error: no such database" in backoff.cached().message
    assert backoff.opened(100.5, 101.0)
    assert backoff.pause_s(101.0) == 0
    assert not backoff.opened(101.0, 102.0), "there was nothing to forget"
