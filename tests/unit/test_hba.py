# SPDX-License-Identifier: MIT
"""auth_hba_file and auth_ident_file: what the lines say, and to whom."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path

import pytest

from pooler.config.hba import Connection, Hba, read_hba
from pooler.config.kinds import AuthType
from pooler.config.ldap import LdapOptions
from pooler.config.pam import PamOptions
from pooler.errors import ConfigError


def hba(folder: Path, text: str, ident: str | None = None) -> Hba:
    rules = folder / "hba.conf"
    rules.write_text(text)
    maps = None
    if ident is not None:
        maps = folder / "ident.conf"
        maps.write_text(ident)
    return read_hba(str(rules), None if maps is None else str(maps))


def connection(
    user: str = "joe",
    database: str = "shop",
    address: str | None = "10.0.0.7",
    *,
    secured: bool = False,
    replication: bool = False,
) -> Connection:
    where = None if address is None else ipaddress.ip_address(address)
    return Connection(database, user, where, secured, replication)


def method(rules: Hba, one: Connection) -> str:
    """The method by which it may log in; reject; or none, where no line fits."""
    rule = rules.rule_for(one)
    if rule is None:
        return "none"
    return "reject" if rule.method is None else str(rule.method)


LOCAL = connection(address=None)
TCP = connection()
TLS = connection(secured=True)
IPV6 = connection(address="2001:db8::7")


@pytest.mark.parametrize(
    ("line", "fitting"),
    [
        ("local all all trust", [LOCAL]),
        ("host all all all trust", [TCP, TLS, IPV6]),
        ("hostssl all all all trust", [TLS]),
        # No field begins with a comma: it goes on with the list, as in PgBouncer.
        ("host y,all , x me ,you, all all trust", [TCP, TLS, IPV6]),
        ("hostnossl all all all trust", [TCP, IPV6]),
        ("host all all 0.0.0.0/0 trust", [TCP, TLS]),
        ("host all all ::/0 trust", [IPV6]),
        ("host all all 10.0.0.0/29 trust", [TCP, TLS]),
        ("host all all 10.0.0.5/29 trust", [TCP, TLS]),  # as PostgreSQL: masked
        ("host all all 10.0.0.0 255.255.255.248 trust", [TCP, TLS]),
        ("host all all 10.0.0.8/29 trust", []),
        ("host all all 10.0.0.7 255.255.255.255 trust", [TCP, TLS]),
        ("host all all 2001:db8::/32 trust", [IPV6]),
        ("host all all 2001:db8:: ffff:ffff:: trust", [IPV6]),
        ("host shop joe all trust", [TCP, TLS, IPV6]),
        ('host "shop" "joe" all trust', [TCP, TLS, IPV6]),
        ("host other,shop ann,joe all trust", [TCP, TLS, IPV6]),
        ("host other, shop ann, joe all trust", [TCP, TLS, IPV6]),
        ("host other joe all trust", []),
        ("host shop ann all trust", []),
        ('host "all" joe all trust', []),
        ('host shop "all" all trust', []),
        ("host sameuser all all trust", []),
        ("host replication all all trust", []),
        ("host /^sh joe all trust", [TCP, TLS, IPV6]),
        ("host shop /^jo?e$ all trust", [TCP, TLS, IPV6]),
        ("host shop /^j$ all trust", []),
        ("host all all all trust # and why", [TCP, TLS, IPV6]),
        ("host all \\\n all all trust", [TCP, TLS, IPV6]),
        ("\thost\tall\tall\tall\ttrust\r", [TCP, TLS, IPV6]),
    ],
)
def test_whom_a_line_fits(tmp_path: Path, line: str, fitting: list[Connection]) -> None:
    rules = hba(tmp_path, f"# first\n\n{line}\n")
    for one in (LOCAL, TCP, TLS, IPV6):
        assert (method(rules, one) == "trust") == (one in fitting), one


def test_cert_may_stand_in_any_line_by_tcp(tmp_path: Path) -> None:
    """Who comes without TLS has no certificate to show."""
    for kind in ("host", "hostssl", "hostnossl"):
        rules = hba(tmp_path, f"{kind} all all all cert\n")
        assert method(rules, TLS if kind != "hostnossl" else TCP) == "cert"


def test_names_that_are_keywords_elsewhere(tmp_path: Path) -> None:
    rules = hba(
        tmp_path,
        "host sameuser all all trust\n"
        "host replication all all md5\n"
        'host "replication" all all password\n',
    )
    assert method(rules, connection("joe", "joe")) == "trust"
    assert method(rules, connection("joe", "ann")) == "none"
    assert method(rules, connection("joe", "replication")) == "plain"
    assert method(rules, connection("joe", "joe", replication=True)) == "md5"
    assert method(hba(tmp_path, "host all all all trust"), connection()) == "trust"
    replicating = connection(replication=True)
    assert method(hba(tmp_path, "host all all all trust"), replicating) == "none"


def test_the_first_that_fits_decides(tmp_path: Path) -> None:
    rules = hba(
        tmp_path,
        "host all joe 10.0.0.0/8 reject\n"
        "hostssl all all all scram-sha-256\n"
        "local all all peer\n"
        "hostssl all all all cert\n"
        "host all ann all md5\n",
    )
    assert method(rules, TCP) == method(rules, TLS) == "reject"
    assert method(rules, connection("joe", address="11.0.0.1")) == "none"
    assert method(rules, connection("ann", secured=True)) == "scram-sha-256"
    assert method(rules, connection("ann")) == "md5"
    assert method(rules, LOCAL) == "peer"
    rule = rules.rule_for(TCP)
    assert rule is not None
    assert (rule.file, rule.line) == (str(tmp_path / "hba.conf"), 1)


def test_own_addresses(tmp_path: Path) -> None:
    same_host = hba(tmp_path, "host all all samehost trust")
    same_net = hba(tmp_path, "host all all samenet trust")
    for address in ("127.0.0.1", "::1"):
        if method(same_host, connection(address=address)) == "trust":
            assert method(same_net, connection(address=address)) == "trust"
    assert method(same_host, connection(address="127.0.0.1")) == "trust"
    assert method(same_host, connection(address="127.9.9.9")) == "none"
    assert method(same_net, connection(address="127.9.9.9")) == "trust"
    assert method(same_net, connection(address="203.0.113.9")) == "none"


def test_a_library_that_complains_is_not_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As psutil does under the packaged unit, which hides /proc/stat."""
    (tmp_path / "psutil.py").write_text(
        "import sys\nprint('Traceback', file=sys.stderr)\nnet_if_addrs = dict\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "psutil", raising=False)
    hba(tmp_path, "host all all samenet trust")
    assert sys.modules["psutil"].__file__ == str(tmp_path / "psutil.py")
    assert capfd.readouterr().err == ""


def test_lists_in_files_and_included_files(tmp_path: Path) -> None:
    (tmp_path / "users").write_text('joe, # a comment\n"all"\n@more\n')
    (tmp_path / "more").write_text("ann,bob carl\n")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "b.conf").write_text("host all eve all reject\n")
    (tmp_path / "parts" / "a.conf").write_text("host all dan all md5\n")
    (tmp_path / "parts" / "skipped").write_text("nonsense\n")
    rules = hba(
        tmp_path,
        "host all @users all trust\n"
        "include_dir parts\n"
        "include_if_exists nothing.conf\n"
        "include parts/b.conf\n",
    )
    for user in ("joe", "all", "ann", "bob", "carl"):
        assert method(rules, connection(user)) == "trust"
    assert method(rules, connection("dan")) == "md5"
    assert method(rules, connection("eve")) == "reject"
    assert method(rules, connection("fay")) == "none"
    found = rules.rule_for(connection("eve"))
    assert found is not None
    assert found.file.endswith("parts/b.conf")


