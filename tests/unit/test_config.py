# SPDX-License-Identifier: MIT
"""Configuration files: syntax, includes, entries, inheritance, reload."""

from __future__ import annotations

import dataclasses
import os
import string
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.config import checks, libraries
from pooler.config.changes import diff, reloaded
from pooler.config.inifile import (
    Entry,
    Section,
    decode,
    format_connect_string,
    parse_connect_string,
    parse_text,
    quote_name,
)
from pooler.config.kinds import AuthType, LoadBalance, PoolMode, TlsMode
from pooler.config.ldap import LdapOptions
from pooler.config.libraries import Needed
from pooler.config.live import with_setting
from pooler.config.loading import load, load_text
from pooler.config.model import Config
from pooler.config.settings import (
    Settings,
    rows_by_name,
)
from pooler.config.travel import pack, unpack
from pooler.errors import ConfigError

MAIN = "[pgbouncer]\npool_mode = transaction\n"


def config_of(databases: str = "", *, main: str = "", rest: str = "") -> Config:
    return load_text(f"{MAIN}{main}\n[databases]\n{databases}\n{rest}", "p.ini")


def items(text: str) -> list[tuple[str | None, str, str, int]]:
    return [
        (item.section, item.key, item.value, item.line)
        for item in parse_text(text, "p.ini")
        if isinstance(item, Entry)
    ]


def problem_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_text(text, "p.ini")
    return str(caught.value)


def refusal(call: Callable[[], object]) -> ConfigError | None:
    """The ConfigError that ``call`` ends in; anything else fails the test."""
    try:
        call()
    except ConfigError as error:
        return error
    return None


# --- the syntax of the file


def test_lines() -> None:
    text = (
        "; comment\r\n"
        "# comment\n"
        "[databases]\r\n"
        "  app=host=a ; no comment   \r\n"
        '"my ""db""" = dbname=x\n'
        "* =\n"
        "[users] ; also a comment\n"
        "[peers] 1 = host=b\n"
        "\tkey.with-signs*\t=\t value \v"
    )
    assert items(text) == [
        ("databases", "app", "host=a ; no comment", 4),
        ("databases", 'my "db"', "dbname=x", 5),
        ("databases", "*", "", 6),
        ("peers", "1", "host=b", 8),
        ("peers", "key.with-signs*", "value", 9),
    ]
    sections = [i.name for i in parse_text(text, "f") if isinstance(i, Section)]
    assert sections == ["databases", "users", "peers"]


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("[pgbouncer", 1, 'section without "]"'),
        ("[pgbouncer]\nlisten_port", 2, 'expected "="'),
        ("[pgbouncer]\n= 5", 2, 'expected "name = value"'),
        ("[databases]\nmy db = host=a", 2, "needs double quotes"),
        ("[databases]\nmü = host=a", 2, "needs double quotes"),
        ('[databases]\n"my db = host=a', 2, "closing quote"),
        ('[databases]\n"" = host=a', 2, 'expected "name = value"'),
        ("[pgbouncer]\n\n%includes x", 3, "%include FILE"),
        ("%include ", 1, "%include FILE"),
        ("%", 1, "%include FILE"),
        ("listen_port = 1", 1, "before the first section"),
        ("[pgbounce]\n", 1, 'did you mean "pgbouncer"?'),
        ("[x]\n", 1, "not one of pgbouncer, databases, users, peers"),
        ("[pgbouncer]\nlisten_prot = 1", 2, 'did you mean "listen_port"?'),
        ("[pgbouncer]\nListen_Port = 1", 2, 'did you mean "listen_port"?'),
        ("[pgbouncer]\nzzz = 1", 2, 'unknown setting "zzz"'),
        ("[pgbouncer]\nlisten_port = x", 2, "listen_port: "),
        ("[databases]\na = pool_sice=5", 2, 'did you mean "pool_size"?'),
        ("[databases]\na = pool_size=x", 2, '[databases] "a": pool_size: '),
        ("[databases]\na = host=", 2, "host has an empty value"),
        ("[databases]\na = host=''", 2, "host has an empty value"),
        ("[databases]\na = host", 2, 'expected "key=value"'),
        ("[databases]\na = =x", 2, "a key is missing"),
        ("[databases]\na = host='x", 2, "at character 6 "),
        ("[databases]\na = host='x'y", 2, "after the closing quote"),
        ("[databases]\na = host=x\n\na = host=y", 4, "the first is at p.ini:2"),
        ("[databases]\n* = host=x\n* = host=y", 3, "the first is at p.ini:2"),
        ("[databases]\npgbouncer = host=x", 2, "reserved"),
        (f"[databases]\n{'a' * 64} = host=x", 2, "longer than 63 bytes"),
        (f"[users]\n{'a' * 128} = pool_size=1", 2, "longer than 127 bytes"),
        ("[users]\na = host=1", 2, 'unknown key "host"'),
        ("[peers]\n0 = host=1", 2, "from 1 to 65535"),
        ("[peers]\nx = host=1", 2, "from 1 to 65535"),
        ("[peers]\n1 = port=1", 2, "host is missing"),
        ("[peers]\n1 = host=a port=0", 2, "from 1 to 65535"),
    ],
)
def test_errors_name_file_and_line(text: str, line: int, problem: str) -> None:
    found = problem_of(text)
    assert found.startswith(f"p.ini:{line}: ")
    assert problem in found


