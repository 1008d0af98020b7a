# SPDX-License-Identifier: MIT
"""LDAP options: what PostgreSQL means by them, and names that try to mean more."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.config.hbafile import read_words
from pooler.config.ldap import (
    LdapOptions,
    Scope,
    escape_dn_value,
    read_ldap_options,
    split_options,
)
from pooler.errors import ConfigError


def options(text: str) -> LdapOptions:
    return read_ldap_options(split_options(read_words(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # The examples of PostgreSQL's documentation.
        (
            'ldapserver=ldap.example.net ldapprefix="cn=" ldapsuffix=", dc=example,'
            ' dc=net"',
            {
                "server": "ldap.example.net",
                "prefix": "cn=",
                "suffix": ", dc=example, dc=net",
            },
        ),
        (
            'ldapserver=ldap.example.net ldapbasedn="dc=example, dc=net"'
            " ldapsearchattribute=uid",
            {
                "server": "ldap.example.net",
                "basedn": "dc=example, dc=net",
                "searchattribute": "uid",
            },
        ),
        (
            'ldapserver=h ldapbasedn="dc=x" ldapsearchfilter="(|(uid=$username)'
            '(mail=$username))"',
            {
                "server": "h",
                "basedn": "dc=x",
                "searchfilter": "(|(uid=$username)(mail=$username))",
            },
        ),
        (
            'ldapurl="ldap://ldap.example.net/dc=example,dc=net?uid?sub"',
            {
                "server": "ldap.example.net",
                "basedn": "dc=example,dc=net",
                "searchattribute": "uid",
            },
        ),
        # and what goes with them
        ('ldapbasedn="dc=x"', {"basedn": "dc=x"}),
        (
            'ldapurl="ldaps://[::1]:1636/dc=a%2Cb?uid,mail?one"',
            {
                "server": "[::1]",
                "port": 1636,
                "scheme": "ldaps",
                "basedn": "dc=a,b",
                "searchattribute": "uid",
                "scope": Scope.ONE,
            },
        ),
        (
            "ldapurl=ldap://h/dc=x???(uid=$username)",
            {
                "server": "h",
                "basedn": "dc=x",
                "searchfilter": "(uid=$username)",
                "scope": Scope.BASE,
            },
        ),
        ("ldapurl=ldap:///dc=x", {"basedn": "dc=x", "scope": Scope.BASE}),
        (
            'ldapserver="  a   b " ldapport=390, "ldaptls"=1,ldapsuffix="@x ""y"""',
            {"server": "a b", "port": 390, "tls": True, "suffix": '@x "y"'},
        ),
        (
            'ldapserver=h ldapprefix="" ldapsuffix=@x ldaptls=0 ldaptls=1',
            {"server": "h", "prefix": "", "suffix": "@x", "tls": True},
        ),
        (
            'ldapserver=h ldapbasedn="" ldapbinddn="cn=r" ldapbindpasswd="a#b, c"',
            {"server": "h", "basedn": "", "binddn": "cn=r", "bindpasswd": "a#b, c"},
        ),
    ],
)
def test_what_options_mean(text: str, expected: dict[str, Any]) -> None:
    assert options(text) == LdapOptions(**expected)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "ldapbasedn, ldapprefix or ldapsuffix is missing"),
        ("ldapserver=h", "ldapbasedn, ldapprefix or ldapsuffix is missing"),
        ("ldapprefix=a", "ldapserver is missing"),
        ('ldapserver=" " ldapprefix=a', "ldapserver is missing"),
        ("ldapbasedn=", "ldapserver is missing"),
        ("ldapserver=h ldapprefix=a ldapbasedn=b", "do not go together"),
        ("ldapserver=h ldapsuffix=a ldapbinddn=b", "do not go together"),
        ("ldapserver=h ldapsuffix=a ldapurl=ldap://h/dc=x", "do not go together"),
        (
            "ldapserver=h ldapbasedn=a ldapsearchattribute=b"
            " ldapsearchfilter=$username",
            "ldapsearchattribute does not go together with ldapsearchfilter",
        ),
        (
            "ldapserver=h ldapbasedn=a ldapsearchfilter=(uid=joe)",
            "$username is missing",
        ),
        (
            "ldapserver=h ldapbasedn=a ldapscheme=ldaps ldaptls=1",
            "ldaptls=1 is for ldap",
        ),
        ("ldapserver=h ldapbasedn=a ldapscheme=http", "ldapscheme: expected ldap or"),
        ("ldapserver=h ldapbasedn=a ldapport=0", "ldapport: expected a port"),
        ("ldapserver=h ldapbasedn=a ldapport=65536", "ldapport: expected a port"),
        ("ldapserver=h ldapbasedn=a ldapport=+1", "ldapport: expected a port"),
        ("ldapserver=h ldapbasedn=a ldaptls=yes", "ldaptls: expected 0 or 1"),
        ("ldapserver=h ldapbasedn=dc=a,dc=b", "no such option; known are"),
        ("ldapserver=h ldapbasedn", "option 2 is not name=value"),
        ("ldapserver=h ldapbasedn =a", "option 2 is not name=value"),
        ("ldapserver=h ldapbasedn=a\0b", "ldapbasedn: a zero byte"),
        ("ldapurl=http://h/dc=x", "ldapurl: expected ldap or ldaps"),
        ("ldapurl=ldap:h", "ldapurl: expected ldap://host:port/basedn"),
        ("ldapurl=ldap://a@b:c/", "ldapurl: expected ldap://host:port/basedn"),
        ("ldapurl=ldap://h:0/dc=x", "ldapurl: expected a port"),
        ("ldapurl=ldap://h/dc=x??all", "ldapurl: the scope is one of"),
        ("ldapurl=ldap://h/dc=x????!x", "ldapurl: extensions of LDAP URLs"),
    ],
)
def test_options_that_make_no_sense(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        options(text)


@given(st.text(max_size=40))
def test_any_text_is_options_or_an_error(text: str) -> None:
    for given_text in (text, f"ldapurl={text}", f"ldapserver=h ldapbasedn={text}"):
        try:
            read = options(given_text)
        except (ValueError, ConfigError):
            pass
        else:
            assert read.searches or read.prefix is not None or read.suffix is not None


def test_no_password_in_a_repr() -> None:
    read = options("ldapserver=h ldapbasedn=a ldapbindpasswd=hush")
    assert read.bindpasswd == "hush"
    assert "hush" not in repr(read)


def test_servers() -> None:
    assert options("ldapserver=h ldapprefix=a").uris() == ["ldap://h:389"]
    many = options('ldapserver="a  b" ldapscheme=ldaps ldapprefix=x')
    assert many.uris() == ["ldaps://a:636", "ldaps://b:636"]
    assert options("ldapurl=ldap://[::1]:90/dc=x").uris() == ["ldap://[::1]:90"]
    assert options("ldapbasedn=dc=x").uris() == []


# Names of users


@pytest.mark.parametrize(
    ("prefix", "user", "suffix", "entry"),
    [
        ("uid=", "joe", ",dc=x", "uid=joe,dc=x"),
        ("uid=", "joe,ou=elsewhere", ",dc=x", "uid=joe\\,ou\\=elsewhere,dc=x"),
        ("uid=", 'a+b"c\\d<e>f;g', "", 'uid=a\\+b\\"c\\\\d\\<e\\>f\\;g'),
        ("uid= ", "joe,ou=x", "", "uid= joe\\,ou\\=x"),
        ("uid=", " joe ", ",dc=x", "uid=\\ joe\\ ,dc=x"),
        ("uid=", " ", ",dc=x", "uid=\\ ,dc=x"),
        ("uid=", "#joe#", "", "uid=\\#joe#"),
        # no distinguished name: there is nothing to escape by
        ("CORP\\", "joe+1", "", "CORP\\joe+1"),
        ("", "joe+1", "@corp.example", "joe+1@corp.example"),
    ],
)
def test_the_entry_of_a_user(prefix: str, user: str, suffix: str, entry: str) -> None:
    read = LdapOptions(server="h", prefix=prefix, suffix=suffix)
    assert read.entry_of(user) == entry


@given(st.text(min_size=1, max_size=30))
def test_an_escaped_value_is_one_value(text: str) -> None:
    escaped = escape_dn_value(text)
    plain = re.sub(r"\\(?:00|(.))", lambda m: m[1] or "\0", escaped, flags=re.DOTALL)
    assert plain == text
    bare = re.sub(r"\\.", "", escaped, flags=re.DOTALL)
    assert not set(bare) & set('"+,;<=>\\\0')
    assert bare == "" or escaped[0] not in " #"


@pytest.mark.parametrize("user", ["*", "a*", "(a", "a)", "a\\2a", "a/b"])
def test_names_that_would_be_filters(user: str) -> None:
    with pytest.raises(ValueError, match="invalid character in user name"):
        options("ldapserver=h ldapbasedn=a").filter_of(user)


def test_filters() -> None:
    assert options("ldapserver=h ldapbasedn=a").filter_of("joe") == "(uid=joe)"
    by_mail = options("ldapserver=h ldapbasedn=a ldapsearchattribute=mail")
    assert by_mail.filter_of("joe@x") == "(mail=joe@x)"
    read = options(
        'ldapserver=h ldapbasedn=a ldapsearchfilter="(|(a=$username)(b=$username))"'
    )
    assert read.filter_of("joe") == "(|(a=joe)(b=joe))"
    assert read.filter_of("$username") == "(|(a=$username)(b=$username))"