IDENT = """
shared  joe            app
shared  /^(.*)@corp$   \\1
shared  "/slash"       odd
anybody ann            all
"""


def test_a_list_in_an_empty_file(tmp_path: Path) -> None:
    """Nobody is in it; a line cannot begin with it."""
    (tmp_path / "empty").write_text("# nobody\n")
    rules = hba(tmp_path, "host all @empty all trust\n")
    assert method(rules, TCP) == "none"
    with pytest.raises(ConfigError, match="begins with an empty file") as raised:
        hba(tmp_path, "\n@empty all all trust\n")
    assert raised.value.line == 2


def test_maps(tmp_path: Path) -> None:
    rules = hba(
        tmp_path,
        "local all all peer map=shared\n"
        "hostssl all all all cert map=anybody\n"
        "local x all peer\n",
        IDENT,
    )
    shared, anybody, plain = rules.rules
    for rule, system_user, user, fits in (
        (shared, "joe", "app", True),
        (shared, "joe", "joe", False),
        (shared, "ann@corp", "ann", True),
        (shared, "ann@corp", "bob", False),
        (shared, "ann@corps", "ann", False),
        (shared, "/slash", "odd", True),
        (anybody, "ann", "whoever", True),
        (anybody, "bob", "whoever", False),
        (plain, "joe", "joe", True),
        (plain, "joe", "app", False),
    ):
        assert rules.is_mapped(rule, system_user, user) is fits, (system_user, user)