def test_main_section_is_required() -> None:
    assert problem_of("[databases]\n") == "p.ini: section [pgbouncer] is missing"
    assert problem_of("") == "p.ini: section [pgbouncer] is missing"


def test_errors_do_not_show_passwords() -> None:
    for text in (
        "a = password=hunter2 x",
        "a = password='hunter2' password='hunter2'y",
        "a = password='hunter2",
        "a password=hunter2",
        "a = password=hunter2 pool_size=x",
    ):
        assert "hunter2" not in problem_of(f"[databases]\n{text}")
    (entry,) = (i for i in parse_text("[d] a = hunter2", "f") if isinstance(i, Entry))
    assert "hunter2" not in repr(entry)


def test_repr_of_a_configuration_shows_no_password(tmp_path: Path) -> None:
    users = tmp_path / "users.txt"
    users.write_text('"app" "hunter2"')
    config = config_of("a = user=x password=hunter2", main=f"auth_file = {users}")
    assert config.databases["a"].password == "hunter2"
    assert config.userlist["app"].text == "hunter2"
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    ("raw", "line", "problem"),
    [
        (b"\xef\xbb\xbf[pgbouncer]", 1, "byte order mark"),
        (b"[pgbouncer]\n\n;\0", 3, "NUL"),
        (b"[pgbouncer]\n;\xe9", 2, "byte 0xe9 is not UTF-8"),
    ],
)
def test_files_that_are_no_text(
    raw: bytes, line: int, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "p.ini"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=problem) as caught:
        load(path)
    assert (caught.value.file, caught.value.line) == (str(path), line)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.ini: cannot read: No such file"):
        load(tmp_path / "none.ini")
    with pytest.raises(ConfigError, match="cannot read: Is a directory"):
        load(tmp_path)


def test_a_path_that_cannot_be_one() -> None:
    found = problem_of(f"{MAIN}auth_file = a\0b")
    assert found.startswith("p.ini:3: auth_file: ")
    assert "cannot read: Invalid argument" in found


# --- includes


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_include_is_read_in_place(here: Path) -> None:
    (here / "more.ini").write_text("listen_port = 2\n[databases]\nb = host=x\n")
    text = f"{MAIN}listen_port = 1\n%include more.ini  \nc = host=y\n"
    config = load_text(text, "p.ini")
    assert config.settings.listen_port == 2
    # The section that the included file opened stays open.
    assert list(config.databases) == ["b", "c"]
    assert str(config.origins["databases", "b"]) == "more.ini:3"
    assert str(config.origins["databases", "c"]) == "p.ini:5"


def test_include_errors_name_the_included_file(here: Path) -> None:
    (here / "more.ini").write_text("\nlisten_port = x\n")
    assert problem_of(f"{MAIN}%include more.ini").startswith("more.ini:2: listen_port")
    (here / "more.ini").write_bytes(b"\xff")
    assert problem_of(f"{MAIN}%include more.ini").startswith("more.ini:1: byte 0xff")


