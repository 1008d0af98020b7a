# SPDX-License-Identifier: MIT
"""The table of settings: complete, documented, and its values round."""

from __future__ import annotations

import os
import re
from enum import StrEnum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from pooler.config import settings
from pooler.config.kinds import (
    AUTO_WORKERS,
    AuthType,
    Kind,
    PoolMode,
    Reload,
    Row,
    format_value,
    parse_value,
)
from pooler.config.settings import (
    Database,
    Peer,
    Settings,
    Table,
    User,
    rows,
    rows_by_name,
)
from pooler.errors import ConfigError

ELEVEN = ", ".join(f"name_{number}" for number in range(11))
TABLES: tuple[Table, ...] = (Settings, Database, User, Peer)
EVERY_ROW = [
    pytest.param(table, row, id=f"{table.__name__}.{row.name}")
    for table in TABLES
    for row in rows(table)
]

# PgBouncer's keys and the defaults it documents. "-" is unset, '""' is empty; a "!"
# marks what PgBouncer reads at boot only.
MAIN_KEYS = """
admin_users ""
application_name_add_host 0
auth_dbname -
auth_file -
auth_hba_file ""
auth_ident_file -
auth_ldap_options -
auth_query ?
auth_type md5
auth_user -
autodb_idle_timeout 3600
cancel_wait_timeout 10
client_idle_timeout 0
client_login_timeout 60
client_tls13_ciphers -
client_tls_ca_file ""
client_tls_cert_file ""
client_tls_ciphers default
client_tls_dheparams auto
client_tls_ecdhcurve auto
client_tls_key_file ""
client_tls_protocols secure
client_tls_sslmode disable
conffile -
default_pool_size 20
disable_pqexec! 0
dns_max_ttl 15
dns_nxdomain_ttl 15
dns_zone_check_period 0
idle_transaction_timeout 0
ignore_startup_parameters ""
job_name! pgbouncer
listen_addr! ""
listen_backlog! 128
listen_port! 6432
log_connections 1
log_disconnections 1
log_pooler_errors 1
log_stats 1
logfile ""
login_notify_message ""
max_client_conn 100
max_db_client_connections 0
max_db_connections 0
max_packet_size 2147483647
max_prepared_statements 200
max_user_client_connections 0
max_user_connections 0
min_pool_size 0
peer_id 0
pidfile! ""
pkt_buf! 4096
pool_idle_timeout 0
pool_mode session
query_timeout 0
query_wait_notify 5
query_wait_timeout 120
reserve_pool_size 0
reserve_pool_timeout 5
resolv_conf! ""
sbuf_loopcnt 5
scram_iterations 4096
server_check_delay 30
server_check_query <empty>
server_connect_timeout 15
server_fast_close 0
server_idle_timeout 600
server_lifetime 3600
server_login_retry 15
server_reset_query DISCARD ALL
server_reset_query_always 0
server_round_robin 0
server_tls13_ciphers -
server_tls_ca_file ""
server_tls_cert_file ""
server_tls_ciphers default
server_tls_key_file ""
server_tls_protocols secure
server_tls_sslmode prefer
so_reuseport! 0
stats_period 60
stats_users ""
suspend_timeout 10
syslog 0
syslog_facility daemon
syslog_ident pgbouncer
tcp_defer_accept 1
tcp_keepalive 1
tcp_keepcnt 0
tcp_keepidle 0
tcp_keepintvl 0
tcp_socket_buffer 0
tcp_user_timeout 0
track_extra_parameters! IntervalStyle
transaction_timeout 0
unix_socket_dir! /tmp
unix_socket_group! ""
unix_socket_mode! 0777
user! -
verbose 0
"""
OUR_OWN_KEYS = {
    "workers",
    "spread_clients",
    "shutdown_rate",
    "shutdown_timeout",
    "worker_stuck_timeout",
    "external_auth_queue",
    "external_auth_threads",
    "log_format",
    "auth_query_cache_ttl",
    "auth_query_negative_ttl",
    "auth_query_timeout",
    "cancel_abandoned",
    "clean_changed_servers",
    "clean_custom_parameters",
    "clean_sequences",
    "core_dumps",
    "failed_login_delay",
    "max_failed_logins",
    "scram_max_iterations",
    "server_tls_sslnegotiation",
    "cache_unnamed_statements",
    "max_client_prepared_bytes",
    "max_client_prepared_statements",
    "max_prepared_memory",
    "max_buffer_memory",
}
DATABASE_KEYS = """
dbname host port user password auth_user auth_query auth_dbname pool_size
min_pool_size reserve_pool_size reserve_pool pool_mode max_db_connections
max_db_client_connections server_lifetime query_wait_timeout connect_query
load_balance_hosts client_encoding datestyle timezone application_name
server_tls_sslmode server_tls_sslnegotiation server_tls_ca_file server_tls_cert_file
server_tls_key_file server_tls_protocols server_tls_ciphers server_tls13_ciphers
"""
USER_KEYS = """
pool_mode pool_size reserve_pool_size max_user_connections
max_user_client_connections query_timeout idle_transaction_timeout
transaction_timeout client_idle_timeout query_wait_timeout
"""
PEER_KEYS = "host port pool_size"
RECONNECT_KEYS = """
dbname host port user connect_query auth_dbname auth_query load_balance_hosts
server_tls_sslmode server_tls_sslnegotiation server_tls_ca_file server_tls_cert_file
server_tls_key_file server_tls_protocols server_tls_ciphers server_tls13_ciphers
"""