def test_lines_of_methods_that_ask_elsewhere(tmp_path: Path) -> None:
    rules = hba(
        tmp_path,
        "host all joe all pam\n"
        "host all ann all pam pamservice=db pam_use_hostname=0\n"
        'host all all all ldap ldapserver="a b" ldapprefix="uid=" ldapsuffix=",dc=x"\n',
    )
    found = [rules.rule_for(connection(user)) for user in ("joe", "ann", "eve")]
    assert [(rule.method, rule.options) for rule in found if rule] == [
        (AuthType.PAM, PamOptions("pgbouncer")),
        (AuthType.PAM, PamOptions("db")),
        (AuthType.LDAP, LdapOptions(server="a b", prefix="uid=", suffix=",dc=x")),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("hosts all all all trust", "unknown type of connection 'hosts'"),
        ("hostgssenc all all all trust", "no GSSAPI"),
        ("host", "databases are missing"),
        ("host all", "users are missing"),
        ("host all all", "an address is missing"),
        ("host all all all", "a method is missing"),
        ("local all all", "a method is missing"),
        ("host all all a.example trust", "names of hosts are not known here"),
        ("host all all 10.0.0.0/33 trust", "no network"),
        ("host all all 10.0.0.256 trust", "no address"),
        ("host all all 10.0.0.0 trust", "'trust' is no mask"),
        ("host all all 10.0.0.0 255.0.255.0 trust", "is no mask"),
        ("host all all 10.0.0.0 ffff:: trust", "is no mask"),
        ("host all +admins all trust", "groups are not known here"),
        ("host samerole all all trust", "samerole is not known here"),
        ("host all all all ident", "unknown method 'ident'"),
        ("host all all all gss", "unknown method 'gss'"),
        ("host all all all pam service=x", "pam: no such option: service"),
        ("host all all all pam pamservice=../x", "expected a name in /etc/pam.d"),
        ("host all all all pam pamservice=", "expected a name in /etc/pam.d"),
        ("host all all all pam pam_use_hostname=1", "names are not looked up"),
        ("host all all all pam map=x", "pam: no such option: map"),
        ("host all all all ldap", "ldapprefix or ldapsuffix is missing"),
        ("host all all all ldap ldapserver", "ldap: option 1 is not name=value"),
        ("host all all all ldap map=x", "ldap: no such option; known are"),
        ("host all all all trust,md5", "a method cannot be a list"),
        ("host all all all peer", "peer is for local lines only"),
        ("local all all cert", "cert is for host lines only"),
        ("host all all all md5 map=x", "map= is for peer and cert only"),
        ("local all all peer map=x", "map 'x' is not in auth_ident_file"),
        ("local all all peer clientcert=1", "unknown option 'clientcert=1'"),
        ('host "all all all trust', "a quote is not closed"),
        ("host /( all all trust", "bad regular expression"),
        ("include", "takes the name of one file"),
        ("include none.conf", "cannot read"),
        ("include_dir none", "cannot read"),
        ("host @none all all trust", "cannot read"),
        ("host @\0 all all trust", "NUL byte"),
        ("include \0", "NUL byte"),
        ("include hba.conf", "included more than 10 deep"),
        ("host @hba.conf all all trust", "included too deep"),
    ],
)
def test_a_line_that_cannot_be_read(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        hba(tmp_path, f"host all joe all reject\n{line}\nhost all all all trust\n")
    assert problem in str(raised.value)
    assert str(tmp_path / "hba.conf") in str(raised.value)
    if "deep" not in problem:
        assert raised.value.line == 2


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("a b", "expected: map system-user database-user"),
        ("a /( c", "bad regular expression"),
        ("a b \\1", "needs a regular expression with a group"),
        ("a /b \\1", "needs a regular expression with a group"),
    ],
)
def test_a_map_that_cannot_be_read(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=r"ident\.conf:1") as raised:
        hba(tmp_path, "local all all peer\n", f"{line}\n")
    assert problem in str(raised.value)


def test_methods_are_those_of_auth_type(tmp_path: Path) -> None:
    rules = hba(
        tmp_path,
        "host all a all trust\nhost all b all md5\nhost all c all password\n"
        "host all d all scram-sha-256\n",
    )
    assert [method(rules, connection(user)) for user in "abcd"] == [
        AuthType.TRUST,
        AuthType.MD5,
        AuthType.PLAIN,
        AuthType.SCRAM_SHA_256,
    ]