def test_include_is_relative_to_the_current_directory(here: Path) -> None:
    (here / "sub").mkdir()
    (here / "sub" / "more.ini").write_text("")
    main = here / "sub" / "p.ini"
    main.write_text("%include more.ini")
    with pytest.raises(ConfigError, match="relative to the current directory") as why:
        load(main)
    assert why.value.line == 1
    assert str(here / "sub" / "more.ini") in str(why.value)
    main.write_text("%include none.ini")
    with pytest.raises(ConfigError, match=r"none\.ini: No such file or directory$"):
        load(main)


def test_a_file_that_includes_itself_ends(here: Path) -> None:
    (here / "p.ini").write_text("[pgbouncer]\n%include p.ini\n")
    with pytest.raises(ConfigError, match=r"p\.ini:2: .*deeper than 10 files"):
        load("p.ini")


def test_ten_includes_are_allowed(here: Path) -> None:
    for depth in range(10):
        (here / f"{depth}.ini").write_text(f"%include {depth + 1}.ini\n")
    (here / "10.ini").write_text(MAIN)
    assert load("0.ini").settings.pool_mode is PoolMode.TRANSACTION


# --- connect strings


def test_connect_string() -> None:
    text = "  host=a  port = 5432 connect_query='select ''x''' password=a'b "
    assert parse_connect_string(text) == (
        ("host", "a"),
        ("port", "5432"),
        ("connect_query", "select 'x'"),
        ("password", "a'b"),
    )
    assert parse_connect_string(" \t") == ()


keys = st.text(st.sampled_from(string.ascii_lowercase + "_"), min_size=1)
values = st.text(min_size=1) | st.text(st.sampled_from(" 'a=\t"), min_size=1)


@given(st.lists(st.tuples(keys, values)))
def test_connect_strings_are_read_back(pairs: list[tuple[str, str]]) -> None:
    assert parse_connect_string(format_connect_string(pairs)) == tuple(pairs)


@given(st.text() | st.text(st.sampled_from("ab=' \t")))
def test_garbage_connect_strings(text: str) -> None:
    error = refusal(lambda: parse_connect_string(text, file="f", line=3))
    if error is not None:
        assert str(error).startswith("f:3: ")
        assert " at character " in str(error)


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\n\0"), min_size=1).filter(
        lambda name: name.encode()
    )
)
def test_quoted_names_are_read_back(name: str) -> None:
    assert items(f"[databases]\n{quote_name(name)} = x") == [
        ("databases", name, "x", 2)
    ]


# --- anything at all

FRAGMENTS = st.sampled_from(
    [
        "[pgbouncer]\n",
        "[databases]\n",
        "[users]\n",
        "[peers]\n",
        "\n",
        "\r\n",
        " = ",
        "=",
        '"',
        "'",
        "*",
        ";",
        "%include",
        "host=a ",
        "pool_size=",
        "-1",
        "017",
        "listen_port",
        "pool_mode",
        "unix_socket_dir",
        "session",
        "1",
    ]
)


@given(st.text() | st.lists(FRAGMENTS).map("".join))
def test_garbage_is_a_config_error_or_a_config(text: str) -> None:
    error = refusal(lambda: load_text(text, "p.ini"))
    assert error is None or error.file == "p.ini"


@given(st.binary())
def test_any_bytes_are_text_or_a_config_error(raw: bytes) -> None:
    error = refusal(lambda: decode(raw, "p.ini"))
    if error is None:
        assert decode(raw, "p.ini").encode() == raw
    else:
        assert error.line is not None


@given(st.sampled_from(sorted(rows_by_name(Settings))), st.text())
def test_any_value_of_any_setting(name: str, value: str) -> None:
    error = refusal(lambda: load_text(f"[pgbouncer]\n{name} = {value}\n", "p.ini"))
    assert error is None or error.file is not None


# --- what the entries mean


def test_settings() -> None:
    config = load_text(
        "[pgbouncer]\nlisten_addr = *\nauth_type = trust\nlisten_port = 1\n"
        "listen_port = 2\nserver_tls_sslmode = verify-full\n",
        "p.ini",
    )
    assert config.path == "p.ini"
    assert config.settings == dataclasses.replace(
        Settings(),
        listen_addr=("*",),
        auth_type=AuthType.TRUST,
        listen_port=2,
        server_tls_sslmode=TlsMode.VERIFY_FULL,
        conffile="p.ini",
    )