def row(name: str, table: Table = Settings) -> Row:
    return rows_by_name(table)[name]


def main_keys() -> list[tuple[str, bool, str]]:
    lines = [line.split(" ", 1) for line in MAIN_KEYS.strip().splitlines()]
    return [(key.rstrip("!"), key.endswith("!"), default) for key, default in lines]


def test_every_key_of_pgbouncer_is_there_and_no_other() -> None:
    theirs = {name for name, _, _ in main_keys()}
    assert set(rows_by_name(Settings)) == theirs | OUR_OWN_KEYS
    assert set(rows_by_name(Database)) == set(DATABASE_KEYS.split())
    assert set(rows_by_name(User)) == set(USER_KEYS.split())
    assert set(rows_by_name(Peer)) == set(PEER_KEYS.split())


@pytest.mark.parametrize(("name", "boot_only", "default"), main_keys())
def test_default_and_reload_are_those_of_pgbouncer(
    name: str, boot_only: bool, default: str
) -> None:
    found = row(name)
    assert (found.reload is Reload.RESTART) == boot_only
    if default == "-":
        assert found.default is None
    elif default != "?":
        assert format_value(found, found.default) == default.replace('""', "")


def test_what_replaces_servers() -> None:
    assert {r.name for r in rows(Database) if r.reconnect} == set(
        RECONNECT_KEYS.split()
    )


@pytest.mark.parametrize(("table", "entry"), EVERY_ROW)
def test_every_row_is_documented(table: Table, entry: Row) -> None:
    assert re.fullmatch(r"[^\s].*\.", entry.doc), "one or more whole sentences"
    if entry.kind is Kind.TIME:
        assert entry.unit == "s"
    assert (entry.kind is Kind.ENUM) == (entry.choices is not None)
    assert entry.low <= entry.high


@pytest.mark.parametrize(("table", "entry"), EVERY_ROW)
def test_every_default_is_read_back(table: Table, entry: Row) -> None:
    text = format_value(entry, entry.default)
    if entry.default is None and entry.kind not in (Kind.STRING, Kind.PATH):
        assert text == ""
    else:
        value = parse_value(entry, text)
        assert value == entry.default
        assert type(value) is type(entry.default)


@pytest.mark.parametrize(("table", "entry"), EVERY_ROW)
def test_every_choice_is_read_in_any_case(table: Table, entry: Row) -> None:
    choices: type[StrEnum] | tuple[()] = entry.choices or ()
    for choice in choices:
        assert parse_value(entry, choice.value.upper()) is choice


@settings_of_hypothesis(max_examples=1000)
@given(
    entry=st.sampled_from([row for table in TABLES for row in rows(table)]),
    text=st.text(max_size=40) | st.text(st.sampled_from("0179-+xe.,~ ")),
)
def test_any_text_is_a_value_or_a_config_error(entry: Row, text: str) -> None:
    problem = None
    try:
        value = parse_value(entry, text)
    except ConfigError as error:
        value, problem = None, str(error)
    if problem is not None:
        assert entry.name in problem
        assert "\n" not in problem
    elif value is not None and entry.kind is not Kind.PATH:
        assert parse_value(entry, format_value(entry, value)) == value


@given(st.integers(-(2**40), 2**40))
def test_whole_numbers_in_three_bases(number: int) -> None:
    entry = row("default_pool_size")
    sign = "-" if number < 0 else ""
    texts = (str(number), f"{sign}0{abs(number):o}", hex(number))
    for text in texts:
        if 0 <= number < 2**31:
            assert parse_value(entry, text) == number
        else:
            with pytest.raises(ConfigError, match="from 0 to 2147483647"):
                parse_value(entry, text)


@given(st.floats(min_value=0, max_value=1e11, allow_subnormal=False))
def test_times_are_read_back(seconds: float) -> None:
    entry = row("query_timeout")
    assert parse_value(entry, format_value(entry, seconds)) == seconds


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("listen_port", "0x1920", 6432),
        ("unix_socket_mode", "0700", 0o700),
        ("unix_socket_mode", "511", 0o777),
        ("log_connections", "0", False),
        ("log_connections", "0x1", True),
        ("log_connections", "yes", True),
        ("log_connections", "OFF", False),
        ("query_timeout", "1.5", 1.5),
        ("query_timeout", "200ms", 0.2),
        ("query_timeout", "1min", 60.0),
        ("query_timeout", "1.5 H", 5400.0),
        ("stats_period", "2min", 120),
        ("stats_period", "3000ms", 3),
        ("tcp_user_timeout", "3s", 3000),
        ("tcp_user_timeout", "3", 3),
        ("max_packet_size", "64kB", 65536),
        ("max_packet_size", "1.5MB", 3 << 19),
        ("max_prepared_memory", "1GB", 1 << 30),
        ("query_timeout", ".5", 0.5),
        ("query_timeout", "1e2", 100.0),
        ("auth_type", "Trust", AuthType.TRUST),
        ("listen_addr", "127.0.0.1, ::1", ("127.0.0.1", "::1")),
        ("admin_users", "a b,,c ", ("a", "b", "c")),
        ("auth_file", "", None),
        ("auth_hba_file", "", ""),
        ("workers", "auto", AUTO_WORKERS),
        ("workers", "4", 4),
        ("server_check_query", "", ""),
    ],
)
def test_values(name: str, text: str, value: object) -> None:
    assert parse_value(row(name), text) == value


