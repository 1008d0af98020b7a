# SPDX-License-Identifier: MIT
# ruff: noqa: RUF009 - setting() makes a dataclass field, which is what a row is
"""THE table of settings: every key of the configuration file. Config layer.

The fields of ``Settings`` ([pgbouncer]), ``Database``, ``User`` and ``Peer`` are the
rows; ``rows(cls)`` lists them. Parsing, printing, reload, documentation and SHOW CONFIG
all read the same rows, so a key that is not here does not exist.
``python -m pooler.config.settings`` prints ``docs/settings.md``.

Invariants: a default is printed by ``format_value`` and read back unchanged by
``parse_value`` (pooler.config.kinds); nothing here opens a file. In Database, User and
Peer ``None`` means "not said here: take the wider value", while ``0`` is always a
number.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pooler.config.kinds import (
    AUTO_WORKERS,
    INT_MAX,
    MAX_WORKERS,
    AuthType,
    DhParams,
    Kind,
    LoadBalance,
    LogFormat,
    PoolMode,
    Reload,
    Row,
    SyslogFacility,
    TlsMode,
    TlsNegotiation,
    format_value,
    setting,
)
from pooler.config.kinds import usable_cores as usable_cores  # for the unit test

UINT_MAX = 2**32 - 1
MIB = 1 << 20
MAX_DATABASE_NAME_BYTES = 63
MAX_USER_NAME_BYTES = 127

SQL_AUTH_QUERY = (
    "SELECT rolname, CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL"
    " ELSE rolpassword END FROM pg_authid WHERE rolname=$1 AND rolcanlogin"
)

INT, DECIMAL, OCTAL = Kind.INT, Kind.DECIMAL, Kind.OCTAL
BOOL, TIME, STRING = Kind.BOOL, Kind.TIME, Kind.STRING
PATH, LIST, ENUM, WORKERS = Kind.PATH, Kind.LIST, Kind.ENUM, Kind.WORKERS
PARAMETERS = Kind.PARAMETERS
NEW, RESTART = Reload.NEW_CONNECTIONS, Reload.RESTART


# A table reads by rows: one setting, two or three lines.
# fmt: off
@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The [pgbouncer] section."""

    admin_users: tuple[str, ...] = setting((), LIST,
        "Users who may run every command on the console.")
    application_name_add_host: bool = setting(False, BOOL,
        "Append ` - address:port` of the client to its application_name at login"
        " (` - unix(pid@host):port` by a Unix socket), as much of the name being kept"
        " as leaves room for it in 63 bytes. A replication client keeps its name. Each"
        " login is Python's then, and costs a few times as much.",
        reload=NEW)
    auth_dbname: str | None = setting(None, STRING,
        "Entry of [databases] where auth_query runs; unset is the one that the client"
        " asks for.", reload=NEW)
    auth_file: str | None = setting(None, PATH,
        "List of users and their secrets.", reload=NEW)
    auth_hba_file: str = setting("", PATH,
        "Rules that choose the method when auth_type is hba: lines of a pg_hba.conf,"
        " with the methods trust, reject, md5, password, scram-sha-256, peer, cert,"
        " pam (pamservice=), ldap (the options of PostgreSQL). A line that cannot be"
        " read ends the start.",
        reload=NEW)
    auth_ident_file: str | None = setting(None, PATH,
        "Maps from certificate or system names to database users, for auth_type hba.",
        reload=NEW)
    auth_ldap_options: str | None = setting(None, STRING,
        "LDAP options, in the form of an HBA line, when auth_type is ldap:"
        " PostgreSQL's ldapserver, ldapport, ldapscheme, ldaptls, ldapprefix,"
        " ldapsuffix, ldapbasedn, ldapbinddn, ldapbindpasswd, ldapsearchattribute,"
        " ldapsearchfilter, ldapurl. Values with spaces or commas stand in double"
        " quotes.",
        reload=NEW, secret=True)
    auth_query: str = setting(SQL_AUTH_QUERY, STRING,
        "Query that fetches the secret of a user that auth_file does not know: `$1` is"
        " the name; two columns, name and secret. No row is no such user, a NULL secret"
        " one that no password opens. It runs with search_path = pg_catalog, public.",
        reload=NEW)
    auth_query_cache_ttl: float = setting(0.0, TIME,
        "Keep a secret that auth_query has found this long; what has changed meanwhile"
        " (a password, VALID UNTIL, a role that is gone) is not seen. With 0 each login"
        " is told by a query that began after it. Not a PgBouncer setting.",
        unit="s", reload=NEW)
    auth_query_negative_ttl: float = setting(0.0, TIME,
        "Keep the answer that there is no such user this long. Not a PgBouncer"
        " setting.", unit="s", reload=NEW)
    auth_query_timeout: float = setting(10.0, TIME,
        "Time limit for connect, login and auth_query; 0 is off. Not a PgBouncer"
        " setting.", unit="s", reload=NEW)
    auth_type: AuthType = setting(AuthType.MD5, ENUM,
        "How clients log in. md5 does SCRAM for a user whose secret is a SCRAM one;"
        " cert takes the common name of the client's certificate for the user; peer, by"
        " Unix sockets only, the name that the system knows; pam and ldap ask for the"
        " password in the clear, have it judged (service `pgbouncer`,"
        " auth_ldap_options) and log in to the server with it.",
        choices=AuthType, reload=NEW)
    auth_user: str | None = setting(None, STRING,
        "User who runs auth_query; its own secret comes from auth_file. Unset: nobody"
        " is asked.", reload=NEW)
    autodb_idle_timeout: float = setting(3600.0, TIME,
        "Forget a database that came from the `*` entry after this long unused.",
        unit="s")
    cache_unnamed_statements: bool = setting(False, BOOL,
        "A statement that is parsed again without a name, in transaction or statement"
        " mode, stays prepared on the server and is not read again: only outside a"
        " transaction block, alone in its batch, where it is known what texts mean; an"
        " error is answered by reading it anew. Saves PostgreSQL the parsing for"
        " clients that send few texts over and over. What remains to tell it apart is"
        " the plan: after five uses PostgreSQL may choose a generic one, where it"
        " planned for the values each time. Not a PgBouncer setting.")
    cancel_abandoned: bool = setting(True, BOOL,
        "When a client vanishes: 1 cancels its query, rolls back and keeps the server;"
        " 0 closes the server, as PgBouncer does. Not a PgBouncer setting.")
    cancel_wait_timeout: float = setting(10.0, TIME,
        "Give up a cancel request that waited this long for a connection; 0 is off.",
        unit="s")
    clean_changed_servers: bool = setting(True, BOOL,
        "In transaction or statement mode: 1 keeps a server in which a client has left"
        " something (SET, ROLE, LISTEN, a temporary table, an advisory lock, a cursor"
        " WITH HOLD) for that client, and runs DISCARD ALL before anybody else gets it;"
        " with 0 the next client finds what was left, as behind PgBouncer. Not a"
        " PgBouncer setting.")
    clean_custom_parameters: bool = setting(True, BOOL,
        "In transaction or statement mode: 1 gives a server on which clients have set a"
        " parameter with a dot in its name (SET LOCAL my.tenant, set_config) only to"
        " clients that have set the same one; for others a new one is opened. 0 saves"
        " those logins where each client sets it first of all: before that,"
        " current_setting('my.tenant', true) may be an empty string instead of NULL."
        " Needs clean_changed_servers. Not a PgBouncer setting.")
    clean_sequences: bool = setting(False, BOOL,
        "In transaction or statement mode: 1 has each server forget what its last"
        " client got of sequences (DISCARD SEQUENCES in front of the next one's first"
        " message); with 0 it does so once a text of the pool has asked for currval()"
        " or lastval(): the very first asker, behind other commands of its transaction,"
        " and functions may be told another's value. Needs clean_changed_servers. Not a"
        " PgBouncer setting.")
    client_idle_timeout: float = setting(0.0, TIME,
        "Close a client that is idle outside a transaction this long; 0 is off.",
        unit="s")
    client_login_timeout: float = setting(60.0, TIME,
        "Time limit for the whole login of a client; 0 is off.", unit="s")
    client_tls13_ciphers: str | None = setting(None, STRING,
        "TLS 1.3 cipher suites offered to clients.", reload=NEW)
    client_tls_ca_file: str = setting("", PATH,
        "Certificates that vouch for client certificates.", reload=NEW)
    client_tls_cert_file: str = setting("", PATH,
        "Our own certificate.", reload=NEW)
    client_tls_ciphers: str = setting("default", STRING,
        "Ciphers for TLS 1.2 and below, as OpenSSL writes them, or default, secure,"
        " fast, normal, all.", reload=NEW)
    client_tls_dheparams: DhParams = setting(DhParams.AUTO, ENUM,
        "Diffie-Hellman parameters.", choices=DhParams, reload=NEW)
    client_tls_ecdhcurve: str = setting("auto", STRING,
        "Elliptic curve: none, auto or a curve's name.", reload=NEW)
    client_tls_key_file: str = setting("", PATH,
        "Private key of client_tls_cert_file.", reload=NEW)
    client_tls_protocols: str = setting("secure", STRING,
        "TLS versions, separated by `,` or `:`: tlsv1.0 to tlsv1.3, all, or secure"
        " (1.2 and 1.3).", reload=NEW)
    client_tls_sslmode: TlsMode = setting(TlsMode.DISABLE, ENUM,
        "TLS towards clients. prefer is allow, verify-full is verify-ca; Unix sockets"
        " are exempt.", choices=TlsMode, reload=NEW)
    conffile: str | None = setting(None, PATH,
        "The file that the next reload reads; unset is the one of the command line.")
    core_dumps: bool = setting(False, BOOL,
        "0: no process of the pooler leaves a core dump, and only root can debug or"
        " trace it (PR_SET_DUMPABLE), for passwords and data of clients stand in its"
        " memory; 1: as the system has it. Not a PgBouncer setting.",
        reload=RESTART)
    default_pool_size: int = setting(20, INT,
        "Server connections for each database and user, over all workers; 0 is no"
        " limit.", unit="connections")
    disable_pqexec: bool = setting(False, BOOL,
        "Send a client away (08P01 `PQexec disallowed`) that sends a simple Query, in"
        " which several statements may stand. Who does not use the extended protocol"
        " for everything cannot work then, replication clients among them; the console"
        " is exempt.", reload=RESTART)
    dns_max_ttl: float = setting(15.0, TIME,
        "Keep a resolved address this long, whatever its record says.", unit="s")
    dns_nxdomain_ttl: float = setting(15.0, TIME,
        "Keep the answer that a name does not exist, or a failure, this long.",
        unit="s")
    dns_zone_check_period: float = setting(0.0, TIME,
        "Look for a new serial number of the DNS zone this often; 0 is off.",
        unit="s")
    external_auth_queue: int = setting(100, INT,
        "Logins that wait until PAM or LDAP can be asked, over all workers; more are"
        " refused. Not a PgBouncer setting.", unit="logins")
    external_auth_threads: int = setting(16, INT,
        "Threads that ask PAM and LDAP, over all workers, at least one each. Not a"
        " PgBouncer setting.", unit="threads", low=1, high=10_000)
    failed_login_delay: float = setting(1.0, TIME,
        "A client that could not prove who it is hears of it so much later; 0 is at"
        " once. It costs a place and no thread: at most a quarter of max_client_conn,"
        " and 256 for each worker, wait like this at a time; when there are more, the"
        " first one hears of it. Nobody else waits, nor who comes by a Unix socket."
        " Not a PgBouncer setting.", unit="s")
    idle_transaction_timeout: float = setting(0.0, TIME,
        "Close client and server when idle in a transaction this long; 0 is off.",
        unit="s")
    ignore_startup_parameters: tuple[str, ...] = setting((), LIST,
        "Startup parameters to accept and drop; `options` drops the unknown ones"
        " inside options.", reload=NEW)
    job_name: str = setting("pgbouncer", STRING,
        "Accepted for PgBouncer's sake, where it names the service on Windows: without"
        " effect.", reload=RESTART)
    listen_addr: tuple[str, ...] = setting((), LIST,
        "Names and addresses to listen on; `*` is all; empty is the Unix socket only.",
        reload=RESTART)
    listen_backlog: int = setting(128, INT,
        "Connections the kernel queues before we accept them (listen(2)).",
        unit="connections", reload=RESTART)
    listen_port: int = setting(6432, INT,
        "TCP port; also part of the Unix socket's name.",
        unit="port", low=1, high=65535, reload=RESTART)
    log_connections: bool = setting(True, BOOL,
        "Log logins and new server connections.")
    log_disconnections: bool = setting(True, BOOL,
        "Log closed connections with the reason.")
    log_format: LogFormat = setting(LogFormat.TEXT, ENUM,
        "Lines of logfile and stderr: text as PgBouncer writes them, or a json object"
        " each (time, pid, level, tag, message). When stderr is the journal of systemd,"
        " it gets fields instead. Not a PgBouncer setting.",
        choices=LogFormat)
    log_pooler_errors: bool = setting(True, BOOL,
        "Log the errors that are sent to clients.")
    log_stats: bool = setting(True, BOOL,
        "Log averages every stats_period.")
    logfile: str = setting("", PATH,
        "File to log to; reopened on reload.")
    login_notify_message: str = setting("", STRING,
        "Text of a NOTICE that each client gets at the end of its login, but not on the"
        " console.", reload=NEW)
    max_buffer_memory: int = setting(512 * MIB, INT,
        "What clients and servers have sent and the other side has not taken, over all"
        " workers; 0 is no limit. When it is used up clients are read 4 KiB at a time:"
        " those that wait for a server hold no more, the rest waits in the kernel, and"
        " nobody is closed for it. Not a PgBouncer setting.", unit="bytes")
    max_client_conn: int = setting(100, INT,
        "Clients, over all workers; the console is exempt.",
        unit="connections")
    max_client_prepared_bytes: int = setting(16 * MIB, INT,
        "Texts of the prepared statements of one client, in transaction or statement"
        " mode; 0 is no limit. Not a PgBouncer setting.", unit="bytes")
    max_client_prepared_statements: int = setting(10_000, INT,
        "Prepared statements of one client, in transaction or statement mode; 0 is no"
        " limit. Not a PgBouncer setting.", unit="statements")
    max_db_client_connections: int = setting(0, INT,
        "Clients of one database, over all workers; 0 is no limit. Those of the console"
        " count as well; its admin_users are let in whatever the limits say.",
        unit="connections")
    max_db_connections: int = setting(0, INT,
        "Server connections of one database over all users and workers; 0 is no limit.",
        unit="connections")
    max_failed_logins: int = setting(0, INT,
        "Failed logins of one address (IPv6: of a /64) in a minute, over all workers;"
        " then logins from there are refused before their proof is looked at, until"
        " failures are left again. 0, the default, is no limit: behind a load balancer"
        " or NAT all clients have one address, and one that fails would shut out"
        " everybody. Unix sockets are exempt. Not a PgBouncer setting.",
        unit="logins")
    max_packet_size: int = setting(INT_MAX, INT,
        "Longest message that is passed on.",
        unit="bytes", low=1, high=UINT_MAX)
    max_prepared_memory: int = setting(256 * MIB, INT,
        "Texts of all prepared statements, each counted once per worker, over all"
        " workers; 0 is no limit. Not a PgBouncer setting.", unit="bytes")
    max_prepared_statements: int = setting(200, INT,
        "Prepared statements kept on each server connection, in transaction or"
        " statement mode; 0 turns the feature off.",
        unit="statements")
    max_user_client_connections: int = setting(0, INT,
        "Clients of one user, over all workers; 0 is no limit. Those of the console"
        " count as well; its admin_users are let in whatever the limits say.",
        unit="connections")
    max_user_connections: int = setting(0, INT,
        "Server connections of one user over all databases and workers; 0 is no limit.",
        unit="connections")
    min_pool_size: int = setting(0, INT,
        "Server connections to keep ready in a pool that has a forced user or a"
        " client.", unit="connections")
    peer_id: int = setting(0, INT,
        "Our own number among the [peers]; 0 turns peering off.",
        high=16383)
    pidfile: str = setting("", PATH,
        "File for the process number; needed for -d.", reload=RESTART)
    pkt_buf: int = setting(4096, INT,
        "Accepted for PgBouncer's sake, whose buffer of a socket it is: without effect."
        " A connection has no buffer while nothing of it waits, and one of the size of"
        " what waits otherwise.",
        unit="bytes", low=1, reload=RESTART)
    pool_idle_timeout: float = setting(0.0, TIME,
        "Free a pool that was empty this long; 0 is off.", unit="s")
    pool_mode: PoolMode = setting(PoolMode.SESSION, ENUM,
        "When a server is free for another client: at the end of the session, the"
        " transaction or the statement.", choices=PoolMode, reload=NEW)
    query_timeout: float = setting(0.0, TIME,
        "End client and server when a query runs longer, or waits and runs: it is"
        " cancelled; 0 is off. Idle in a transaction is no query.",
        unit="s")
    query_wait_notify: int = setting(5, INT,
        "Tell a client by a NOTICE that it waits for a server this long; 0 is off.",
        unit="s")
    query_wait_timeout: float = setting(120.0, TIME,
        "Drop a client that waited this long for a server; 0 is never.",
        unit="s")
    reserve_pool_size: int = setting(0, INT,
        "Further server connections a pool may open when clients wait.",
        unit="connections")
    reserve_pool_timeout: float = setting(5.0, TIME,
        "A client waits this long before the reserve is used; 0 is off.",
        unit="s")
    resolv_conf: str = setting("", PATH,
        "File with the resolver's configuration, in place of /etc/resolv.conf; a port"
        " may stand behind an address.", reload=RESTART)
    sbuf_loopcnt: int = setting(5, INT,
        "Accepted for PgBouncer's sake, which takes so many buffers of a socket before"
        " it looks at others: without effect. Here it is one read, then it is the next"
        " one's turn.", unit="rounds")
    scram_iterations: int = setting(4096, INT,
        "Iterations for SCRAM verifiers made from plain passwords.",
        unit="iterations", low=1, high=10_000_000, reload=NEW)
    scram_max_iterations: int = setting(1_000_000, INT,
        "The most iterations that a server may ask for in a SCRAM login: what a hostile"
        " one may make us compute. A million are about half a second of one core, once"
        " for each secret and salt, in a thread. Not a PgBouncer setting.",
        unit="iterations", low=1, high=INT_MAX, reload=NEW)
    server_check_delay: float = setting(30.0, TIME,
        "Check a server before use when it was idle this long; 0 is always.",
        unit="s")
    server_check_query: str = setting("<empty>", STRING,
        "The check: `<empty>` is an empty query; an empty value is no check.")
    server_connect_timeout: float = setting(15.0, TIME,
        "Time limit for connect and login of a server; 0 is off.",
        unit="s")
    server_fast_close: bool = setting(False, BOOL,
        "Session mode: close a server that is replaced at the end of its transaction,"
        " and its client, rather than at the end of the session.")
    server_idle_timeout: float = setting(600.0, TIME,
        "Close a server that was idle this long; 0 is off.", unit="s")
    server_lifetime: float = setting(3600.0, TIME,
        "Close a free server of this age, or up to a tenth older, so that those opened"
        " together do not end together; 0 is to use each only once.", unit="s")
    server_login_retry: float = setting(15.0, TIME,
        "Wait this long after a failed server login.", unit="s")
    server_reset_query: str = setting("DISCARD ALL", STRING,
        "Query run when a server is released in session mode; empty is none.")
    server_reset_query_always: bool = setting(False, BOOL,
        "Run server_reset_query in every pool mode.")
    server_round_robin: bool = setting(False, BOOL,
        "Use the server that was idle longest, not the one used last.")
    server_tls13_ciphers: str | None = setting(None, STRING,
        "TLS 1.3 cipher suites offered to servers.",
        reload=NEW, reconnect=True)
    server_tls_ca_file: str = setting("", PATH,
        "Certificates that vouch for the server's certificate; empty takes those of the"
        " system.",
        reload=NEW, reconnect=True)
    server_tls_cert_file: str = setting("", PATH,
        "Our certificate towards servers.", reload=NEW, reconnect=True)
    server_tls_ciphers: str = setting("default", STRING,
        "As client_tls_ciphers, towards servers.",
        reload=NEW, reconnect=True)
    server_tls_key_file: str = setting("", PATH,
        "Private key of server_tls_cert_file.", reload=NEW, reconnect=True)
    server_tls_protocols: str = setting("secure", STRING,
        "As client_tls_protocols, towards servers; legacy is all.",
        reload=NEW, reconnect=True)
    server_tls_sslmode: TlsMode = setting(TlsMode.PREFER, ENUM,
        "TLS towards servers, as libpq's sslmode; Unix sockets are exempt. A change of"
        " this and its companions replaces all servers as they become free.",
        choices=TlsMode, reload=NEW, reconnect=True)
    server_tls_sslnegotiation: TlsNegotiation = setting(TlsNegotiation.POSTGRES, ENUM,
        "How TLS towards servers begins: postgres asks first; direct does not, which"
        " spares a round trip, needs server_tls_sslmode of at least require, and"
        " PostgreSQL 17 or newer. Not a PgBouncer setting.",
        choices=TlsNegotiation, reload=NEW, reconnect=True)
    shutdown_rate: int = setting(1000, INT,
        "So many idle clients a second, over all workers, are sent away once"
        " shutdown_timeout is over. Not a PgBouncer setting.",
        unit="clients/s", low=1)
    shutdown_timeout: float = setting(0.0, TIME,
        "After SIGTERM idle clients may stay so long, then they get FATAL 57P01, and"
        " the others at the end of their transactions; 0 is for ever. Not a PgBouncer"
        " setting.", unit="s")
    so_reuseport: bool = setting(False, BOOL,
        "Share the TCP port with other poolers of the same system user, each with its"
        " own Unix socket, if it has one, and its own number among the [peers], so that"
        " cancel requests are passed on; 0: a port that another one listens on ends the"
        " start. Workers have SO_REUSEPORT sockets either way.",
        reload=RESTART)
    spread_clients: bool = setting(True, BOOL,
        "A new client goes to another worker when the one that the kernel has chosen"
        " has more than 1.25 x the mean of all workers, and 2. Not a PgBouncer"
        " setting.")
    stats_period: int = setting(60, INT,
        "Period of the averages.", unit="s", low=1)
    stats_users: tuple[str, ...] = setting((), LIST,
        "Users who may only look on the console.")
    suspend_timeout: float = setting(10.0, TIME,
        "Who has not taken all that was read for it so long after SUSPEND is closed;"
        " 0: SUSPEND waits as long as it takes.", unit="s")
    syslog: bool = setting(False, BOOL,
        "Log to syslog (/dev/log), besides the other places.")
    syslog_facility: SyslogFacility = setting(SyslogFacility.DAEMON, ENUM,
        "Facility for syslog.", choices=SyslogFacility)
    syslog_ident: str = setting("pgbouncer", STRING,
        "Name for syslog and for the journal.")
    tcp_defer_accept: int = setting(1, INT,
        "Accept a TCP client only when its first bytes are there, or after 45 s: who"
        " says nothing takes no place; 0 is off.")
    tcp_keepalive: bool = setting(True, BOOL,
        "Ask the kernel for TCP keepalive.", reload=NEW)
    tcp_keepcnt: int = setting(0, INT,
        "Lost keepalive probes that end a connection; 0 is the kernel's default.",
        unit="probes", reload=NEW,
        low=0, high=127)
    tcp_keepidle: int = setting(0, INT,
        "Idle time before the first keepalive probe; 0 is the kernel's default.",
        unit="s", reload=NEW,
        low=0, high=32767)
    tcp_keepintvl: int = setting(0, INT,
        "Time between keepalive probes; 0 is the kernel's default.",
        unit="s", reload=NEW,
        low=0, high=32767)
    tcp_socket_buffer: int = setting(0, INT,
        "Kernel buffers of a socket; 0 is the kernel's default.",
        unit="bytes", reload=NEW,
        low=0)
    tcp_user_timeout: int = setting(0, INT,
        "Close when sent data stays unacknowledged this long; 0 is the kernel's"
        " default.", unit="ms", reload=NEW,
        low=0)
    track_extra_parameters: tuple[str, ...] = setting(("IntervalStyle",), PARAMETERS,
        "Further parameters to follow for each client, of those that PostgreSQL"
        " reports; at most 10 besides the ones that are always followed.",
        reload=RESTART)
    transaction_timeout: float = setting(0.0, TIME,
        "End client and server when a transaction is open longer; 0 is off.", unit="s")
    unix_socket_dir: str = setting("/tmp", PATH,  # noqa: S108 - PgBouncer's default
        "Directory of our Unix socket, `@` for an abstract one, empty for none; also"
        " where servers are looked for when a database has no host.",
        reload=RESTART)
    unix_socket_group: str = setting("", STRING,
        "Group of the Unix socket.", reload=RESTART)
    unix_socket_mode: int = setting(0o777, OCTAL,
        "Permissions of the Unix socket.", high=0o777, reload=RESTART)
    user: str | None = setting(None, STRING,
        "System user to become at start.", reload=RESTART)
    verbose: int = setting(0, INT, "How much to log, 0 to 3.")
    worker_stuck_timeout: float = setting(10.0, TIME,
        "A worker that does not turn for so long is killed and replaced; its new"
        " clients are served by others after a second. 0 is never. Not a PgBouncer"
        " setting.", unit="s")
    workers: int = setting(AUTO_WORKERS, WORKERS,
        "Worker processes, at most 128; auto is one for each usable core. Not a"
        " PgBouncer setting.",
        unit="processes", low=1, high=MAX_WORKERS, reload=RESTART)


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """One entry of [databases]; ``name`` is what clients ask for."""

    name: str
    dbname: str = setting("", STRING,
        "The server's database; unset is the entry's name.",
        reload=NEW, reconnect=True)
    host: str = setting("", STRING,
        "Name, address, `/directory`, `@abstract`, or a comma list of these; unset is"
        " the Unix socket in unix_socket_dir.", reload=NEW, reconnect=True)
    port: int = setting(5432, DECIMAL,
        "The server's port.", unit="port", low=1, high=65535, reload=NEW,
        reconnect=True)
    user: str | None = setting(None, STRING,
        "Log in to the server as this user whoever the client is: one pool for all.",
        reload=NEW, reconnect=True)
    password: str | None = setting(None, STRING,
        "Password of user; unset is the one of auth_file.",
        reload=NEW, secret=True)
    auth_user: str | None = setting(None, STRING,
        "Instead of the global auth_user.", reload=NEW)
    auth_query: str | None = setting(None, STRING,
        "Instead of the global auth_query.", reload=NEW, reconnect=True)
    auth_dbname: str | None = setting(None, STRING,
        "Instead of the global auth_dbname.", reload=NEW, reconnect=True)
    pool_size: int | None = setting(None, DECIMAL,
        "Instead of default_pool_size.", unit="connections", inherit_below=0)
    min_pool_size: int | None = setting(None, DECIMAL,
        "Instead of the global min_pool_size.", unit="connections", inherit_below=0)
    reserve_pool_size: int | None = setting(None, DECIMAL,
        "Instead of the global reserve_pool_size.", unit="connections",
        inherit_below=0, aliases=("reserve_pool",))
    pool_mode: PoolMode | None = setting(None, ENUM,
        "Instead of the global pool_mode.", choices=PoolMode, reload=NEW)
    max_db_connections: int | None = setting(None, DECIMAL,
        "Instead of the global max_db_connections, if above 0.",
        unit="connections", inherit_below=1)
    max_db_client_connections: int | None = setting(None, DECIMAL,
        "Instead of the global max_db_client_connections, if above 0.",
        unit="connections", inherit_below=1)
    server_lifetime: int | None = setting(None, DECIMAL,
        "Instead of the global server_lifetime, if above 0.",
        unit="s", inherit_below=1)
    query_wait_timeout: int | None = setting(None, DECIMAL,
        "Instead of the global query_wait_timeout; 0 is never.",
        unit="s", inherit_below=0)
    connect_query: str | None = setting(None, STRING,
        "Simple query run after the login; its errors are logged and ignored.",
        reload=NEW, reconnect=True)
    load_balance_hosts: LoadBalance = setting(LoadBalance.ROUND_ROBIN, ENUM,
        "round-robin over the hosts, or disable: stay until a connect fails.",
        choices=LoadBalance, reload=NEW, reconnect=True)
    server_tls_sslmode: TlsMode | None = setting(None, ENUM,
        "Instead of the global server_tls_sslmode. Not a PgBouncer setting, as those"
        " below.", choices=TlsMode, reload=NEW, reconnect=True)
    server_tls_sslnegotiation: TlsNegotiation | None = setting(None, ENUM,
        "Instead of the global one.", choices=TlsNegotiation, reload=NEW,
        reconnect=True)
    server_tls_ca_file: str | None = setting(None, PATH,
        "Instead of the global one.", reload=NEW, reconnect=True)
    server_tls_cert_file: str | None = setting(None, PATH,
        "Instead of the global one; give server_tls_key_file as well.",
        reload=NEW, reconnect=True)
    server_tls_key_file: str | None = setting(None, PATH,
        "Instead of the global one.", reload=NEW, reconnect=True)
    server_tls_protocols: str | None = setting(None, STRING,
        "Instead of the global one.", reload=NEW, reconnect=True)
    server_tls_ciphers: str | None = setting(None, STRING,
        "Instead of the global one.", reload=NEW, reconnect=True)
    server_tls13_ciphers: str | None = setting(None, STRING,
        "Instead of the global one.", reload=NEW, reconnect=True)
    client_encoding: str | None = setting(None, STRING,
        "Put into the server's startup packet.", reload=NEW)
    datestyle: str | None = setting(None, STRING,
        "Put into the server's startup packet.", reload=NEW)
    timezone: str | None = setting(None, STRING,
        "Put into the server's startup packet.", reload=NEW)
    application_name: str | None = setting(None, STRING,
        "Put into the server's startup packet.", reload=NEW)

    @property
    def startup_parameters(self) -> tuple[tuple[str, str], ...]:
        """The parameters this entry adds to the server's startup packet."""
        named = (
            ("client_encoding", self.client_encoding),
            ("datestyle", self.datestyle),
            ("timezone", self.timezone),
            ("application_name", self.application_name),
        )
        return tuple((name, value) for name, value in named if value is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """One entry of [users]: what beats the database and the global setting."""

    name: str
    pool_mode: PoolMode | None = setting(None, ENUM,
        "Beats the database's and the global one.", choices=PoolMode, reload=NEW)
    pool_size: int | None = setting(None, DECIMAL,
        "Beats the database's and default_pool_size.", unit="connections",
        inherit_below=0)
    reserve_pool_size: int | None = setting(None, DECIMAL,
        "Beats the database's and the global one.", unit="connections",
        inherit_below=0)
    max_user_connections: int | None = setting(None, DECIMAL,
        "Instead of the global one, if above 0.", unit="connections", inherit_below=1)
    max_user_client_connections: int | None = setting(None, DECIMAL,
        "Instead of the global one, if above 0.", unit="connections", inherit_below=1)
    query_timeout: int | None = setting(None, DECIMAL,
        "Instead of the global one, if above 0.", unit="s", inherit_below=1)
    idle_transaction_timeout: int | None = setting(None, DECIMAL,
        "Instead of the global one, if above 0.", unit="s", inherit_below=1)
    transaction_timeout: int | None = setting(None, DECIMAL,
        "Instead of the global one, if above 0.", unit="s", inherit_below=1)
    client_idle_timeout: int | None = setting(None, DECIMAL,
        "Instead of the global one, if above 0.", unit="s", inherit_below=1)
    query_wait_timeout: int | None = setting(None, DECIMAL,
        "Beats the database's and the global one; 0 is never.", unit="s",
        inherit_below=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One entry of [peers]: another pooler behind the same load balancer."""

    peer_id: int
    host: str = setting("", STRING,
        "Address, `/directory` or `@abstract`; required.", reload=NEW)
    port: int = setting(6432, DECIMAL,
        "The peer's port.", unit="port", low=1, high=65535, reload=NEW)
    pool_size: int | None = setting(None, DECIMAL,
        "Cancel requests on their way there, over all workers; unset is"
        " default_pool_size, 0 no limit. More wait, for cancel_wait_timeout.",
        unit="connections", inherit_below=0)
# fmt: on


Table = type[Settings] | type[Database] | type[User] | type[Peer]


def _declared(table: Table) -> tuple[Row, ...]:
    return tuple(
        dataclasses.replace(field.metadata["row"], name=field.name)
        for field in dataclasses.fields(table)
        if "row" in field.metadata
    )


def _named(declared: tuple[Row, ...]) -> Mapping[str, Row]:
    named = {row.name: row for row in declared}
    for row in declared:
        named.update(dict.fromkeys(row.aliases, row))
    return MappingProxyType(named)


_ROWS: Mapping[type[object], tuple[Row, ...]] = {
    table: _declared(table) for table in (Settings, Database, User, Peer)
}
_ROWS_BY_NAME: Mapping[type[object], Mapping[str, Row]] = {
    table: _named(declared) for table, declared in _ROWS.items()
}


def rows(table: Table) -> tuple[Row, ...]:
    """The rows of one table, in its order."""
    return _ROWS[table]


def rows_by_name(table: Table) -> Mapping[str, Row]:
    """The rows of one table by name and by alias."""
    return _ROWS_BY_NAME[table]


# ---------------------------------------------------------------------------
# docs/settings.md

_SECTIONS: tuple[tuple[str, Table, str], ...] = (
    (
        "[pgbouncer]",
        Settings,
        "One `key = value` per line. Whole numbers may be octal (`0777`) or"
        " hexadecimal (`0x1ff`), switches are `0` or `1` (or no, yes, off, on, false,"
        " true), times are seconds and may have a fraction, lists are separated by"
        " commas or blanks. Times may have a unit (`200ms`, `1.5s`, `5min`, `1h`, `1d`)"
        " and sizes too (`64kB`, `16MB`, `1GB`; 1024 bytes are a kB), where PgBouncer"
        " takes plain numbers only.",
    ),
    (
        "[databases]",
        Database,
        "`name = key=value key='quoted ''value'''`. The name `*` serves every"
        " database that has no entry. A name with other characters than letters,"
        ' digits and `_.-` is written `"in ""double"" quotes"`, and is at most'
        f" {MAX_DATABASE_NAME_BYTES} bytes long. A key that is not given takes the"
        " wider setting. Numbers are decimal; times may have a unit.",
    ),
    (
        "[users]",
        User,
        "`name = key=value …`, for the user a pool belongs to. A name is at most"
        f" {MAX_USER_NAME_BYTES} bytes long.",
    ),
    (
        "[peers]",
        Peer,
        "`number = key=value …`, the number being the peer's peer_id.",
    ),
)

_RELOAD_TEXT: Mapping[Reload, str] = {
    Reload.LIVE: "at once",
    Reload.NEW_CONNECTIONS: "new connections",
    Reload.RESTART: "restart",
}

_INTRO = """\
# Settings

<!-- Written by `python -m pooler.config.settings > docs/settings.md`; do not edit. -->

The file is PgBouncer's: sections, `key = value`, comment lines that begin with `;` or
`#`, and `%include FILE`, relative to the current directory. *Changes* says when a new
value takes effect after a reload.
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _choices_text(row: Row) -> str:
    if row.choices is None:
        return ""
    return f" One of {', '.join(row.choices)}."


def _markdown_row(row: Row) -> str:
    default = format_value(row, row.default)
    names = ", ".join(f"`{name}`" for name in (row.name, *row.aliases))
    cells = (
        names,
        row.kind.value,
        row.unit,
        f"`{default}`" if default else "unset" if row.default is None else "empty",
        _RELOAD_TEXT[row.reload],
        row.doc + _choices_text(row),
    )
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def render_markdown() -> str:
    """The text of ``docs/settings.md``."""
    lines = [_INTRO]
    for title, table, intro in _SECTIONS:
        lines += [f"## {title}", "", intro, ""]
        lines += ["| Key | Kind | Unit | Default | Changes | Meaning |"]
        lines += ["|---|---|---|---|---|---|"]
        lines += [*map(_markdown_row, rows(table)), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    sys.stdout.write(render_markdown())