def test_databases() -> None:
    config = config_of(
        "plain =\n"
        "full = dbname=real host=a,b port=6000 user=u password='p w' pool_size=3\n"
        "alias = reserve_pool=2 load_balance_hosts=disable pool_size=-1\n"
        "params = client_encoding=UTF8 timezone=UTC application_name=x\n"
    )
    plain, full = config.databases["plain"], config.databases["full"]
    assert (plain.name, plain.dbname, plain.port) == ("plain", "plain", 5432)
    assert (full.name, full.dbname, full.port) == ("full", "real", 6000)
    assert (full.user, full.password, full.pool_size) == ("u", "p w", 3)
    alias = config.databases["alias"]
    assert (alias.reserve_pool_size, alias.pool_size) == (2, None)
    assert alias.load_balance_hosts is LoadBalance.DISABLE
    assert config.databases["params"].startup_parameters == (
        ("client_encoding", "UTF8"),
        ("timezone", "UTC"),
        ("application_name", "x"),
    )
    assert plain.startup_parameters == ()


def test_hosts() -> None:
    config = config_of(
        "unix =\nmany = host='a, /run/x,@y'\n", main="unix_socket_dir = /run/pg"
    )
    assert config.hosts(config.databases["unix"]) == ("/run/pg",)
    assert config.hosts(config.databases["many"]) == ("a", "/run/x", "@y")
    nowhere = config_of("app =", main="unix_socket_dir =")
    assert nowhere.hosts(nowhere.databases["app"]) == ()
    assert nowhere.warnings == (
        'p.ini:5: [databases] "app": no host, and unix_socket_dir is empty:'
        " there is nowhere to connect to",
    )


@pytest.mark.parametrize("host", ["db..x", "x" * 64, ".db", "a." * 127 + "b"])
def test_a_host_that_can_be_no_name_is_told(host: str) -> None:
    config = config_of(f"app = host='127.0.0.1,::1,/run/x,@y,db.example,{host}'\n")
    [warning] = config.warnings
    assert warning.startswith(f'p.ini:5: [databases] "app": "{host[:60]}')
    assert ": no host name: " in warning


def test_fallback_database() -> None:
    config = config_of("app = host=a\n* = host=b pool_size=7\n")
    assert config.database("app") is config.databases["app"]
    other = config.database("other")
    assert other is not None
    assert (other.name, other.dbname, other.host) == ("other", "other", "b")
    assert other.pool_size == 7
    assert config.database("pgbouncer") is None
    assert config.database("") is None
    assert config.database("x" * 63) is not None
    assert config.database("x" * 64) is None
    assert config.database("\udcff" * 63) is not None
    assert "*" not in config.databases


def test_fallback_database_with_a_name_of_its_own() -> None:
    other = config_of("* = dbname=one").database("other")
    assert other is not None
    assert (other.name, other.dbname) == ("other", "one")


def test_no_fallback_database() -> None:
    assert config_of("app = host=a").database("other") is None


def test_user_beats_database_beats_global() -> None:
    config = config_of(
        "small = pool_size=1 pool_mode=transaction\nnone = pool_size=0\nwide =\n",
        main="default_pool_size = 9",
        rest="[users]\nbig = pool_size=50 pool_mode=statement\nlike = pool_size=-1",
    )
    small, none, wide = (config.databases[name] for name in ("small", "none", "wide"))
    sizes = [
        (database.name, user, config.pool_size(database, user))
        for database in (small, none, wide)
        for user in ("big", "like", "unknown")
    ]
    assert sizes == [
        ("small", "big", 50),
        ("small", "like", 1),
        ("small", "unknown", 1),
        ("none", "big", 50),
        ("none", "like", 0),
        ("none", "unknown", 0),
        ("wide", "big", 50),
        ("wide", "like", 9),
        ("wide", "unknown", 9),
    ]
    assert config.pool_mode(small, "big") is PoolMode.STATEMENT
    assert config.pool_mode(wide, "like") is PoolMode.TRANSACTION