@pytest.mark.parametrize(
    ("name", "text", "right"),
    [
        ("listen_port", "0", "from 1 to 65535"),
        ("listen_port", "65536", "from 1 to 65535"),
        ("listen_port", "64 32", "must be a whole number"),
        ("listen_port", "", "must be a whole number"),
        ("listen_port", "1_000", "must be a whole number"),
        ("listen_port", "09", "octal"),
        ("listen_port", "1" * 5000, "must be a whole number"),
        ("max_client_conn", "-1", "from 0 to"),
        ("log_connections", "yess", "must be 0 or 1"),
        ("log_connections", "2", "must be 0 or 1"),
        ("query_timeout", "-1", "0 or more"),
        ("query_timeout", "5m", "with a unit (us, ms, s, min, h, d)"),
        ("query_timeout", "-5s", "0 or more"),
        ("query_timeout", "5 s s", "0 or more"),
        ("query_timeout", "9e99d", "0 or more"),
        ("query_timeout", "999999999d", "at most"),
        ("stats_period", "1500ms", "a whole number"),
        ("max_packet_size", "1q", "with a unit (B, kB, MB, GB, TB)"),
        ("max_packet_size", "0.3kB", "a whole number"),
        ("max_packet_size", "9TB", "a whole number from"),
        ("max_client_conn", "5s", "a whole number"),
        ("query_timeout", "nan", "time in seconds"),
        ("query_timeout", "inf", "time in seconds"),
        ("query_timeout", "1e300", "at most 1000000000000"),
        ("pool_mode", "transactions", 'did you mean "transaction"?'),
        ("pool_mode", "x", "one of session, transaction, statement"),
        ("unix_socket_mode", "777", "octal with a leading 0"),
        ("unix_socket_mode", "rwx", "octal with a leading 0"),
        ("workers", "0", "must be auto or a whole number from 1 to 128"),
        ("workers", "129", "must be auto"),
        ("track_extra_parameters", "search_path, a'b", '"a\'b" is none'),
        ("track_extra_parameters", "a;b", "names of parameters"),
        ("track_extra_parameters", "x" * 64, "at most 63 bytes"),
        ("track_extra_parameters", ELEVEN, "has 11 parameters, and at most 10"),
        ("logfile", "~no-such-user-here/log", "home directory"),
    ],
)
def test_wrong_values_say_what_is_right(name: str, text: str, right: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_value(row(name), text, file="p.ini", line=7)
    assert right in str(caught.value)
    assert str(caught.value).startswith(f"p.ini:7: {name}: ")
    assert (caught.value.file, caught.value.line) == ("p.ini", 7)
    assert caught.value.setting == name


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("server_lifetime", "1h", 3600),
        ("server_lifetime", "0s", None),
        ("query_wait_timeout", "5000ms", 5),
        ("pool_size", "-1", None),
        ("pool_size", "0", 0),
        ("pool_size", "010", 10),
        ("max_db_connections", "0", None),
        ("server_lifetime", "60", 60),
        ("pool_mode", "session", PoolMode.SESSION),
    ],
)
def test_database_values(name: str, text: str, value: object) -> None:
    assert parse_value(row(name, Database), text) == value


@pytest.mark.parametrize("text", ["0x10", "ten", "", "99999999999"])
def test_numbers_of_connect_strings_are_decimal(text: str) -> None:
    with pytest.raises(ConfigError, match="or -1 for the wider setting"):
        parse_value(row("pool_size", Database), text, owner='[databases] "a"')


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse_value(row("auth_file"), "~/users") == "/home/someone/users"
    assert parse_value(row("server_reset_query"), "~/users") == "~/users"


def test_secrets_are_not_shown() -> None:
    database = Database(name="a", password="hunter2")
    assert "hunter2" not in repr(database)
    assert row("password", Database).secret
    assert "hunter2" not in repr(Settings(auth_ldap_options="hunter2"))


def test_alias_is_the_same_row() -> None:
    assert row("reserve_pool", Database) is row("reserve_pool_size", Database)


def test_errors_stay_on_one_short_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_value(row("pool_mode"), "x\n\x1b[31m" + "y" * 5000)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 4, 5})
    assert settings.usable_cores() == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(5000)))
    assert settings.usable_cores() == 128


def test_the_documentation_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "settings.md"
    assert page.read_text() == settings.render_markdown(), (
        "run: python -m pooler.config.settings > docs/settings.md"
    )
