# SPDX-License-Identifier: MIT
"""Exceptions and the SQLSTATE codes we send. Base layer; imports nothing."""

from __future__ import annotations

# PostgreSQL documentation, "PostgreSQL Error Codes".
SUCCESSFUL_COMPLETION = "00000"
PROTOCOL_VIOLATION = "08P01"
CONNECTION_FAILURE = "08006"
SQLCLIENT_UNABLE_TO_CONNECT = "08001"
INVALID_PASSWORD = "28P01"  # noqa: S105 - an SQLSTATE, not a secret
INVALID_AUTHORIZATION = "28000"
INVALID_CATALOG_NAME = "3D000"
TOO_MANY_CONNECTIONS = "53300"
QUERY_CANCELED = "57014"
ADMIN_SHUTDOWN = "57P01"
CANNOT_CONNECT_NOW = "57P03"
INVALID_PARAMETER_VALUE = "22023"
FEATURE_NOT_SUPPORTED = "0A000"
INTERNAL_ERROR = "XX000"


class PoolerError(Exception):
    """Base of everything the pooler raises on purpose."""


class ConfigError(PoolerError):
    """A configuration that cannot be used; says where and what would be right."""

    def __init__(
        self,
        problem: str,
        *,
        file: str | None = None,
        line: int | None = None,
        setting: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = file
        self.line = line
        self.setting = setting
        where = ":".join(str(part) for part in (file, line) if part is not None)
        parts = [part for part in (where, setting, problem) if part]
        super().__init__(": ".join(parts))


class LoginError(PoolerError):
    """A login that must end: ``message`` goes to the peer as FATAL ``sqlstate``.

    ``why`` is for our log alone: what the peer is not told.
    """

    def __init__(
        self, message: str, sqlstate: str = PROTOCOL_VIOLATION, *, why: str = ""
    ) -> None:
        self.message = message
        self.sqlstate = sqlstate
        self.why = why
        super().__init__(message)


class SilentLoginError(LoginError):
    """A login that ends without a word, as with PostgreSQL: for our log only.

    What came is no packet, so nobody who would understand an answer waits for one.
    """


class NoAddressError(LoginError):
    """A name of a server leads nowhere, as far as whoever was asked knows."""


class LocalResourceError(LoginError):
    """We, not the server, ran out of something; it is worth trying again soon."""


class TlsError(PoolerError):
    """A handshake that cannot be; says OpenSSL's reason."""


# Why a connection was closed: the enumerator of session.records.CloseReason, what the
# log and the client read, the client's SQLSTATE. The texts are PgBouncer's.
CLOSE_REASON_ROWS: tuple[tuple[str, str, str], ...] = (
    ("CLOSE_NONE", "", ""),
    ("CLOSE_CLIENT_REQUEST", "client close request", ""),
    ("CLOSE_CLIENT_EOF", "client unexpected eof", ""),
    ("CLOSE_CLIENT_PROTO", "bad packet", PROTOCOL_VIOLATION),
    ("CLOSE_CLIENT_QUERY", "PQexec disallowed", PROTOCOL_VIOLATION),
    (
        "CLOSE_CLIENT_NOT_READY",
        "client disconnect while server was not ready",
        CONNECTION_FAILURE,
    ),
    (
        "CLOSE_CLIENT_IN_PROGRESS",
        "client disconnected with query in progress",
        CONNECTION_FAILURE,
    ),
    ("CLOSE_CLIENT_LOGIN", "login failed", ""),
    ("CLOSE_CLIENT_PARAMETER", "invalid server parameter", PROTOCOL_VIOLATION),
    ("CLOSE_SERVER_CRASHED", "server conn crashed?", CONNECTION_FAILURE),
    ("CLOSE_SERVER_EOF", "server connection closed", CONNECTION_FAILURE),
    ("CLOSE_SERVER_PROTO", "bad packet from server", PROTOCOL_VIOLATION),
    ("CLOSE_SERVER_DIRTY", "idle server got dirty", CONNECTION_FAILURE),
    ("CLOSE_SERVER_OBSOLETE", "obsolete connection", ADMIN_SHUTDOWN),
    ("CLOSE_SERVER_UNUSABLE", "server login failed", SQLCLIENT_UNABLE_TO_CONNECT),
    ("CLOSE_SERVER_RESET", "reset query failed", CONNECTION_FAILURE),
    ("CLOSE_SERVER_CHECK", "test query failed", CONNECTION_FAILURE),
    (
        "CLOSE_SERVER_ABANDONED",
        "abandoned query did not end (cancel_wait_timeout)",
        CONNECTION_FAILURE,
    ),
    ("CLOSE_SERVER_CHANGED", "session changed by a client", CONNECTION_FAILURE),
    (
        "CLOSE_STATEMENT_XACT",
        "transaction blocks not allowed in statement pooling mode",
        FEATURE_NOT_SUPPORTED,
    ),
    ("CLOSE_REPLICATION", "replication client disconnected", CONNECTION_FAILURE),
    ("CLOSE_QUERY_WAIT", "query_wait_timeout", PROTOCOL_VIOLATION),
    ("CLOSE_LOGIN_TIMEOUT", "client_login_timeout", PROTOCOL_VIOLATION),
    (
        "CLOSE_LOGIN_SERVER_DOWN",
        "client_login_timeout (server down)",
        PROTOCOL_VIOLATION,
    ),
    ("CLOSE_QUERY_TIMEOUT_WAITING", "query_timeout", PROTOCOL_VIOLATION),
    ("CLOSE_QUERY_TIMEOUT", "query timeout", PROTOCOL_VIOLATION),
    ("CLOSE_XACT_TIMEOUT", "transaction timeout", PROTOCOL_VIOLATION),
    ("CLOSE_IDLE_XACT_TIMEOUT", "idle transaction timeout", PROTOCOL_VIOLATION),
    ("CLOSE_CLIENT_IDLE", "client_idle_timeout", PROTOCOL_VIOLATION),
    ("CLOSE_SERVER_IDLE", "server idle timeout", CONNECTION_FAILURE),
    ("CLOSE_SERVER_LIFETIME", "server lifetime over", CONNECTION_FAILURE),
    ("CLOSE_SERVER_EVICTED", "evicted", ADMIN_SHUTDOWN),
    ("CLOSE_SHUTDOWN", "server shutting down", ADMIN_SHUTDOWN),
    ("CLOSE_SERVER_PAUSED", "pause mode", CONNECTION_FAILURE),
    ("CLOSE_SUSPEND_TIMEOUT", "suspend_timeout", PROTOCOL_VIOLATION),
    ("CLOSE_FORCED", "admin forced disconnect", ADMIN_SHUTDOWN),
    ("CLOSE_DATABASE_REMOVED", "database removed", ADMIN_SHUTDOWN),
    ("CLOSE_USER_REMOVED", "user removed", ADMIN_SHUTDOWN),
    ("CLOSE_CONFIG_CHANGED", "database configuration changed", ADMIN_SHUTDOWN),
    ("CLOSE_NO_MEMORY", "out of memory", "53200"),
    ("CLOSE_INTERNAL", "internal error", "XX000"),
)