def test_peers() -> None:
    config = load_text(f"{MAIN}[peers]\n1 = host=a\n02 = host=/b port=1\n", "p.ini")
    assert {key: (p.peer_id, p.host, p.port) for key, p in config.peers.items()} == {
        1: (1, "a", 6432),
        2: (2, "/b", 1),
    }


def test_worker_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    assert config_of().worker_count == 3
    assert config_of(main="workers = 5").worker_count == 5


def test_a_configuration_cannot_be_changed() -> None:
    config = config_of("app = host=a")
    with pytest.raises(TypeError):
        config.databases["b"] = config.databases["app"]  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.settings.listen_port = 1  # type: ignore[misc]


# --- auth_file


def test_auth_file(here: Path) -> None:
    (here / "users.txt").write_text('"a" "1"\n')
    assert list(config_of(main="auth_file = users.txt").userlist) == ["a"]
    (here / "users.txt").write_text('"a" "1"\n"b\n')
    assert problem_of(f"{MAIN}auth_file = users.txt").startswith("users.txt:2: ")


def test_a_missing_auth_file(here: Path) -> None:
    found = problem_of(f"{MAIN}auth_file = none.txt")
    assert found == (
        "p.ini:3: auth_file: none.txt: cannot read: No such file or directory"
    )
    config = config_of(main="auth_type = any\nauth_file = none.txt")
    assert config.userlist == {}
    assert config.warnings == (
        "p.ini:4: auth_file: none.txt: cannot read: No such file or directory",
    )


# --- warnings


def test_a_plain_configuration_has_no_warnings() -> None:
    config = config_of("app = host=a", main="syslog = 0\nverbose = 0\nworkers = 1")
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("auth_type = cert", "client_tls_sslmode: auth_type = cert needs verify-full"),
        ("auth_type = hba", "auth_hba_file: auth_type = hba needs it"),
        (
            "auth_type = hba\nauth_hba_file = /none",
            "auth_hba_file: cannot read '/none'",
        ),
        ("auth_type = ldap", "auth_ldap_options: auth_type = ldap needs it"),
        (
            "auth_type = ldap\nauth_ldap_options = ldapserver=a",
            "p.ini:4: auth_ldap_options: ldapbasedn, ldapprefix or ldapsuffix is",
        ),
        (
            'auth_type = ldap\nauth_ldap_options = ldapprefix="uid=',
            "p.ini:4: auth_ldap_options: a quote is not closed",
        ),
    ],
)
def test_what_an_authentication_needs(said: str, problem: str) -> None:
    assert problem in problem_of(f"{MAIN}{said}")


def test_a_method_without_its_library(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = Needed(("libnone.so.0",), "no_such_function", "libnone0")
    for method in (AuthType.PAM, AuthType.LDAP):
        monkeypatch.setattr(libraries, "NEEDED", {method: missing})
        monkeypatch.setattr(checks, "NEEDED", {method: missing})
        options = "auth_ldap_options = ldapserver=a ldapbasedn=dc=x"
        assert problem_of(f"{MAIN}auth_type = {method}\n{options}") == (
            f"p.ini:3: auth_type: {method} needs libnone.so.0, which is not installed"
            " here; it is in libnone0"
        )
        (here / "hba.conf").write_text(
            f"host all all all {method} ldapserver=a ldapbasedn=x\n"
            if method is AuthType.LDAP
            else "host all all all pam\n"
        )
        said = problem_of(f"{MAIN}auth_type = hba\nauth_hba_file = hba.conf")
        assert said.startswith(f"hba.conf:1: {method} needs libnone.so.0")


def test_an_ldap_password_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "NEEDED", {})  # the library need not be here
    options = (
        "ldapserver=a ldapbasedn=dc=x ldapbinddn=cn=r"
        " ldapbindpasswd=hush#hush,ldaptls=1"
    )
    config = config_of(main=f"auth_type = ldap\nauth_ldap_options = {options}")
    assert config.ldap is not None
    # the setting has no comments: what is behind # counts
    assert (config.ldap.bindpasswd, config.ldap.tls) == ("hush#hush", True)
    assert "hush" not in repr(config)
    for bad in (f"{options} ldaptls=hush", f"{options} ldapbindpasswd=a,hush"):
        said = problem_of(f"{MAIN}auth_type = ldap\nauth_ldap_options = {bad}")
        assert "hush" not in said, said


