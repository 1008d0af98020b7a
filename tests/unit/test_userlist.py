# SPDX-License-Identifier: MIT
"""The auth_file: quoting, kinds of secrets, and what a damaged line says."""

from __future__ import annotations

import base64
import contextlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.config.userlist import (
    Secret,
    SecretKind,
    format_user,
    parse_scram,
    parse_secret,
    parse_userlist,
)
from pooler.errors import ConfigError

SALT = base64.b64encode(b"s" * 16).decode()
KEY = base64.b64encode(b"k" * 32).decode()
SHORT_KEY = base64.b64encode(b"k" * 31).decode()
SCRAM = f"SCRAM-SHA-256$4096:{SALT}${KEY}:{KEY}"
MD5 = "md5" + "0123456789abcdef" * 2

one_line = st.text(
    st.characters(codec="utf-8", exclude_characters="\n"), max_size=30
).filter(lambda text: len(text.encode()) <= 127)


def plain(text: str) -> Secret:
    return Secret(SecretKind.PLAIN, text)


def test_lines() -> None:
    text = (
        "; a comment\n"
        "\n"
        '"app" "hunter2"\r\n'
        '  "we""ird" "a""b" and the rest is ignored\n'
        f'"hash" "{MD5}"\n'
        f'"scram" "{SCRAM}" ""\n'
        '"off" ""\n'
        '"with space"\t"x y"\n'
        '"last" "no newline"'
    )
    assert parse_userlist(text, "users.txt") == {
        "app": plain("hunter2"),
        'we"ird': plain('a"b'),
        "hash": Secret(SecretKind.MD5, MD5),
        "scram": Secret(SecretKind.SCRAM, SCRAM),
        "off": plain(""),
        "with space": plain("x y"),
        "last": plain("no newline"),
    }


def test_a_token_may_stand_for_a_password() -> None:
    token = '"' + "s" * 65_530
    assert parse_userlist(format_user("a", token), "u") == {"a": plain(token)}


def test_the_last_line_of_a_user_counts() -> None:
    assert parse_userlist('"a" "1"\n"a" "2"', "u") == {"a": plain("2")}


def test_an_empty_secret_is_told_apart() -> None:
    assert plain("").is_empty
    assert not plain("x").is_empty


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("# comment", 'a comment begins with ";"'),
        ("app hunter2", "both in double quotes"),
        ('"app"', "both in double quotes"),
        ('"app" "hunter2', "both in double quotes"),
        ('"app', "both in double quotes"),
        (f'"{"x" * 128}" "s"', "longer than 127 bytes"),
        (f'"{"é" * 64}" "s"', "longer than 127 bytes"),
        (f'"a" "{"s" * 65_532}"', "longer than 65531 bytes"),
        ('"a" "md5' + "g" * 32 + '"', "32 hexadecimal digits"),
        (f'"a" "md5{MD5[3:].upper()}"', "32 hexadecimal digits"),
        ('"a" "SCRAM-SHA-256$4096"', "SCRAM-SHA-256$<iterations>"),
        (f'"a" "{SCRAM.replace("4096", "0")}"', "from 1 to 10000000"),
        (f'"a" "{SCRAM.replace("4096", "10000001")}"', "from 1 to 10000000"),
        (f'"a" "{SCRAM.replace(SALT, "abc")}"', "base64"),
        (f'"a" "{SCRAM.replace(KEY, SHORT_KEY)}"', "of 32 bytes"),
        (f'"a" "{SCRAM}x"', "SCRAM"),
    ],
)
def test_a_broken_line_is_named_without_its_secret(line: str, problem: str) -> None:
    text = f'"first" "ok"\n{line}\n'
    with pytest.raises(ConfigError) as caught:
        parse_userlist(text, "users.txt")
    assert str(caught.value).startswith("users.txt:2: ")
    assert problem in str(caught.value)
    for secret in ("hunter2", SALT, KEY, "ssss"):
        assert secret not in str(caught.value)


@pytest.mark.parametrize("text", ["md5isbroken", "md5", "SCRAM", "x"])
def test_plain_secrets_that_look_like_others(text: str) -> None:
    assert parse_secret(text) == plain(text)


def test_scram_parts() -> None:
    verifier = parse_scram(SCRAM)
    assert verifier.iterations == 4096
    assert verifier.salt == b"s" * 16
    assert verifier.stored_key == verifier.server_key == b"k" * 32
    assert "ssss" not in repr(verifier)
    assert "kkkk" not in repr(verifier)


def test_no_repr_shows_a_secret() -> None:
    users = parse_userlist('"app" "hunter2"', "u")
    assert "hunter2" not in f"{users} {users['app']!r} {users['app']}"


@given(name=one_line, secret=one_line)
def test_quoting_is_read_back(name: str, secret: str) -> None:
    try:
        users = parse_userlist(format_user(name, secret), "u")
    except ConfigError:
        # Only a text that claims to be a hash can be refused.
        assert secret.startswith(("md5", "SCRAM-SHA-256$"))
    else:
        assert list(users) == [name]
        assert users[name].text == secret


@given(st.text() | st.text(st.sampled_from('"; \n\tamd5' + string.hexdigits)))
def test_garbage_is_a_config_error_or_users(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_userlist(text, "u")


@given(st.text(st.sampled_from("SCRAMH-256$:4096=+/ab"), max_size=200))
def test_garbage_behind_the_prefix(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_userlist(format_user("a", "SCRAM-SHA-256$" + text), "u")
