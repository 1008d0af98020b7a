# SPDX-License-Identifier: MIT
"""The first packet of a client: every rule, whole, split and with bytes behind."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.errors import LoginError, SilentLoginError
from pooler.login import packets
from pooler.login.startup import (
    CancelRequest,
    DirectTLS,
    GSSENCRequest,
    NeedMore,
    SSLRequest,
    Startup,
    StartupMessage,
    decode_options,
    parse_startup,
    select_parameters,
    split_options,
)
from pooler.parameters import TRACKED_PARAMETERS

LAYOUT = "invalid startup packet layout: expected terminator as last byte"


def raw_startup(body: bytes, code: int = packets.PROTOCOL_3_0) -> bytes:
    return struct.pack("!II", len(body) + 8, code) + body


def feed(data: bytes, trailing: bytes = b"") -> Startup:
    """Parse whole; check that no prefix says more than "more" and, with
    ``trailing`` bytes behind, that the request is the same."""
    for size in range(len(data)):
        assert parse_startup(data[:size]) == NeedMore()
    whole = parse_startup(data)
    if trailing:
        behind = parse_startup(data + trailing)
        if isinstance(whole, CancelRequest):
            assert behind == CancelRequest(whole.key, len(data + trailing))
        else:
            assert behind == whole
    return whole


def refused(data: bytes) -> LoginError:
    with pytest.raises(LoginError) as caught:
        parse_startup(data)
    return caught.value


def message(**parameters: str) -> StartupMessage:
    found = feed(packets.startup_message(parameters), b"Q\0\0\0\5\0")
    assert isinstance(found, StartupMessage)
    return found


def test_startup_message() -> None:
    found = message(user="joe", database="shop", application_name="x", options="-c a=b")
    assert found == StartupMessage(
        protocol=(3, 0),
        user="joe",
        database="shop",
        parameters={"application_name": "x", "options": "-c a=b"},
        protocol_options={},
        consumed=found.consumed,
    )
    assert not found.needs_negotiation


def test_consumed_stops_before_the_next_message() -> None:
    data = packets.startup_message({"user": "joe"})
    found = parse_startup(data + b"p\0\0\0\5x")
    assert isinstance(found, StartupMessage)
    assert found.consumed == len(data)


@pytest.mark.parametrize("database", [{}, {"database": ""}])
def test_database_defaults_to_user(database: dict[str, str]) -> None:
    assert message(user="joe", **database).database == "joe"


def test_names_that_are_not_utf8_survive() -> None:
    found = feed(raw_startup(b"user\0j\xf6e\0\0"))
    assert isinstance(found, StartupMessage)
    assert packets.encode(found.user) == b"j\xf6e"


def test_empty_value_is_a_value() -> None:
    assert message(user="joe", application_name="").parameters == {
        "application_name": ""
    }


def test_requests_for_encryption() -> None:
    assert feed(packets.ssl_request()) == SSLRequest(8)
    assert feed(packets.gssenc_request()) == GSSENCRequest(8)


@pytest.mark.parametrize(
    ("request_packet", "text"),
    [
        (packets.ssl_request(), "received unencrypted data after SSL request"),
        (
            packets.gssenc_request(),
            "received unencrypted data after GSSAPI encryption request",
        ),
    ],
)
def test_bytes_glued_behind_a_request_for_encryption(
    request_packet: bytes, text: str
) -> None:
    assert refused(request_packet + b"x").message == text


def test_request_for_encryption_with_a_body() -> None:
    assert feed(raw_startup(b"abcd", packets.SSL_REQUEST_CODE)) == SSLRequest(12)
    error = refused(raw_startup(b"abcd", packets.SSL_REQUEST_CODE) + b"x")
    assert error.message == "received unencrypted data after SSL request"


@pytest.mark.parametrize("secret_bytes", [4, 32, 256])
def test_cancel_request(secret_bytes: int) -> None:
    packet = packets.cancel_request(7, b"k" * secret_bytes)
    found = feed(packet, b"ignored")
    assert found == CancelRequest(b"\0\0\0\7" + b"k" * secret_bytes, len(packet))


@pytest.mark.parametrize("size", [0, 4, 7, 261])
def test_cancel_request_with_an_impossible_key(size: int) -> None:
    packet = raw_startup(b"k" * size, packets.CANCEL_REQUEST_CODE)
    error = refused(packet)
    assert error.message == "bad cancel request"
    assert isinstance(error, SilentLoginError)


def test_direct_tls() -> None:
    assert parse_startup(b"\x16") == DirectTLS()
    assert parse_startup(b"\x16\x03\x01\x02\x00\x01") == DirectTLS()


@pytest.mark.parametrize("length", [0, 4, 7, 10_005, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_absurd_length_is_refused_at_once(length: int) -> None:
    error = refused(struct.pack("!I", length))
    assert error.message == (
        f"bad packet header: length {length} of startup packet is outside 8..10004"
    )
    assert isinstance(error, SilentLoginError)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"X\0\0\0\4"])
def test_what_is_no_packet_is_refused_in_silence(data: bytes) -> None:
    error = refused(data)
    assert error.message.startswith("bad packet header")
    assert isinstance(error, SilentLoginError)


def test_longest_packet() -> None:
    head = b"user\0joe\0application_name\0"
    body = head + b"a" * (10_004 - 8 - len(head) - 2) + b"\0\0"
    assert isinstance(parse_startup(raw_startup(body)), StartupMessage)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"user",
        b"user\0joe",
        b"user\0joe\0",
        b"user\0\0joe",
        b"user\0joe\0\0\0",
        b"user\0joe\0\0x",
        b"user\0joe\0database\0",
        b"user\0joe\0database",
    ],
)
def test_layout(body: bytes) -> None:
    assert refused(raw_startup(body)).message == LAYOUT


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0x0002_0000, "old V2 protocol not supported"),
        (
            0x0001_0000,
            "unsupported frontend protocol 1.0: server supports 3.0 to 3.2",
        ),
        (
            0x0004_0001,
            "unsupported frontend protocol 4.1: server supports 3.0 to 3.2",
        ),
        (
            (1234 << 16) | 5681,
            "unsupported frontend protocol 1234.5681: server supports 3.0 to 3.2",
        ),
    ],
)
def test_protocol_version(code: int, text: str) -> None:
    error = refused(raw_startup(b"user\0joe\0\0", code))
    assert (error.message, error.sqlstate) == (text, "0A000")


def test_newer_minor_version_and_protocol_options_are_negotiated() -> None:
    found = feed(
        raw_startup(b"user\0joe\0_pq_.grease\x001\0\0", packets.PROTOCOL_3_0 + 9999)
    )
    assert isinstance(found, StartupMessage)
    assert found.protocol == (3, 9999)
    assert found.protocol_options == {"_pq_.grease": "1"}
    assert (found.minor_protocol, found.needs_negotiation) == (2, True)


@pytest.mark.parametrize(
    ("asked", "option", "agreed", "negotiated"),
    [
        (0, b"", 0, False),
        (0, b"_pq_.x\0\0", 0, True),
        (1, b"", 0, True),
        (1, b"_pq_.x\x001\0", 0, True),
        (2, b"", 2, False),
        (2, b"_pq_.x\0\0", 2, True),
        (3, b"", 2, True),
        (9999, b"", 2, True),
        (0xFFFF, b"_pq_.\0\0", 2, True),
    ],
)
def test_minor_version_that_is_agreed_on(
    asked: int, option: bytes, agreed: int, negotiated: bool
) -> None:
    body = b"user\0joe\0" + option + b"\0"
    found = feed(raw_startup(body, packets.PROTOCOL_3_0 + asked), b"p\0\0\0\5\0")
    assert isinstance(found, StartupMessage)
    assert found.protocol == (3, asked)
    assert (found.minor_protocol, found.needs_negotiation) == (agreed, negotiated)
    assert found.parameters == {}


def test_only_a_lower_case_prefix_makes_a_protocol_option() -> None:
    found = message(user="joe", **{"_PQ_.x": "1", "_pq_": "2"})
    assert found.parameters == {"_PQ_.x": "1", "_pq_": "2"}
    assert not found.needs_negotiation


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({}, "no username supplied"),
        ({"user": ""}, "no username supplied"),
        ({"database": "shop"}, "no username supplied"),
        ({"user": "u" * 128}, "username too long"),
        ({"user": "ü" * 64}, "username too long"),
        ({"user": "u", "database": "d" * 64}, "database name too long"),
    ],
)
def test_names_out_of_bounds(parameters: dict[str, str], text: str) -> None:
    assert refused(packets.startup_message(parameters)).message == text


def test_names_at_their_bounds() -> None:
    found = message(user="u" * 127, database="d" * 63)
    assert (len(found.user), len(found.database)) == (127, 63)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("", ["false", "F", "fAl", "off", "OF", "0", "no", "N"]),
        ("physical", ["true", "T", "tru", "on", "ON", "1", "yes", "Ye", "y"]),
        ("logical", ["database"]),
    ],
)
def test_replication(kind: str, values: list[str]) -> None:
    for value in values:
        found = message(user="joe", replication=value, geqo="off")
        assert (found.replication, found.database) == (kind, "joe")
        assert found.parameters == {"geqo": "off"}


def test_no_replication() -> None:
    assert message(user="joe").replication == ""


@pytest.mark.parametrize(
    "value",
    ["", "o", "Database", "DATABASE", "data", "2", "01", "truest", "onn", " on", "x y"],
)
def test_replication_of_no_kind(value: str) -> None:
    error = refused(packets.startup_message({"user": "joe", "replication": value}))
    assert error.message == f'invalid value for parameter "replication": "{value}"'
    assert error.sqlstate == "22023"


# Parameters.


def test_tracked_parameters_get_their_canonical_names() -> None:
    given_names = {name.upper(): name for name in TRACKED_PARAMETERS.values()}
    assert select_parameters(given_names, ()) == {
        name: name
        for name in (
            "client_encoding",
            "DateStyle",
            "TimeZone",
            "standard_conforming_strings",
            "application_name",
            "IntervalStyle",
        )
    }


def test_unknown_parameter() -> None:
    with pytest.raises(LoginError) as caught:
        select_parameters({"Extra_Float_Digits": "2"}, frozenset({"options"}))
    assert caught.value.message == "unsupported startup parameter: Extra_Float_Digits"


def test_ignored_parameter_is_dropped() -> None:
    ignored = frozenset({"extra_float_digits"})
    assert select_parameters({"Extra_Float_Digits": "2"}, ignored) == {}


def test_explicit_parameter_beats_options_in_any_order() -> None:
    pair = {"TimeZone": "UTC", "options": "-c timezone=PST8PDT -cdatestyle=ISO"}
    expected = {"TimeZone": "UTC", "DateStyle": "ISO"}
    assert select_parameters(pair, ()) == expected
    assert select_parameters(dict(reversed(pair.items())), ()) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {}),
        ("  ", {}),
        ("-c datestyle=ISO", {"DateStyle": "ISO"}),
        ("-cdatestyle=ISO", {"DateStyle": "ISO"}),
        ("--datestyle=ISO", {"DateStyle": "ISO"}),
        ("\t-c\n TimeZone=UTC  -c datestyle=", {"TimeZone": "UTC", "DateStyle": ""}),
        ("--client-encoding=UTF8", {"client_encoding": "UTF8"}),
        (r"-c datestyle=ISO,\ YMD", {"DateStyle": "ISO, YMD"}),
        (r"-c application_name=a\\b\=c", {"application_name": r"a\b=c"}),
        ("-c datestyle=ISO --datestyle=German", {"DateStyle": "German, DMY"}),
        ("-c datestyle=DMY --datestyle=sql", {"DateStyle": "SQL, DMY"}),
        ("-c timezone=a --timezone=b", {"TimeZone": "b"}),
    ],
)
def test_options(options: str, expected: dict[str, str]) -> None:
    assert select_parameters({"options": options}, ()) == expected


@pytest.mark.parametrize(
    "options", ["-c", "-c x", "-d 5", "word", "--", "-c =x", "--x"]
)
def test_options_of_another_form(options: str) -> None:
    with pytest.raises(LoginError) as caught:
        select_parameters({"options": options}, ())
    assert caught.value.message == (
        "unsupported options startup parameter: only '-c config=val'"
        " and '--config=val' are allowed"
    )
    assert select_parameters({"options": options}, {"options"}) == {}


def test_unknown_setting_in_options() -> None:
    options = {"options": "-c search_path=x -c timezone=UTC"}
    with pytest.raises(LoginError) as caught:
        select_parameters(options, ())
    assert caught.value.message == (
        "unsupported startup parameter in options: search_path"
    )
    assert select_parameters(options, {"options"}) == {"TimeZone": "UTC"}
    assert select_parameters(options, {"search_path"}) == {"TimeZone": "UTC"}


def test_more_tracked_parameters() -> None:
    tracked = {"search_path": "search_path", "datestyle": "DateStyle"}
    given_names = {
        "Search_Path": "a",
        "DATESTYLE": "ISO",
        "options": "--search-path=b -cdateStyle=German",
    }
    found = select_parameters(given_names, (), tracked)
    assert found == {"search_path": "a", "DateStyle": "ISO, DMY"}
    with pytest.raises(LoginError, match="unsupported startup parameter: TimeZone"):
        select_parameters({"TimeZone": "UTC"}, (), tracked)


@pytest.mark.parametrize(
    ("options", "decoded"),
    [
        ("-c+search_path%3Dfoo", "-c search_path=foo"),
        ("-c%20search_path%3Dfoo", "-c search_path=foo"),
        ("-c search_path%3Dfoo", "-c search_path=foo"),
        ("-c%20search_path=foo", "-c search_path=foo"),
        ("-c+search_path=foo", "-c search_path=foo"),
        ("-csearch_path%3Dfoo", "-csearch_path=foo"),
        ("%2D%2Dsearch_path%3Dfoo", "--search_path=foo"),
        ("%2d%2dsearch-path=foo%2cbar", "--search-path=foo,bar"),
        ("+-c+a.b%3D1+-c+c%3D2", " -c a.b=1 -c c=2"),
        ("-c+a%3D%C3%BC%ff", "-c a=ü\udcff"),
        ("-c+a%3D50%25", "-c a=50%"),
        ("-c+a%3D%zz", "-c a=%zz"),
    ],
)
def test_options_that_are_still_encoded(options: str, decoded: str) -> None:
    assert decode_options(options) == decoded


@pytest.mark.parametrize(
    "options",
    [
        "",
        "-c timezone=Etc/GMT+1",
        "-c application_name=100%25",
        "--timezone=Etc/GMT%2B1",
        "-cdatestyle=ISO,+MDY",
        # One that sets something is enough.
        "-c a=1 -c+b%3D2",
        "-c+b%3D2 -c a=1",
        # Nothing is gained.
        "-c+x",
        "-d+5",
        "%2Dd%205",
        "word",
        "-c",
        "-c+%3Dx",
        "-c+1a%3Dx",
        "search_path%3Dfoo",
        # A zero byte would end the text somewhere else.
        "-c+a%3Db%00c",
    ],
)
def test_options_that_stay_as_they_are(options: str) -> None:
    assert decode_options(options) == options


def test_encoded_options_are_selected_like_others() -> None:
    pair = {"options": "-c+timezone%3DUTC+-c+search_path%3Da%2Cb"}
    with pytest.raises(LoginError) as caught:
        select_parameters(pair, ())
    assert caught.value.message == (
        "unsupported startup parameter in options: search_path"
    )
    assert select_parameters(pair, {"options"}) == {"TimeZone": "UTC"}
    tracked = {"search_path": "search_path", "timezone": "TimeZone"}
    expected = {"TimeZone": "UTC", "search_path": "a,b"}
    assert select_parameters(pair, (), tracked) == expected


def test_split_options() -> None:
    assert split_options(r"a\ b  c\\" + "\\") == ["a b", "c\\"]


# Whatever comes.


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    check_any(data)


@given(
    st.sampled_from(
        [
            packets.PROTOCOL_3_0,
            packets.PROTOCOL_3_2,
            packets.PROTOCOL_3_0 + 9999,
            packets.SSL_REQUEST_CODE,
            packets.GSSENC_REQUEST_CODE,
            packets.CANCEL_REQUEST_CODE,
        ]
    ),
    st.lists(
        st.sampled_from(
            [
                b"user",
                b"",
                b"options",
                b"-c x",
                b"_pq_.a",
                b"\xff",
                b"replication",
                b"on",
            ]
        )
    ),
    st.binary(max_size=8),
)
def test_any_fields(code: int, fields: list[bytes], tail: bytes) -> None:
    check_any(raw_startup(b"\0".join(fields) + tail, code))


def check_any(data: bytes) -> None:
    try:
        found = parse_startup(data)
        if isinstance(found, StartupMessage):
            select_parameters(found.parameters, ())
    except LoginError:
        return
    if not isinstance(found, NeedMore | DirectTLS):
        assert 8 <= found.consumed <= len(data)


@given(st.text(alphabet="-c=x \\\t+%230D", max_size=30))
def test_any_options(text: str) -> None:
    with contextlib.suppress(LoginError):
        select_parameters({"options": text}, ())
    decoded = decode_options(text)
    assert decode_options(decoded) == decoded
    assert len(decoded) <= len(text)
    assert "\0" not in decoded
    assert select_parameters({"options": text}, {"options"}) == {}