def test_set_asks_another_ldap_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "NEEDED", {})  # the library need not be here
    config = config_of(main="auth_type = any")
    with pytest.raises(ConfigError, match="auth_type = ldap needs it"):
        with_setting(config, "auth_type", "ldap")
    for server in "ab":
        options = f"ldapserver={server} ldapbasedn=dc=x"
        config = with_setting(config, "auth_ldap_options", options)
        config = with_setting(config, "auth_type", "ldap")
        assert config.ldap == LdapOptions(server=server, basedn="dc=x")
    with pytest.raises(ConfigError, match="ldapserver is missing"):
        with_setting(config, "auth_ldap_options", "ldapprefix=a")
    fd = pack(config)  # as it reaches the workers
    try:
        assert unpack(fd) == config
    finally:
        os.close(fd)


def test_repeated_sections_and_users() -> None:
    config = load_text(
        f"{MAIN}listen_port = 1\n[users]\nu = pool_size=1\nu = pool_size=2\n"
        "[pgbouncer]\nlisten_backlog = 5\n",
        "p.ini",
    )
    assert (config.settings.listen_port, config.settings.listen_backlog) == (1, 5)
    assert config.users["u"].pool_size == 2
    assert config.warnings == (
        'p.ini:6: [users] "u": replaces the entry at p.ini:5',
        "p.ini:7: second [pgbouncer] section; what the one at p.ini:1 set stays in"
        " force (PgBouncer would go back to the defaults)",
    )


# --- reload


def test_nothing_changed() -> None:
    config = config_of("a = host=x")
    again = config_of("; moved down\na = host=x")
    assert not diff(config, again)
    assert config == again


def test_diff(here: Path) -> None:
    (here / "1").write_text('"stays" "x"\n"goes" "x"\n"rolls" "x"')
    (here / "2").write_text('"stays" "x"\n"comes" "x"\n"rolls" "y"')
    old = config_of(
        "stays = host=a\ngoes = host=a\nsize = host=a\nmoves = host=a\n* = host=a",
        main="auth_file = 1\nlisten_port = 1\nmax_client_conn = 5",
        rest="[users]\nu = pool_size=1\n[peers]\n1 = host=a",
    )
    new = config_of(
        "stays = host=a\ncomes = host=a\nsize = host=a pool_size=3\n"
        "moves = host=b\n* = host=b",
        main="auth_file = 2\nlisten_port = 2\nmax_client_conn = 6",
        rest="[users]\nu = pool_size=2\n[peers]\n2 = host=a",
    )
    changes = diff(old, new)
    assert changes.live == ("max_client_conn",)
    assert changes.new_connections == ("auth_file",)
    assert changes.restart == ("listen_port",)
    assert changes.databases.added == ("comes",)
    assert changes.databases.removed == ("goes",)
    assert changes.databases.changed == ("*", "moves", "size")
    assert changes.reconnect == ("*", "moves")
    assert changes.users.changed == ("u",)
    assert (changes.peers.added, changes.peers.removed) == (("2",), ("1",))
    assert changes.secrets.added == ("comes",)
    assert changes.secrets.removed == ("goes",)
    assert changes.secrets.changed == ("rolls",)
    assert changes


def test_what_needs_a_restart_keeps_its_value() -> None:
    old = config_of(main="listen_port = 1\nmax_client_conn = 5")
    new = config_of("a = host=x", main="listen_port = 2\nmax_client_conn = 6")
    running = reloaded(old, new)
    assert running.settings.listen_port == 1
    assert running.settings.max_client_conn == 6
    assert list(running.databases) == ["a"]
    assert diff(running, new).restart == ("listen_port",)


def test_a_bad_reload_leaves_the_old_one(here: Path) -> None:
    path = here / "p.ini"
    path.write_text(MAIN)
    old = load(path)
    path.write_text("[pgbouncer]\nlisten_port = 0\n")
    with pytest.raises(ConfigError):
        load(path)
    assert old.settings.pool_mode is PoolMode.TRANSACTION
