# SPDX-License-Identifier: MIT
"""Our login to a server: every request, split, with bytes behind, hostile."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.login import packets
from pooler.login.md5 import md5_response, md5_secret
from pooler.login.scram import KeyRequest, ScramKeys, Verifier
from pooler.login.server import (
    MAX_NOTICES,
    ServerGreeting,
    ServerLogin,
    ServerLoginError,
)
from pooler.login.startup import StartupMessage, parse_startup
from tests.server_exchange import ServerExchange

VERIFIER = Verifier.from_password("secret", 2, b"salt" * 4)
KEYS = ScramKeys.from_password("secret", VERIFIER.salt, VERIFIER.iterations)
WELCOME = b"".join(
    (
        packets.parameter_status("server_version", "15.0"),
        packets.parameter_status("datestyle", "ISO, MDY"),
        packets.backend_key_data(0x80000001, b"keys"),
        packets.ready_for_query(),
    )
)


def new_login(
    secret: str | None = "secret", keys: ScramKeys | None = None
) -> ServerLogin:
    return ServerLogin("joe", "shop", secret, {"client_encoding": "UTF8"}, keys)


def feed(login: ServerLogin, data: bytes, piece: int = 0) -> tuple[bytes, bytes]:
    """Deliver bytes in pieces; return what was answered and what was left."""
    pending = answers = b""
    step = piece or max(len(data), 1)
    for start in range(0, len(data), step):
        pending += data[start : start + step]
        consumed, send = login.receive(pending)
        assert 0 <= consumed <= len(pending)
        pending = pending[consumed:]
        answers += send
    return answers, pending


def refused(login: ServerLogin, data: bytes) -> ServerLoginError:
    with pytest.raises(ServerLoginError) as caught:
        feed(login, data)
    return caught.value


def sasl(*mechanisms: str) -> bytes:
    return packets.authentication_sasl(mechanisms)


PIECES = pytest.mark.parametrize("piece", [0, 1, 5])


def test_startup_packet() -> None:
    found = parse_startup(new_login().start())
    assert isinstance(found, StartupMessage)
    assert (found.user, found.database, found.protocol) == ("joe", "shop", (3, 2))
    assert found.parameters == {"client_encoding": "UTF8"}


def test_startup_packet_of_protocol_3_0() -> None:
    found = parse_startup(ServerLogin("joe", "shop", None, {}, minor=0).start())
    assert isinstance(found, StartupMessage)
    assert found.protocol == (3, 0)


def test_startup_packet_of_a_walsender() -> None:
    parameters = {"replication": "database", "options": "-c+a%3D1", "Geqo": "off"}
    found = parse_startup(ServerLogin("joe", "shop", None, parameters).start())
    assert isinstance(found, StartupMessage)
    assert found.replication == "logical"
    assert found.parameters == {"options": "-c+a%3D1", "Geqo": "off"}


def test_parameters_cannot_change_who_logs_in() -> None:
    login = ServerLogin("joe", "shop", None, {"user": "boss", "database": "x"})
    found = parse_startup(login.start())
    assert isinstance(found, StartupMessage)
    assert (found.user, found.database) == ("joe", "shop")


@pytest.mark.parametrize("value", ["a" * 10_000, "a\0b"])
def test_startup_packet_that_no_server_would_take(value: str) -> None:
    with pytest.raises(ServerLoginError):
        ServerLogin("joe", "shop", None, {"application_name": value}).start()


@PIECES
@pytest.mark.parametrize("trailing", [b"", b"N", b"A\0\0\0\x10rest"])
def test_trust(piece: int, trailing: bytes) -> None:
    login = new_login(None)
    data = packets.authentication_ok() + WELCOME
    answers, left = feed(login, data + trailing, piece)
    assert (answers, left) == (b"", trailing)
    assert login.greeting == ServerGreeting(
        parameters={"server_version": "15.0", "DateStyle": "ISO, MDY"},
        backend_pid=0x80000001,
        cancel_key=b"keys",
        minor_protocol=2,
    )


@PIECES
def test_cleartext(piece: int) -> None:
    login = new_login()
    answers, _ = feed(login, packets.authentication_cleartext_password(), piece)
    assert answers == packets.password_message("secret")
    feed(login, packets.authentication_ok() + WELCOME, piece)
    assert login.greeting is not None


@PIECES
@pytest.mark.parametrize("secret", ["secret", md5_secret("secret", "joe")])
def test_md5(secret: str, piece: int) -> None:
    login = new_login(secret)
    answers, _ = feed(login, packets.authentication_md5_password(b"\0\xff\1\2"), piece)
    expected = md5_response(md5_secret("secret", "joe"), b"\0\xff\1\2")
    assert answers == packets.password_message(expected)
    feed(login, packets.authentication_ok() + WELCOME, piece)
    assert login.greeting is not None


TOKEN = "t" * 65_530  # the longest that PostgreSQL takes in the clear


def test_a_token_instead_of_a_password() -> None:
    login = new_login(TOKEN)
    answers, _ = feed(login, packets.authentication_cleartext_password())
    assert answers == packets.password_message(TOKEN)
    assert len(answers) == 1 + 65_535
    login = new_login(TOKEN)
    answers, _ = feed(login, packets.authentication_md5_password(b"salt"))
    expected = md5_response(md5_secret(TOKEN, "joe"), b"salt")
    assert answers == packets.password_message(expected)
    login = new_login(TOKEN)
    exchange = ServerExchange(Verifier.from_password(TOKEN, 2, b"salt" * 4))
    signature = exchange.final(begin_scram(login, exchange))
    data = packets.authentication_sasl_final(signature) + packets.authentication_ok()
    feed(login, data + WELCOME)
    assert login.greeting is not None


def begin_scram(login: ServerLogin, exchange: ServerExchange, piece: int = 0) -> bytes:
    """Go up to our proof; return it."""
    offer = sasl("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256")
    answers, _ = feed(login, offer, piece)
    mechanism, first = packets.read_sasl_initial_response(answers[5:])
    assert mechanism == "SCRAM-SHA-256"
    assert first is not None
    challenge = packets.authentication_sasl_continue(exchange.first(first))
    answers, _ = feed(login, challenge, piece)
    return answers[5:]


@PIECES
@pytest.mark.parametrize(
    ("secret", "keys"),
    [
        ("secret", None),
        ("secret", KEYS),
        ("secret", ScramKeys.from_password("secret", b"other", 2)),
        (VERIFIER.to_text(), KEYS),
        (None, KEYS),
    ],
)
def test_scram(secret: str | None, keys: ScramKeys | None, piece: int) -> None:
    login = new_login(secret, keys)
    exchange = ServerExchange(VERIFIER)
    signature = exchange.final(begin_scram(login, exchange, piece))
    data = packets.authentication_sasl_final(signature) + packets.authentication_ok()
    assert feed(login, data + WELCOME + b"rest", piece) == (b"", b"rest")
    assert login.greeting is not None
    assert login.greeting.scram_keys == KEYS


@PIECES
def test_keys_that_somebody_else_derives(piece: int) -> None:
    """Until they are there nothing is read; what has come is not lost."""
    asked: list[KeyRequest] = []
    login = ServerLogin("joe", "shop", "secret", {}, find_keys=asked.append)
    exchange = ServerExchange(VERIFIER)
    assert begin_scram(login, exchange, piece) == b""
    assert asked == [login.wanted] == [KeyRequest("secret", VERIFIER.salt, 2)]
    assert "secret" not in repr(login.wanted)
    assert login.receive(b"anything") == (0, b"")
    answer = login.proceed(KEYS)
    assert login.wanted is None
    signature = exchange.final(answer[5:])
    data = packets.authentication_sasl_final(signature) + packets.authentication_ok()
    feed(login, data + WELCOME, piece)
    assert login.greeting is not None
    assert login.greeting.scram_keys == KEYS


def test_a_server_that_does_not_wait_for_our_proof() -> None:
    login = ServerLogin("joe", "shop", "secret", {}, find_keys=lambda _: None)
    begin_scram(login, ServerExchange(VERIFIER))
    login.proceed(KEYS)
    error = refused(login, packets.authentication_sasl_continue(b"r=x,s=YWJj,i=1"))
    assert "unexpected authentication request 11" in error.message


def test_keys_that_are_found_need_no_wait() -> None:
    login = ServerLogin("joe", "shop", "secret", {}, find_keys=lambda _: KEYS)
    exchange = ServerExchange(VERIFIER)
    assert exchange.final(begin_scram(login, exchange))
    assert login.wanted is None


def test_scram_server_that_proves_nothing() -> None:
    login = new_login()
    begin_scram(login, ServerExchange(VERIFIER))
    error = refused(login, packets.authentication_ok())
    assert error.message == (
        "server login failed: unexpected authentication request 0 (AuthenticationOk)"
        " from server"
    )


def test_scram_server_that_says_ok_instead_of_a_challenge() -> None:
    login = new_login()
    feed(login, sasl("SCRAM-SHA-256"))
    refused(login, packets.authentication_ok())


def test_scram_server_with_a_wrong_proof() -> None:
    login = new_login()
    begin_scram(login, ServerExchange(VERIFIER))
    wrong = packets.authentication_sasl_final(b"v=" + b"A" * 43 + b"=")
    error = refused(login, wrong)
    assert "the server does not know the password" in error.message
    assert error.sqlstate == "28P01"


def test_scram_with_costly_challenge() -> None:
    login = new_login()
    answers, _ = feed(login, sasl("SCRAM-SHA-256"))
    nonce = answers.partition(b"r=")[2]
    challenge = b"r=" + nonce + b"x,s=YWJj,i=10000000"
    error = refused(login, packets.authentication_sasl_continue(challenge))
    assert "not within 1..1000000 (scram_max_iterations)" in error.message


def test_costly_challenges_that_are_allowed() -> None:
    login = ServerLogin(
        "joe", "shop", "secret", {}, max_iterations=7, find_keys=lambda _: None
    )
    answers, _ = feed(login, sasl("SCRAM-SHA-256"))
    nonce = answers.partition(b"r=")[2]
    feed(login, packets.authentication_sasl_continue(b"r=%bx,s=YWJj,i=7" % nonce))
    assert login.wanted is not None


@pytest.mark.parametrize(
    ("secret", "request_message", "text"),
    [
        (None, packets.authentication_cleartext_password(), "give none"),
        ("", packets.authentication_cleartext_password(), "give none"),
        (None, packets.authentication_md5_password(b"salt"), "give none"),
        (None, sasl("SCRAM-SHA-256"), "give none"),
        ("md5" + "0" * 32, packets.authentication_cleartext_password(), "is a hash"),
        ("md5" + "0" * 32, sasl("SCRAM-SHA-256"), "is a hash"),
        (VERIFIER.to_text(), packets.authentication_md5_password(b"salt"), "is a hash"),
        (VERIFIER.to_text(), sasl("SCRAM-SHA-256"), "is a hash"),
        ("secret", sasl("SCRAM-SHA-1", "OAUTHBEARER"), "no supported SASL mechanism"),
        ("secret", sasl(), "no supported SASL mechanism"),
        ("secret", b"R\0\0\0\x08\0\0\0\x07", r"request 7 \(GSSAPI\)"),
        ("secret", b"R\0\0\0\x08\0\0\0\x09", r"request 9 \(SSPI\)"),
        ("secret", b"R\0\0\0\x08\0\0\0\x04", r"request 4 \(crypt\)"),
        ("secret", b"R\0\0\0\x08\0\0\0\x63", r"request 99 \(unknown\)"),
        ("secret", b"R\0\0\0\x08\0\0\0\x0c", "unexpected authentication request 12"),
        ("secret", b"R\0\0\0\x04", "malformed Authentication message"),
        ("secret", b"R\0\0\0\x0a\0\0\0\x05ab", "malformed AuthenticationMD5Password"),
        ("secret", b"R\0\0\0\x09\0\0\0\x00x", "malformed AuthenticationOk"),
        ("secret", b"R\0\0\0\x09\0\0\0\x0ax", "malformed AuthenticationSASL"),
        ("secret", packets.ready_for_query(), "unexpected message of type b'Z'"),
        ("secret", packets.parameter_status("a", "b"), "unexpected message"),
        ("secret", b"D\0\0\0\4", "unexpected message of type b'D'"),
    ],
)
def test_requests_we_cannot_answer(
    secret: str | None, request_message: bytes, text: str
) -> None:
    login = new_login(secret)
    with pytest.raises(ServerLoginError, match=text) as caught:
        feed(login, request_message)
    assert login.greeting is None
    if secret:
        assert secret not in caught.value.message


def test_error_of_the_server() -> None:
    text = 'password authentication failed for user "joe"'
    error = refused(new_login(), packets.error_response("FATAL", "28P01", text))
    assert error.message == text
    assert (error.sqlstate, error.server_message) == ("28P01", text)


@pytest.mark.parametrize(
    "body",
    [b"", b"\0", b"M", b"Mgone\0", b"SFATAL\0Mgone\0\0", b"C\0Mgone\0\0", b"C123\0\0"],
)
def test_error_without_some_fields(body: bytes) -> None:
    error = refused(new_login(), packets.message(b"E", body))
    assert error.sqlstate == "08006"
    assert error.message == (error.server_message or "")
    assert error.message in ("gone", "the server gave no reason")


def test_error_after_authentication() -> None:
    login = new_login(None)
    feed(login, packets.authentication_ok())
    missing = packets.error_response("FATAL", "3D000", 'database "shop" does not exist')
    assert refused(login, missing).sqlstate == "3D000"


def test_error_in_the_form_of_protocol_2() -> None:
    error = refused(new_login(), b"Ecould not fork new process\n\0")
    assert "could not fork new process" in error.message


@PIECES
def test_notices_and_negotiation_are_tolerated(piece: int) -> None:
    notice = packets.notice_response("WARNING", "01000", "careful")
    data = b"".join(
        (
            notice,
            packets.negotiate_protocol_version(0, ()),
            notice,
            packets.authentication_ok(),
            notice,
            notice * MAX_NOTICES,
            packets.message(b"N"),
            WELCOME,
        )
    )
    login = new_login(None)
    feed(login, data, piece)
    assert login.greeting is not None
    assert login.greeting.notices == ("careful",) * MAX_NOTICES
    assert login.greeting.minor_protocol == 0


def minor_of(login: ServerLogin, data: bytes, piece: int = 0) -> int:
    feed(login, data + packets.authentication_ok() + WELCOME, piece)
    assert login.greeting is not None
    return login.greeting.minor_protocol


@PIECES
@pytest.mark.parametrize(
    ("asked", "answers", "agreed"),
    [
        (0, [], 0),
        (2, [], 2),
        (2, [0], 0),
        # PgBouncer may say it twice, and some say it though nothing changes.
        (2, [0, 0], 0),
        (2, [2], 2),
        (0, [0], 0),
    ],
)
def test_negotiation(asked: int, answers: list[int], agreed: int, piece: int) -> None:
    login = ServerLogin("joe", "shop", None, {}, minor=asked)
    data = b"".join(packets.negotiate_protocol_version(a, ()) for a in answers)
    assert minor_of(login, data, piece) == agreed


@pytest.mark.parametrize("minor", [0, 2])
@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (packets.negotiate_protocol_version(1, ()), "with 3.1"),
        (packets.negotiate_protocol_version(3, ()), "with 3.3"),
        (packets.negotiate_protocol_version(0x1_0000, ()), "with 4.0"),
        (packets.negotiate_protocol_version(-0x1_0000, ()), "with 2.0"),
        # Only the minor version, as the documentation could be read.
        (packets.message(b"v", b"\0\0\0\0\0\0\0\0"), "with 0.0"),
        (packets.message(b"v", b"\xff\xff\xff\xff\0\0\0\0"), "with -1.65535"),
        (
            packets.negotiate_protocol_version(0, ["_pq_.x"]),
            "protocol options it was not asked for",
        ),
        (
            packets.message(b"v", b"\0\3\0\0\xff\xff\xff\xff"),
            "protocol options it was not asked for",
        ),
        (packets.message(b"v"), "malformed NegotiateProtocolVersion"),
        (packets.message(b"v", b"\0\3\0\0"), "malformed NegotiateProtocolVersion"),
        (
            packets.message(b"v", b"\0\3\0\0\0\0\0\0x"),
            "malformed NegotiateProtocolVersion",
        ),
    ],
)
def test_negotiation_that_is_nonsense(answer: bytes, text: str, minor: int) -> None:
    error = refused(ServerLogin("joe", "shop", None, {}, minor=minor), answer)
    assert text in error.message
    assert error.sqlstate == "08P01"
    assert error.unsupported_protocol == (minor == 2)


def test_negotiation_above_what_was_asked() -> None:
    login = ServerLogin("joe", "shop", None, {}, minor=0)
    error = refused(login, packets.negotiate_protocol_version(2, ()))
    assert error.message == (
        "server login failed: the server answers protocol 3.0 with 3.2"
    )


def test_negotiation_that_changes_its_mind() -> None:
    answers = [packets.negotiate_protocol_version(minor, ()) for minor in (2, 0)]
    assert (
        "negotiates the protocol twice"
        in refused(new_login(), b"".join(answers)).message
    )


@pytest.mark.parametrize(
    ("sqlstate", "text", "unsupported"),
    [
        (
            "0A000",
            "unsupported frontend protocol 3.2: server supports 1.0 to 3.0",
            True,
        ),
        ("0A000", "nicht unterstütztes Frontend-Protokoll 3.2: bis 3.0", True),
        ("08P01", "unsupported frontend protocol", True),
        ("08P01", "unknown protocol version 196610", True),
        ("08P01", "bad packet header: '0000004f00030002'", True),
        ("0A000", "SSL is not supported", False),
        ("08P01", "unsupported startup parameter: options", False),
        ("28000", "unsupported frontend protocol 3.2", False),
        ("28P01", "password authentication failed", False),
    ],
)
@PIECES
def test_server_that_refuses_the_protocol(
    sqlstate: str, text: str, unsupported: bool, piece: int
) -> None:
    def error_of(login: ServerLogin, before: bytes = b"") -> ServerLoginError:
        answer = packets.error_response("FATAL", sqlstate, text)
        with pytest.raises(ServerLoginError) as caught:
            feed(login, before + answer, piece)
        assert (caught.value.sqlstate, caught.value.server_message) == (sqlstate, text)
        return caught.value

    assert error_of(new_login()).unsupported_protocol == unsupported
    notice = packets.notice_response("NOTICE", "00000", "hello")
    assert error_of(new_login(), notice).unsupported_protocol == unsupported
    # Another version was not asked for, or has been agreed on already.
    oldest = ServerLogin("joe", "shop", "secret", {}, minor=0)
    assert not error_of(oldest).unsupported_protocol
    for before in (
        packets.negotiate_protocol_version(0, ()),
        packets.authentication_cleartext_password(),
        packets.authentication_ok(),
    ):
        assert not error_of(new_login(), before).unsupported_protocol


def test_other_failures_are_not_about_the_protocol() -> None:
    assert not ServerLoginError("x").unsupported_protocol
    assert not refused(new_login(), packets.ready_for_query()).unsupported_protocol


def test_reported_names_are_those_of_the_table() -> None:
    tracked = {"search_path": "search_path", "is_superuser": "Is_Superuser"}
    login = ServerLogin("joe", "shop", None, {}, tracked=tracked)
    data = b"".join(
        packets.parameter_status(name, "x")
        for name in ("SEARCH_PATH", "is_superuser", "datestyle", "DateStyle")
    )
    feed(login, packets.authentication_ok() + data + packets.ready_for_query())
    assert login.greeting is not None
    assert list(login.greeting.parameters) == [
        "search_path",
        "Is_Superuser",
        "datestyle",
        "DateStyle",
    ]


def test_server_without_a_cancel_key() -> None:
    login = new_login(None)
    feed(login, packets.authentication_ok() + packets.ready_for_query())
    assert login.greeting == ServerGreeting({}, 0, b"", minor_protocol=2)


@PIECES
@pytest.mark.parametrize("minor", [0, 2])
@pytest.mark.parametrize("size", [4, 5, 32, 256])
def test_cancel_key(size: int, minor: int, piece: int) -> None:
    login = ServerLogin("joe", "shop", None, {}, minor=minor)
    key = packets.backend_key_data(1, b"k" * size)
    data = packets.authentication_ok() + key + packets.ready_for_query()
    assert feed(login, data + b"rest", piece) == (b"", b"rest")
    assert login.greeting is not None
    assert login.greeting.cancel_key == b"k" * size
    assert "kkk" not in repr(login.greeting)


@pytest.mark.parametrize(
    "message",
    [
        packets.backend_key_data(1, b"key"),
        packets.backend_key_data(1, b"k" * 257),
        packets.message(b"K", b"abc"),
        packets.message(b"S", b"name\0value"),
        packets.message(b"S", b"name\0value\0x"),
        packets.message(b"S", b""),
        packets.ready_for_query(b"T"),
        packets.ready_for_query(b""),
        packets.ready_for_query(b"II"),
        packets.authentication_ok(),
        packets.negotiate_protocol_version(0, ()),
    ],
)
def test_malformed_after_authentication(message: bytes) -> None:
    refused(new_login(None), packets.authentication_ok() + message)


@pytest.mark.parametrize("length", [0, 3, 65_541, 0x7FFF_FFFF, 0xFFFF_FFFF])
@pytest.mark.parametrize("kind", [b"R", b"N", b"E", b"H"])
def test_length_is_judged_by_the_header(kind: bytes, length: int) -> None:
    error = refused(new_login(), kind + struct.pack("!I", length))
    assert f"length {length} is outside 4..65540" in error.message


SECOND_QUESTIONS = [
    (sasl("SCRAM-SHA-256"), "10 (SASL)"),
    (packets.authentication_cleartext_password(), "3 (password in the clear)"),
    (packets.authentication_md5_password(b"salt"), "5 (md5)"),
]


@pytest.mark.parametrize("first", SECOND_QUESTIONS)
@pytest.mark.parametrize("second", SECOND_QUESTIONS)
def test_one_question_is_all_that_a_server_has(
    first: tuple[bytes, str], second: tuple[bytes, str]
) -> None:
    """Not another proof by a weaker method, whichever the first was."""
    login = new_login()
    feed(login, first[0])
    error = refused(login, second[0])
    assert f"unexpected authentication request {second[1]} from server" in error.message


@pytest.mark.parametrize("second", SECOND_QUESTIONS)
def test_no_question_behind_our_proof(second: tuple[bytes, str]) -> None:
    login = new_login()
    begin_scram(login, ServerExchange(VERIFIER))
    assert "unexpected" in refused(login, second[0]).message


@pytest.mark.parametrize("secret", [VERIFIER.to_text(), None])
@pytest.mark.parametrize("question", SECOND_QUESTIONS[1:])
def test_keys_are_no_answer_to_a_weaker_question(
    secret: str | None, question: tuple[bytes, str]
) -> None:
    error = refused(new_login(secret, KEYS), question[0])
    assert error.sqlstate == "28P01"
    if secret is not None:
        assert secret not in error.message


def test_the_last_key_counts() -> None:
    """As with libpq; it is never longer than any version allows."""
    login = new_login(None)
    first = packets.backend_key_data(1, b"first")
    feed(login, packets.authentication_ok() + first + WELCOME)
    assert login.greeting is not None
    assert (login.greeting.backend_pid, login.greeting.cancel_key) == (
        0x80000001,
        b"keys",
    )


@pytest.mark.parametrize("kind", [b"N", b"S"])
def test_endless_little_messages(kind: bytes) -> None:
    login = new_login(None)
    feed(login, packets.authentication_ok())
    with pytest.raises(ServerLoginError, match="answer is too long"):
        feed(login, packets.message(kind, b"a\0b\0") * 5_000)


def test_endless_parameters() -> None:
    login = new_login(None)
    feed(login, packets.authentication_ok())
    many = [packets.parameter_status(f"a{n}", "x" * 1_000) for n in range(80)]
    with pytest.raises(ServerLoginError, match="too many parameters"):
        feed(login, b"".join(many))


@pytest.mark.parametrize(
    "hostile",
    [
        packets.error_response("FATAL", "28000", "x" * 60_000),
        packets.error_response("F" * 60_000, "28000", "x"),
        sasl("SCRAM-SHA-1", "x" * 60_000),
        b"E\0\2\0\0" + b"x" * 60_000,
    ],
)
def test_what_is_said_of_a_server_is_bounded(hostile: bytes) -> None:
    error = refused(new_login(), hostile)
    assert len(error.message) <= 1_025
    assert len(error.server_message or "") <= 1_025


def test_endless_answer() -> None:
    notice = packets.notice_response("NOTICE", "00000", "x" * 60_000)
    with pytest.raises(ServerLoginError, match="answer is too long"):
        feed(new_login(), notice * 20)


# Whatever comes.


def survive(login: ServerLogin, data: bytes) -> None:
    try:
        feed(login, data)
    except ServerLoginError:
        return
    assert login.greeting is None or b"Z" in data


@given(st.binary(max_size=80))
def test_any_bytes(data: bytes) -> None:
    survive(new_login(), data)
    after_ok = new_login()
    feed(after_ok, packets.authentication_ok())
    survive(after_ok, data)
    in_scram = new_login()
    feed(in_scram, sasl("SCRAM-SHA-256"))
    survive(in_scram, data)


MESSAGES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                packets.authentication_ok(),
                packets.authentication_cleartext_password(),
                packets.authentication_md5_password(b"salt"),
                sasl("SCRAM-SHA-256"),
                packets.backend_key_data(1, b"keys"),
                packets.ready_for_query(),
                packets.negotiate_protocol_version(0, ()),
                packets.negotiate_protocol_version(2, ()),
                packets.negotiate_protocol_version(0, ["_pq_.x"]),
            ]
        ),
        st.builds(
            packets.message,
            st.sampled_from([b"R", b"E", b"N", b"S", b"K", b"Z", b"v"]),
            st.binary(max_size=12),
        ),
        st.builds(packets.authentication_sasl_continue, st.binary(max_size=60)),
        st.builds(packets.authentication_sasl_final, st.binary(max_size=60)),
    ),
    max_size=6,
).map(b"".join)


@given(MESSAGES, st.integers(1, 9))
def test_any_messages_in_any_pieces(data: bytes, piece: int) -> None:
    def run(step: int) -> object:
        login = ServerLogin("joe", "shop", "secret", {}, secure_random=bytes)
        try:
            return feed(login, data, step), login.greeting
        except ServerLoginError as error:
            return error.sqlstate

    assert run(0) == run(piece)
