# SPDX-License-Identifier: MIT
"""``Engine``: what Python may ask of the engine."""

cimport cython
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stdint cimport UINT32_MAX, uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memmove, memset, strdup

from pooler.auth.exchange cimport Exchange
from pooler.auth.secrets cimport KEY_BYTES, StoredSecret, secret_ref, stored_secret
from pooler.board.page cimport Page
from pooler.io.accept cimport (
    LOGIN_HELD_MAX_BYTES, close_listener, listen_again, open_listener,
)
from pooler.io.carry_out cimport carry_out, fill_close_reasons
from pooler.io.conn cimport (
    ClientConn, Conn, KIND_CLIENT, KIND_LINK, KIND_LISTENER, KIND_PARTING,
    KIND_SERVER, KnownLogin, LinkConn, ListenerConn, Logins, Loop,
    MOST_WORKERS, NOTICE_CLIENT_CLOSED, NOTICE_LOGGED_IN, NoticeRow, ServerConn, Spread,
    conn_handle, conn_of, conn_of_server, free_dead, notices_disown, take_id,
)
from pooler.io.find cimport (
    cancel_owner, client_of_id, client_users, close_all, count_obsolete, kill_pool,
    limits_changed, pause_servers, retire_again, retire_servers, send_clients_away,
)
from pooler.io.link cimport (
    close_link, link_becomes_server, link_listen, link_send, open_link, part_link,
)
from pooler.io.listing cimport list_clients, list_servers
from pooler.io.logins cimport (
    admit, count_clients, login_count_for, login_end, login_forget, login_known,
    login_remember, login_take_place, logins_forget, logins_forget_pool, logins_free,
)
from pooler.io.loop cimport loop_free, loop_init, loop_now, loop_run
from pooler.io.moves cimport give_server, receive_server
from pooler.io.part cimport part_open, parting_close
from pooler.io.poll cimport (
    READY_READ, READY_WRITE, WATCH_READ, WATCH_WRITE, poll_close, watch, watch_python,
)
from pooler.io.prepared cimport count_holders, list_statements
from pooler.io.spread cimport spread_count
from pooler.io.stats cimport loop_counters, peer_name, pool_counters
from pooler.io.suspend cimport (
    close_unflushed, count_unflushed, loop_resume, loop_suspend, spare_pool,
)
from pooler.io.syscalls cimport ENOMEM, sys_now_us, sys_peer_pid, sys_peer_uid
from pooler.io.tls cimport tls_begin, tls_error, tls_facts, tls_has_come
from pooler.io.tls_context cimport (
    TlsContext, accepting, connecting, peer_hash, peer_name as certificate_name,
)
from pooler.io.transport cimport stream_swallow, stream_write
from pooler.relay.inquire cimport inquiry_forget, words_forget
from pooler.relay.moves cimport Thawed, pool_accepts, thaw, thawed_free
from pooler.relay.offers cimport (
    is_shared, sharing_begin, sharing_even, sharing_patience,
)
from pooler.relay.step cimport (
    relay_add_pool, relay_drop_pool, step_cancel, step_cancelled, step_client_close,
    step_client_end, step_pool_inquire, step_pool_lets_go, step_pool_waits,
    step_pool_wants, step_server_begin, step_server_close, step_server_retire,
    step_server_stay,
)
from pooler.session.counters cimport counters_begin
from pooler.session.pool cimport (
    pool_configure, pool_connected, pool_is_empty, pool_launch, pool_pause,
    pool_prelaunch, pool_refuse, pool_replace, pool_resize, pool_resume, pool_room,
    pool_share,
)
from pooler.session.records cimport (
    CANCEL_KEY_MAX_BYTES, CANCEL_KEY_MIN_BYTES, CLIENT_LOGIN, CLOSE_NO_MEMORY,
    CLOSE_REASONS, CLOSE_SERVER_EVICTED, CLOSE_SERVER_OBSOLETE,
    ClientSession, CloseReason, MODE_SESSION, Pool, PoolConfig, Script, ServerSession,
    client_may_wait, client_proved, script_fill,
)
from pooler.session.sequences cimport sequences_always
from pooler.session.sharing cimport (
    ROW_WORDS, RowSet, is_uneven, row_to_ask, row_to_serve,
)
from pooler.session.time_limits cimport TimeLimits, time_limits_fill
from pooler.tables.params cimport (
    PARAM_VALUE_MAX, ParamSet, params_empty, params_free, params_init, params_track,
    params_unref, params_with,
)
from pooler.tables.text_names cimport name_by_text
from pooler.tables.texts cimport StatementTable, statements_free, statements_init
from pooler.wire.buffers cimport Queue, queue_reset, queue_size, queue_wipe
from pooler._wire cimport HELD_MOST_BYTES, limit_rules

import os
import selectors

from pooler.errors import CLOSE_REASON_ROWS

fill_close_reasons(CLOSE_REASON_ROWS)

cdef enum:
    NOTICES_AT_ONCE = 2  # of logins: a quarter of a millisecond

NOWHERE = (0xFFFFFFFF,) * 3  # three times NO_ACCOUNT

# Parameters that are lists of names: SET would take a reported value for one name.
LIST_PARAMETERS = frozenset(
    {"search_path", "temp_tablespaces", "session_preload_libraries",
     "local_preload_libraries"}
)


cdef const uint8_t *bytes_of(bytes data) except NULL:
    return <const uint8_t *> PyBytes_AsString(data)


cdef bytes bytes_in(const Queue *q):
    """A copy of what a queue holds."""
    if q.cap == 0:
        return b""
    return PyBytes_FromStringAndSize(<const char *> q.data + q.start, queue_size(q))


cdef TimeLimits time_limits_of(dict given) except *:
    """KeyError if something is no limit."""
    cdef TimeLimits times
    left = dict(given)
    times.query_wait_us = left.pop("query_wait_us", 0)
    times.wait_notify_us = left.pop("wait_notify_us", 0)
    times.client_idle_us = left.pop("client_idle_us", 0)
    times.query_us = left.pop("query_us", 0)
    times.xact_us = left.pop("xact_us", 0)
    times.idle_xact_us = left.pop("idle_xact_us", 0)
    times.server_idle_us = left.pop("server_idle_us", 0)
    times.lifetime_us = left.pop("lifetime_us", 0)
    times.tested_us = left.pop("tested_us", 0)
    if left:
        raise KeyError(*left)
    return times


@cython.final
cdef class Engine:
    """Connections, pools and the loop of one worker.

    Handles name connections; a handle of a connection that is gone is refused with
    ``LookupError`` (or ignored where closing is all that was asked). Not thread-safe:
    one engine belongs to one event loop.
    """

    def __cinit__(
        self, tracked_parameters, *, size_t recv_bytes=131072,
        uint32_t max_message_bytes=0x7FFFFFFF, bytes statement_prefix=b"pooler_",
        bytes statement_own=b".", bytes statement_key=b"",
        uint32_t[::1] schema_cell=None, uint32_t[::1] id_cell=None,
        uint64_t[::1] parse_cell=None, uint32_t[::1] databases_cell=None,
    ):
        """``tracked_parameters``: names of parameters that follow the client.

        ``recv_bytes``: the receive buffer; it must take any message that is held until
        it is complete. ``max_message_bytes`` bounds every message, for all engines of
        this process. ``statement_prefix``: what the names of prepared statements on
        servers begin with. ``statement_key``: 16 random bytes that all workers have and
        nobody else, so that they call the same text alike; ``statement_own``: what
        stands behind the prefix where a name shall be of this worker alone, with a dot.
        Without a key no other worker's prefix may be the same. ``schema_cell``: one
        number that all workers share, of the changes that they have seen; likewise
        ``id_cell``, the last id that a connection has got, ``parse_cell``, the last
        number of a Parse, and ``databases_cell``, the commands that concern databases.
        They are lent until ``close``.
        """
        if recv_bytes < 2 * HELD_MOST_BYTES:
            raise ValueError(
                f"receive buffer of {recv_bytes} bytes, below {2 * HELD_MOST_BYTES}"
            )
        self.made = True
        loop_init(&self.loop, recv_bytes)
        limit_rules(max_message_bytes)
        params_init(&self.loop.relay.params)
        self.tracked = tuple(tracked_parameters)
        for name in self.tracked:
            params_track(
                &self.loop.relay.params, name.encode(), name.lower() in LIST_PARAMETERS
            )
        statements_init(
            &self.loop.relay.statements, &self.loop.relay.params, statement_prefix
        )
        if statement_key:
            name_by_text(
                &self.loop.relay.statements.forms, statement_own, statement_key
            )
        if schema_cell is not None:
            self.schema_cell = schema_cell
            self.loop.relay.statements.schema_cell = &schema_cell[0]
        if parse_cell is not None:
            self.parse_cell = parse_cell
            self.loop.relay.statements.parse_cell = &parse_cell[0]
        if databases_cell is not None:
            self.databases_cell = databases_cell
            self.loop.relay.statements.databases_cell = &databases_cell[0]
        if id_cell is not None:
            self.id_cell = id_cell
            self.loop.ids = &id_cell[0]

    def __dealloc__(self):
        if not self.made:
            return
        self.close()
        loop_free(&self.loop)
        statements_free(&self.loop.relay.statements)
        params_free(&self.loop.relay.params)

    cpdef void close(self):
        """Close every connection and what watches them; idempotent."""
        close_all(&self.loop)
        free_dead(&self.loop)
        poll_close(&self.loop)
        self.loop.relay.statements.schema_cell = (
            &self.loop.relay.statements.schema_own
        )
        self.schema_cell = None
        self.loop.relay.statements.parse_cell = &self.loop.relay.statements.parse_own
        self.parse_cell = None
        self.loop.relay.statements.databases_cell = (
            &self.loop.relay.statements.databases_own
        )
        self.databases_cell = None
        self.loop.ids = &self.loop.own_ids
        self.id_cell = None
        logins_free(&self.loop)
        memset(&self.loop.spread, 0, sizeof(self.loop.spread))
        self.client_cells = None
        self.spread_columns = None
        self.login_context = None

    def fileno(self):
        """What ``run`` reports as readable when notices wait."""
        return self.loop.epfd

    # ------------------------------------------------------------ the loop

    def watch(self, int fd, int mask):
        """Watch a descriptor of Python's for ``selectors`` events; 0 ends it.

        The caller says ``watch(fd, 0)`` before it closes the descriptor.
        """
        cdef uint8_t bits = 0
        cdef int code
        if mask & selectors.EVENT_READ:
            bits |= WATCH_READ
        if mask & selectors.EVENT_WRITE:
            bits |= WATCH_WRITE
        code = watch_python(&self.loop, fd, bits)
        if code < 0:
            raise OSError(-code, os.strerror(-code))

    def run(self, timeout_s):
        """Serve connections until Python is needed.

        ``timeout_s``: seconds, ``None`` for ever, <= 0 only what is ready now.
        Returns ``[(fd, selectors mask), ...]`` for Python's descriptors. OSError when
        nothing can be waited for any more.
        """
        cdef uint64_t deadline_us = <uint64_t> -1
        cdef uint32_t i
        cdef int mask
        cdef int code
        if timeout_s is not None:
            deadline_us = sys_now_us()
            if timeout_s > 0:
                deadline_us += <uint64_t> (timeout_s * 1e6)
        with nogil:
            code = loop_run(&self.loop, deadline_us)
        if code < 0:
            raise OSError(-code, os.strerror(-code))
        self.loop.counters.python += 1
        ready = []
        for i in range(self.loop.ready_count):
            mask = 0
            if self.loop.ready_masks[i] & READY_WRITE:
                mask |= selectors.EVENT_WRITE
            if self.loop.ready_masks[i] & READY_READ:
                mask |= selectors.EVENT_READ
            ready.append((self.loop.ready_fds[i], mask))
        if self.loop.notice_count:
            ready.append((self.loop.epfd, selectors.EVENT_READ))
        return ready

    def take_notices(self):
        """Return and forget what was left for Python, the oldest first.

        No more than what keeps others waiting for a moment only: what is left is told
        after the next turn. Rows are (Notice, handle, argument, pool id or -1, age in
        us, peer, detail, user); what a kind fills in is said at ``Notice``.
        """
        cdef uint32_t count = min(self.loop.notice_count, <uint32_t> NOTICES_AT_ONCE)
        cdef uint32_t i
        cdef NoticeRow *row
        rows = []
        for i in range(count):
            row = &self.loop.notices[i]
            peer = None
            if row.kind == NOTICE_CLIENT_CLOSED or row.kind == NOTICE_LOGGED_IN:
                peer = peer_name(&row.peer)
            detail = row.detail.decode() if row.detail != NULL else ""
            user = row.user if row.user != NULL else b""
            free(row.user)
            rows.append(
                (
                    row.kind, row.handle, row.argument, row.pool_id, row.age_us, peer,
                    detail, user,
                )
            )
        self.loop.notice_count -= count
        memmove(
            self.loop.notices, self.loop.notices + count,
            self.loop.notice_count * sizeof(NoticeRow),
        )
        return rows

    @property
    def client_count(self):
        """Clients, those that are logging in included."""
        return self.loop.client_count

    def limit_messages(self, uint32_t max_message_bytes):
        """Change the bound of every message, for all engines of this process."""
        limit_rules(max_message_bytes)

    def limit_statements(
        self, *, uint32_t max_client_count, uint64_t max_client_bytes,
        uint64_t max_bytes, bint cache_unnamed,
    ):
        """Bound what clients may prepare; 0 is no limit.

        ``max_bytes``: all texts of this worker. ``cache_unnamed``: a text that is
        parsed again without a name is kept on the server under one of ours.
        """
        cdef StatementTable *t = &self.loop.relay.statements
        t.max_client_count = max_client_count
        t.max_client_bytes = max_client_bytes
        t.max_bytes = max_bytes
        t.cache_unnamed = cache_unnamed

    def database_commands(self):
        """CREATE, ALTER and DROP DATABASE, when they go out and when they are done."""
        return self.loop.relay.statements.databases_cell[0]

    def limit_buffers(self, uint64_t most_bytes):
        """Bound what connections of this process hold and have unsent; 0 is no limit.

        Beyond it clients are read a little at a time.
        """
        self.loop.buffer_limit = most_bytes

    def counters(self):
        """What the loop has done so far, for tests and diagnosis."""
        return loop_counters(&self.loop)

    def limit_logins(self, uint64_t limit_us):
        """How long the login of a client may take, from now on; 0 is no limit."""
        self.loop.relay.wheel.login_limit_us = limit_us

    # ------------------------------------------------------------ listeners

    def add_listener(self, int fd, bint shared):
        """Accept on a non-blocking listening socket; takes it over, unless it raises.

        ``shared``: other processes accept on it too, wake only one of them.
        """
        cdef ListenerConn *listener = open_listener(&self.loop, fd, shared, NULL)
        if listener == NULL:
            raise MemoryError
        return conn_handle(&self.loop, &listener.conn)

    def add_door(self, int fd, uint32_t slot):
        """Take the sockets that come through the door of a worker, as a listener's.

        Takes the descriptor over, unless it raises; ``spread_configure`` comes first.
        """
        cdef Spread *spread = &self.loop.spread
        cdef ListenerConn *listener
        if slot >= spread.workers_count:
            raise IndexError(f"no slot {slot}")
        listener = open_listener(
            &self.loop, fd, True, spread.coming + slot * spread.stride
        )
        if listener == NULL:
            raise MemoryError
        return conn_handle(&self.loop, &listener.conn)

    def spread_configure(
        self, *, bint on, uint8_t slot, doors, uint64_t[:] connections,
        uint64_t[:] coming, const uint64_t[:] serves, const uint64_t[:] heartbeats_us,
    ):
        """Where fresh clients go: columns of the board, and a descriptor per door.

        All are lent until ``close``. Not ``on``: they stay where they were accepted.
        """
        cdef Spread *spread = &self.loop.spread
        cdef int i
        if not slot < len(doors) == connections.shape[0] <= MOST_WORKERS:
            raise ValueError(f"slot {slot}, {len(doors)} doors")
        self.spread_columns = (connections, coming, serves, heartbeats_us)
        spread.slot = slot
        spread.stride = <size_t> connections.strides[0] // sizeof(uint64_t)
        spread.connections = &connections[0]
        spread.coming = &coming[0]
        spread.serves = &serves[0]
        spread.heartbeats_us = &heartbeats_us[0]
        spread.workers_count = <uint32_t> len(doors)
        for i in range(<int> len(doors)):
            spread.doors[i] = doors[i]
        spread.on = on
        spread_count(&self.loop)

    def accept_again(self, uint64_t handle):
        """Start a listener that was paused for want of descriptors."""
        cdef Conn *conn = conn_of(&self.loop, handle)
        if conn != NULL and conn.kind == KIND_LISTENER:
            listen_again(&self.loop, <ListenerConn *> conn)

    def close_listener(self, uint64_t handle):
        """Stop accepting; the connections stay."""
        cdef Conn *conn = conn_of(&self.loop, handle)
        if conn != NULL and conn.kind == KIND_LISTENER:
            close_listener(&self.loop, conn)

    # ------------------------------------------------------------ logins

    def logins_configure(
        self, *, uint64_t[:] client_cells, uint8_t slot, bint full=False,
        uint16_t peer_id=0, TlsContext context=None, bint tell_logins=True,
        bint tell_closes=True,
    ):
        """From now on logins whose startup packet is known need no Python.

        ``client_cells``: how many clients each worker has, shared, and this worker's
        row of them; lent until ``close``. ``full``: nobody may log in. ``context``:
        TLS for clients that ask for it; None: they are refused. ``tell_logins``,
        ``tell_closes``: whether notices of such logins, and of the end of clients, are
        wanted. What was known is forgotten.
        """
        cdef Logins *logins = &self.loop.logins
        logins_forget(&self.loop)
        self.client_cells = client_cells
        self.login_context = context
        logins.clients = &client_cells[slot]
        logins.full = full
        logins.slot = slot
        logins.peer_id = peer_id
        logins.tls = NULL if context is None else <void *> context.context
        logins.binding_n = 0
        if context is not None:
            logins.binding_n = <uint8_t> len(context.certificate_hash)
            memcpy(
                logins.binding, bytes_of(context.certificate_hash), logins.binding_n
            )
        logins.tell_logins = tell_logins
        logins.tell_closes = tell_closes
        logins.on = True
        count_clients(&self.loop)

    def logins_share(self, Page page):
        """Clients take places on the page, in the row of the slot, from now on."""
        self.page = page
        self.loop.logins.page = page.map

    def tell_closes(self):
        """From now on the end of every client is told."""
        self.loop.logins.tell_closes = True

    def logins_forget(self):
        """Something has changed that a known login depends on."""
        logins_forget(&self.loop)

    def login_forget(self, uint32_t number):
        """What ``login_remember`` has returned is not known any more."""
        login_forget(&self.loop, number)

    def login_remember(
        self, uint64_t handle, bytes packet, uint32_t pool_id, parameters,
        bytes greeting, *, bytes before=b"", int question=0, StoredSecret secret=None,
        uint64_t valid_us=0, uint8_t key_bytes=CANCEL_KEY_MIN_BYTES, bytes user=b"",
        places=NOWHERE, limits=(0, 0, 0),
    ):
        """A client that is about to be admitted: others like it need no Python.

        ``packet``: its startup packet. ``before``: what it was told in front of the
        question, ``secret``: what its answer was measured by; None: nothing was asked.
        ``valid_us``: for how long, 0 for ever. ``places``, ``limits``: as for
        ``client_take_place``; the accounts stay open meanwhile. ``greeting``: all it is
        told, up to the cancel key of ``key_bytes``. ``user``: empty: that of the pool.
        Returns the
        number by which NOTICE_LOGGED_IN names them, 0 if nothing is kept.
        """
        cdef ClientConn *cc = self.client(handle)
        cdef KnownLogin *known
        cdef int i
        self.pool(pool_id)
        if not CANCEL_KEY_MIN_BYTES <= key_bytes <= CANCEL_KEY_MAX_BYTES:
            raise ValueError(f"cancel key of {key_bytes} bytes")
        known = login_known(
            cc, bytes_of(packet), len(packet), bytes_of(before), len(before),
            bytes_of(greeting), len(greeting),
        )
        if known == NULL:
            raise MemoryError
        try:
            known.values = self.parameter_set(parameters)
        except BaseException:
            free(known)
            raise
        if user:
            known.user = strdup(user)
        known.pool_id = pool_id
        for i in range(3):
            known.accounts[i] = places[i]
            known.limits[i] = limits[i]
        known.key_n = key_bytes
        if valid_us:
            loop_now(&self.loop)
            known.until_us = self.loop.relay.now_us + valid_us
        known.question = <uint8_t> question
        if secret is not None:
            known.secret = secret_ref(secret.secret)
        return login_remember(&self.loop, known)

    def login_state(self, uint64_t handle):
        """What the engine has done of a login that is Python's now.

        (SSLRequest was answered, TLS has begun, proof); the proof is None, or what
        ``LedElsewhere`` (``login/outcomes``) is made of.
        """
        cdef ClientConn *cc = self.client(handle)
        cdef Exchange *x
        proof = None
        if cc.proof != NULL:
            x = &cc.proof.exchange
            proof = (
                <bytes> cc.proof.known.bytes[:cc.proof.known.packet_n],
                <int> cc.proof.code, <int> x.question, x.kind, x.length,
                stored_secret(x.secret), <bytes> x.client_key[:KEY_BYTES],
                <bytes> x.answer[:x.answer_n],
            )
        return bool(cc.asked_tls), cc.conn.tls != NULL, proof

    # ------------------------------------------------------------ clients

    cdef ClientConn *client(self, uint64_t handle) except? NULL:
        cdef Conn *conn = conn_of(&self.loop, handle)
        if conn == NULL or conn.kind != KIND_CLIENT:
            raise LookupError(f"no client {handle:#x}")
        return <ClientConn *> conn

    def login_bytes(self, uint64_t handle):
        """What a client in state LOGIN has sent and Python has not consumed."""
        cdef ClientConn *cc = self.client(handle)
        cc.login_noticed = False
        return bytes_in(&cc.session.stream.held)

    def login_consume(self, uint64_t handle, size_t n, uint32_t wanted_bytes=0):
        """Forget the first n of ``login_bytes``.

        ``wanted_bytes``: Python wants to hear of the rest when there are so many.
        """
        cdef ClientConn *cc = self.client(handle)
        if n > queue_size(&cc.session.stream.held):
            raise ValueError(f"{n} bytes are not there to consume")
        if n:
            queue_wipe(&cc.session.stream.held, n)  # it may be a password
        cc.login_wanted_bytes = min(wanted_bytes, <uint32_t> LOGIN_HELD_MAX_BYTES)
        watch(&self.loop, &cc.conn, WATCH_READ | (cc.conn.watched & WATCH_WRITE))

    def client_peer(self, uint64_t handle):
        """(address, port) of a client; a Unix socket has ("unix", 0)."""
        return peer_name(&self.client(handle).peer)

    def client_age_us(self, uint64_t handle):
        """How long ago a client was accepted."""
        return self.loop.relay.now_us - self.client(handle).session.opened_us

    def client_send(self, uint64_t handle, bytes data):
        """Send bytes to a client that is not attached to a server."""
        cdef ClientConn *cc = self.client(handle)
        if stream_write(
            &self.loop, &cc.conn, &cc.session.stream.out, bytes_of(data), len(data)
        ) < 0:
            step_client_end(&self.loop.relay, &cc.session)
            carry_out(&self.loop)

    def client_admit(
        self, uint64_t handle, uint32_t pool_id, parameters, bytes cancel_key,
        bytes greeting, *, bytes user=b"",
    ):
        """A client has logged in: send its greeting and let it work.

        ``parameters``: one ``bytes`` or ``None`` per tracked parameter. ``user``: as
        whom; empty: as the user of the pool.
        """
        cdef Loop *L = &self.loop
        cdef ClientConn *cc = self.client(handle)
        cdef ClientSession *c = &cc.session
        cdef Pool *p = self.pool(pool_id)
        if c.state != CLIENT_LOGIN:
            raise ValueError("client is logged in already")
        if not CANCEL_KEY_MIN_BYTES <= len(cancel_key) <= CANCEL_KEY_MAX_BYTES:
            raise ValueError(f"cancel key of {len(cancel_key)} bytes")
        cdef ParamSet *values = self.parameter_set(parameters)
        loop_now(L)
        login_end(L, cc)
        admit(
            L, cc, p, values, <const char *> user if user else NULL,
            bytes_of(cancel_key), <uint8_t> len(cancel_key), bytes_of(greeting),
            len(greeting),
        )
        carry_out(L)

    def client_start_tls(self, uint64_t handle, TlsContext context):
        """A client that is logging in speaks TLS from now on.

        What it has sent and Python has not consumed is the beginning of that. The
        caller has seen to it that nothing stands in front of it that was sent in the
        clear (CVE-2021-23214).
        """
        cdef ClientConn *cc = self.client(handle)
        if cc.session.state != CLIENT_LOGIN or cc.conn.tls != NULL:
            raise ValueError("client is logged in already, or speaks TLS")
        if cc.session.stream.out.cap or tls_begin(
            &self.loop, &cc.conn, accepting(context)
        ) < 0:
            raise MemoryError
        if cc.session.stream.held.cap:
            tls_has_come(&cc.conn, &cc.session.stream.held)
        cc.login_wanted_bytes = 0

    def client_tls(self, uint64_t handle):
        """(version, cipher, ALPN protocol) of a client; None without TLS.

        Empty before the handshake is over.
        """
        return tls_facts(&self.client(handle).conn)

    def client_certificate_name(self, uint64_t handle):
        """The common name in the certificate that a client has shown; b"": none."""
        return certificate_name(&self.client(handle).conn)

    def client_take_place(self, uint64_t handle, places, limits):
        """Give a client a place until it leaves, unless it has one.

        ``places``: the accounts of everybody, of its database and of its user, or
        NO_ACCOUNT. ``limits``: of these, 0 for none. Returns 0, or which of the three
        limits is in the way.
        """
        cdef uint32_t accounts[3]
        cdef uint64_t most[3]
        cdef int i
        for i in range(3):
            accounts[i] = places[i]
            most[i] = limits[i]
        return login_take_place(&self.loop, self.client(handle), accounts, most)

    def client_count_for(self, uint64_t handle, accounts):
        """A client with a place counts in these three as well, or NO_ACCOUNT.

        Where it counts already it stays; the accounts stay open meanwhile.
        """
        cdef uint32_t more[3]
        cdef int i
        for i in range(3):
            more[i] = accounts[i]
        login_count_for(&self.loop, self.client(handle), more)

    def client_uncounted(self, uint64_t handle):
        """A client takes no place of ``max_client_conn``."""
        cdef ClientConn *cc = self.client(handle)
        self.loop.uncounted_count += not cc.uncounted
        cc.uncounted = True
        count_clients(&self.loop)

    def client_proved(self, uint64_t handle):
        """The login of a client waits for nothing but a server."""
        client_proved(&self.client(handle).session)

    def client_may_wait(self, uint64_t handle):
        """A client's login waits until others leave: it may take any time."""
        client_may_wait(&self.client(handle).session)

    def client_os_uid(self, uint64_t handle):
        """The user id of the process behind a Unix socket; None: there is none."""
        cdef int uid = sys_peer_uid(self.client(handle).conn.fd)
        return uid if uid >= 0 else None

    def client_os_pid(self, uint64_t handle):
        """The process behind a Unix socket; 0: it is not told, or there is none."""
        return max(0, sys_peer_pid(self.client(handle).conn.fd))

    def client_close(
        self, uint64_t handle, int reason, bytes farewell=b"", *, bint tell=False
    ):
        """Close a client; ignored when it is gone.

        ``farewell`` is sent before, to one that logs in. ``tell``: it gets FATAL and
        the reason, unless it is in the middle of a message.
        """
        cdef Loop *L = &self.loop
        cdef Conn *conn = conn_of(L, handle)
        cdef ClientConn *cc
        if not 0 <= reason < CLOSE_REASONS:
            raise ValueError(f"no close reason {reason}")
        if conn == NULL or conn.kind != KIND_CLIENT:
            return
        cc = <ClientConn *> conn
        if farewell:
            stream_write(
                L, conn, &cc.session.stream.out, bytes_of(farewell), len(farewell)
            )
        stream_swallow(L, conn)
        step_client_close(&L.relay, &cc.session, <CloseReason> reason, tell)
        carry_out(L)

    def client_users(self):
        """(handle, pool id, user) of each client that is logged in; by one walk.

        The user is ``bytes``, empty where it is that of the pool.
        """
        return client_users(&self.loop)

    def send_clients_away(self, uint32_t most=UINT32_MAX, *, bint idle_only=False):
        """Close clients with FATAL 57P01, as far as they take it; how many there were.

        ``idle_only``: not those that log in, wait, or hold a transaction. One that is
        in the middle of a message is told nothing.
        """
        loop_now(&self.loop)
        return send_clients_away(&self.loop, most, idle_only)

    # ------------------------------------------------------------ SUSPEND

    def suspend(self, spared):
        """Read nothing, accept nobody; connections of the pools ``spared`` go on.

        Idempotent: those of further pools go on then. No deadline comes.
        """
        cdef uint32_t pool_id
        loop_suspend(&self.loop)
        for pool_id in spared:
            spare_pool(&self.loop, self.pool(pool_id))

    def resume(self):
        """Read and accept again. Times that are up by now count at the next turn."""
        loop_resume(&self.loop)

    def unflushed(self):
        """How many that rest have not taken yet what they were sent."""
        return count_unflushed(&self.loop)

    def close_unflushed(self):
        """Close these, and who waits for them (``suspend_timeout``)."""
        loop_now(&self.loop)
        close_unflushed(&self.loop)

    # ------------------------------------------------------------ lists

    def take_id(self):
        """The id of a new connection, of which no other in the pooler has or had it."""
        return take_id(&self.loop)

    def list_clients(self, uint32_t first, uint32_t most):
        """(rows, where to go on): clients, of at most so many places; 0: that is all.

        A connection that is there all the time is in one list, and one only.
        """
        return list_clients(&self.loop, first, most)

    def list_servers(self, uint32_t first, uint32_t most):
        """As ``list_clients``."""
        return list_servers(&self.loop, first, most)

    def count_holders(self, uint32_t first, uint32_t most, dict holders):
        """Clients and servers by pool and prepared statement; see ``io/prepared``."""
        return count_holders(&self.loop, first, most, holders)

    def list_statements(self, uint32_t first, uint32_t most, dict found):
        """Prepared statements by their ids; see ``io/prepared``."""
        return list_statements(&self.loop, first, most, found)

    def client_of_id(self, uint32_t id):
        """The handle of the client with this id; None: there is none."""
        return client_of_id(&self.loop, id)

    # ------------------------------------------------------------ pools

    def pool_create(self, uint32_t max_servers):
        """A new, empty pool; returns its id. It lives until ``pool_drop``."""
        cdef Pool *p = relay_add_pool(&self.loop.relay, max_servers)
        if p == NULL:
            raise MemoryError
        return p.id

    cdef Pool *pool(self, uint32_t pool_id) except NULL:
        cdef Pool *found = NULL
        if pool_id < self.loop.relay.pool_count:
            found = self.loop.relay.pools[pool_id]
        if found == NULL:
            raise LookupError(f"no pool {pool_id}")
        return found

    def pools_empty(self):
        """Pools without a client or server, as id: clients that ever logged in.

        Cost: O(pools)
        """
        cdef uint32_t i
        cdef const Pool *p
        found = {}
        for i in range(self.loop.relay.pool_count):
            p = self.loop.relay.pools[i]
            if p != NULL and pool_is_empty(p):
                found[i] = p.counters.client_logins
        return found

    def pool_drop(self, uint32_t pool_id):
        """Forget a pool for good, and logins that lead to it; False: it is in use.

        Its id may be that of another one from here on; notices that are to be taken
        still do not name it.
        """
        cdef Pool *p = self.pool(pool_id)
        if not pool_is_empty(p):
            return False
        logins_forget_pool(&self.loop, pool_id)
        notices_disown(&self.loop, pool_id)
        relay_drop_pool(&self.loop.relay, p)
        return True

    def pool_configure(
        self, uint32_t pool_id, *, int mode, bytes reset_query, bint reset_always,
        bytes check_query, uint64_t check_delay_us, bint cancel_abandoned,
        uint32_t max_prepared_statements=0, bint dedicated=False,
        bint clean_changed=False, bint clean_custom=False, bint clean_sequences=False,
        bint single_use=False, uint32_t min_servers=0, bint round_robin=False,
        bint fast_close=False, bint no_queries=False, limits=None,
    ):
        """Set how a pool works; scripts are SQL, empty for none.

        ``check_query`` may be ``b"\\0"``: an empty query is sent. Where
        ``max_prepared_statements`` comes from or goes to 0, the pool's servers are
        replaced. ``single_use``: a server is closed when its first client is done.
        ``min_servers``: so many of all workers stay however long they are idle.
        ``round_robin``: servers are used in turn. ``fast_close``: in session mode, one
        that is replaced does not wait for its client to leave.
        ``limits``: fields of ``TimeLimits`` in us, those that are not 0.
        """
        cdef Pool *p = self.pool(pool_id)
        cdef PoolConfig config
        cdef bint replace = (p.config.max_prepared_statements == 0) != (
            max_prepared_statements == 0
        )
        memset(&config, 0, sizeof(config))
        script_fill(&config.reset_query, reset_query)
        script_fill(&config.check_query, check_query)
        config.mode = <uint8_t> mode
        config.max_prepared_statements = max_prepared_statements
        config.reset_always = reset_always
        config.check_delay_us = check_delay_us
        config.cancel_abandoned = cancel_abandoned
        config.clean_changed = clean_changed
        config.clean_custom = clean_changed and clean_custom
        config.dedicated = dedicated
        config.no_queries = no_queries
        config.single_use = single_use
        config.min_servers = min_servers
        config.round_robin = round_robin
        config.fast_close = fast_close and mode == MODE_SESSION
        cdef TimeLimits times = time_limits_of(limits or {})
        time_limits_fill(&config, &times)
        pool_configure(p, &config)
        loop_now(&self.loop)
        limits_changed(&self.loop, p)
        if clean_sequences and clean_changed and mode != MODE_SESSION:
            sequences_always(p)
        if dedicated:  # it was another client's before
            pool_resume(p)
            counters_begin(p)
        if replace:
            retire_servers(&self.loop, p)
        elif p.config.fast_close:
            retire_again(&self.loop, p)

    def pool_resize(self, uint32_t pool_id, uint32_t max_servers):
        """Change how many servers a pool may have; surplus ones leave when free."""
        cdef Pool *p = self.pool(pool_id)
        pool_resize(p, max_servers)
        while p.server_count > max_servers and p.idle_tail != NULL:
            step_server_close(&self.loop.relay, p.idle_tail, CLOSE_SERVER_OBSOLETE)
            carry_out(&self.loop)
        step_pool_wants(&self.loop.relay, p)
        carry_out(&self.loop)

    def pool_share(self, uint32_t pool_id, Page page, uint32_t row, uint32_t account):
        """A pool tells other workers who is idle and who waits: in a row of an account.

        One pool of a worker for one account, which stays open as long as the pool.
        """
        self.page = page
        pool_share(
            self.pool(pool_id), page.row_of(account, row), page.row_of(account, 0),
            page.rows, page.times_of(account, row),
        )
        sharing_begin(self.pool(pool_id))

    def pool_look(self, uint32_t pool_id):
        """What other workers want of a pool, or have for it, at this moment.

        (row that should have an idle server of ours, row that has one to spare for
        ours, whether clients wait on one side and a server is idle on the other);
        -1: none.
        """
        cdef Pool *p = self.pool(pool_id)
        cdef const RowSet *shunned = &self.loop.relay.shunned
        if not is_shared(p):
            return -1, -1, False
        loop_now(&self.loop)
        return (
            row_to_serve(
                p.rows, p.row_count - 1, p.cells, shunned,
                self.loop.relay.now_us, p.sharing.patience_us,
            ),
            row_to_ask(
                p.rows, p.row_count - 1, p.cells, shunned,
                self.loop.relay.now_us, p.sharing.patience_us,
            ),
            bool(is_uneven(p.rows, p.row_count - 1, p.cells, shunned)),
        )

    def pool_let_go(self, uint32_t pool_id):
        """Clean an idle server that is kept for its client, so that it may move."""
        loop_now(&self.loop)
        step_pool_lets_go(&self.loop.relay, self.pool(pool_id))
        carry_out(&self.loop)

    def pool_even(self, uint32_t pool_id):
        """NOTICE_UNEVEN of a pool may come again."""
        sharing_even(self.pool(pool_id))

    def pool_patience(self, uint32_t pool_id, uint64_t patience_us):
        """By how much clients elsewhere may wait longer than those of a pool here."""
        sharing_patience(self.pool(pool_id), patience_us)

    def shun(self, rows):
        """Workers that no pool puts servers aside for: a bit for each."""
        cdef int i
        for i in range(ROW_WORDS):
            self.loop.relay.shunned.words[i] = rows >> 64 * i & <uint64_t> -1

    def pool_refused(self, uint32_t pool_id):
        """No server may be opened now; none is asked for before ``pool_room``."""
        cdef Pool *p = self.pool(pool_id)
        pool_refuse(p)
        step_pool_waits(&self.loop.relay, p)
        carry_out(&self.loop)

    def pool_room(self, uint32_t pool_id):
        """There may be room for servers: they are asked for again if it is wanted."""
        cdef Pool *p = self.pool(pool_id)
        pool_room(p)
        step_pool_wants(&self.loop.relay, p)
        carry_out(&self.loop)

    def pool_evict(self, uint32_t pool_id):
        """Close the server that has been idle longest; False: none is.

        One in which a client has left something that it may have back goes last.
        """
        cdef Pool *p = self.pool(pool_id)
        cdef ServerSession *s = p.idle_tail
        while s != NULL and (s.kept_for != NULL or s.changes.left):
            s = s.prev
        if s == NULL:
            s = p.idle_tail
        if s == NULL:
            return False
        step_server_close(&self.loop.relay, s, CLOSE_SERVER_EVICTED)
        carry_out(&self.loop)
        return True

    def pool_launching(self, uint32_t pool_id, uint32_t at_most):
        """How many servers to open now; they count as connecting from here on."""
        cdef Pool *p = self.pool(pool_id)
        cdef uint32_t launched = pool_launch(p, at_most)
        if launched == 0:
            step_pool_waits(&self.loop.relay, p)
            carry_out(&self.loop)
        return launched

    def pool_prelaunch(self, uint32_t pool_id):
        """Count one server as connecting that no waiting client asked for."""
        return bool(pool_prelaunch(self.pool(pool_id)))

    def pool_launch_failed(self, uint32_t pool_id):
        """A server that was connecting did not come to be."""
        cdef Pool *p = self.pool(pool_id)
        pool_connected(p)
        step_pool_waits(&self.loop.relay, p)
        carry_out(&self.loop)

    def pool_drop_waiting(self, uint32_t pool_id, int reason, bytes farewell):
        """Close all clients that wait, for a CloseReason; they are told ``farewell``.
        """
        cdef Pool *p = self.pool(pool_id)
        while p.waiting_head != NULL:
            self.client_close(
                conn_handle(&self.loop, <Conn *> p.waiting_head.io),
                reason, farewell,
            )

    def pool_retire(self, uint32_t pool_id, bint for_ever):
        """Close a pool's servers: idle ones now, the others when they are free.

        ``for_ever``: the pool opens no new ones either, and who asks is sent away.
        What another worker has opened before is not taken over any more.
        """
        cdef Pool *p = self.pool(pool_id)
        pool_replace(p, sys_now_us())
        if for_ever:
            pool_pause(p, True)
        retire_servers(&self.loop, p)

    def pool_hold(self, uint32_t pool_id, bint held):
        """Hand out no server and open none until it is let go; those who ask wait.

        Servers leave: idle ones now, the others when they are free.
        """
        cdef Pool *p = self.pool(pool_id)
        if p.closing or p.paused == held:
            return
        if held:
            pool_pause(p, False)
            pause_servers(&self.loop, p)
        else:
            pool_resume(p)
            step_pool_waits(&self.loop.relay, p)
            step_pool_wants(&self.loop.relay, p)
            carry_out(&self.loop)

    def pool_kill(self, uint32_t pool_id, int reason):
        """Close all clients of a pool, who are told why, and all servers."""
        kill_pool(&self.loop, self.pool(pool_id), <CloseReason> reason)

    def pool_obsolete(self, uint32_t pool_id):
        """How many servers of a pool are to be closed as soon as they are free."""
        return count_obsolete(&self.loop, self.pool(pool_id))

    def pool_inquire(self, uint32_t pool_id, bytes query):
        """Ask an idle server of a pool; ``query`` must leave nothing behind.

        False when there is no idle server, or somebody waits for one, or one is being
        asked. Otherwise NOTICE_INQUIRED comes, and ``pool_inquiry_answer`` is due.
        """
        cdef Loop *L = &self.loop
        cdef Pool *p = self.pool(pool_id)
        cdef Script script
        cdef bint asked
        memset(&script, 0, sizeof(script))
        script_fill(&script, query)
        loop_now(L)
        asked = step_pool_inquire(&L.relay, p, script.message, script.n)
        carry_out(L)
        free(script.message)
        return asked

    def pool_inquiry_answer(self, uint32_t pool_id):
        """All messages up to ReadyForQuery; empty when the server was lost."""
        cdef bytes data = bytes_in(&self.pool(pool_id).inquiry.answer)
        inquiry_forget(self.pool(pool_id))
        return data

    def pool_learned(self, uint32_t pool_id):
        """Parameter, what clients asked for, what servers made of it: all of it new."""
        cdef bytes data = bytes_in(&self.pool(pool_id).inquiry.learned)
        words_forget(self.pool(pool_id))
        cdef list parts = data.split(b"\0")
        parts.pop()  # behind the last terminator
        in_turn = iter(parts)
        return list(zip(in_turn, in_turn, in_turn))

    def pool_stats(self, uint32_t pool_id):
        """Counts and totals of one pool."""
        return pool_counters(self.pool(pool_id))

    # ------------------------------------------------------------ servers

    cdef ParamSet *parameter_set(self, object parameters) except NULL:
        """The interned set of these values; the caller owns a reference."""
        cdef ParamSet *values = params_empty(&self.loop.relay.params)
        cdef ParamSet *more
        cdef int i
        cdef bytes text
        if values == NULL:
            raise MemoryError
        for i, value in enumerate(parameters):
            if value is None:
                continue
            text = value
            if i >= len(self.tracked) or len(text) > PARAM_VALUE_MAX:
                params_unref(&self.loop.relay.params, values)
                raise ValueError("parameter value that cannot be tracked")
            more = params_with(
                &self.loop.relay.params, values, i,
                <const uint8_t *> PyBytes_AsString(text), len(text),
            )
            params_unref(&self.loop.relay.params, values)
            if more == NULL:
                raise MemoryError
            values = more
        return values

    # ------------------------------------------------------------ links

    cdef LinkConn *link(self, uint64_t handle) except? NULL:
        cdef Conn *conn = conn_of(&self.loop, handle)
        if conn == NULL or conn.kind != KIND_LINK:
            raise LookupError(f"no link {handle:#x}")
        return <LinkConn *> conn

    def link_open(self, int fd):
        """Talk on a non-blocking socket that is being connected.

        Takes it over, unless it raises.
        """
        cdef LinkConn *link = open_link(&self.loop, fd)
        if link == NULL:
            raise MemoryError
        return conn_handle(&self.loop, &link.conn)

    def link_take(self, uint64_t handle):
        """(bytes that have come, whether it has ended, errno): what is new.

        Reading goes on from here.
        """
        cdef LinkConn *link = self.link(handle)
        cdef bytes data = bytes_in(&link.stream.held)
        cdef int code
        queue_reset(&link.stream.held)
        code = link_listen(&self.loop, link)
        if code < 0:
            raise OSError(-code, os.strerror(-code))
        return data, bool(link.ended), link.error

    def link_send(self, uint64_t handle, bytes data):
        """Send bytes; that the peer is gone is heard of by ``link_take``."""
        link_send(&self.loop, self.link(handle), bytes_of(data), len(data))

    def link_start_tls(
        self, uint64_t handle, TlsContext context, str host, bint direct
    ):
        """The server behind a link has agreed to TLS, or is asked ``direct``ly.

        It must show the certificate of ``host`` if the context says so. Python hears
        of the end of the handshake as of bytes.
        """
        cdef LinkConn *link = self.link(handle)
        if link.stream.held.cap or link.stream.out.cap or link.conn.tls != NULL:
            raise ValueError("bytes stand in front of the handshake")
        cdef int code = tls_begin(
            &self.loop, &link.conn, connecting(context, host, direct)
        )
        if code == -ENOMEM:
            raise MemoryError
        if code < 0:
            raise OSError(-code, os.strerror(-code))
        link.handshaking = True

    def link_tls(self, uint64_t handle):
        """(version, cipher, ALPN protocol, why it failed, hash of the certificate).

        None without TLS. All are empty before the handshake is over, but the error.
        """
        cdef LinkConn *link = self.link(handle)
        facts = tls_facts(&link.conn)
        if facts is None:
            return None
        error = tls_error(&link.conn)
        return (
            *facts, error.decode() if error != NULL else "", peer_hash(&link.conn)
        )

    def link_close(self, uint64_t handle):
        """Close a link; ignored when it is gone."""
        cdef Conn *conn = conn_of(&self.loop, handle)
        if conn != NULL and conn.kind == KIND_LINK:
            close_link(&self.loop, <LinkConn *> conn)

    def link_fd(self, uint64_t handle):
        """The descriptor of a link, to be shared; it stays the engine's."""
        return self.link(handle).conn.fd

    # ------------------------------------------------------------ partings

    def link_part(self, uint64_t handle):
        """Close a link to PostgreSQL: NOTICE_PARTED, and NOTICE_GONE when it is gone.

        Ignored when it is gone already.
        """
        cdef Conn *conn = conn_of(&self.loop, handle)
        if conn != NULL and conn.kind == KIND_LINK:
            part_link(&self.loop, <LinkConn *> conn)

    def part_open(self, int fd):
        """End the connection that another process has had; NOTICE_GONE follows.

        Takes the descriptor over, unless it raises.
        """
        cdef Conn *conn = part_open(&self.loop, fd)
        if conn == NULL:
            raise MemoryError
        return conn_handle(&self.loop, conn)

    def part_give_up(self, uint64_t handle):
        """Wait no longer for the end of a connection; ignored when it is gone."""
        cdef Conn *conn = conn_of(&self.loop, handle)
        if conn != NULL and conn.kind == KIND_PARTING:
            parting_close(&self.loop, conn)

    # ------------------------------------------------------------ servers

    def server_adopt(
        self, uint64_t handle, uint32_t pool_id, parameters, bytes early=b""
    ):
        """The server behind a link has logged in: it becomes idle and serves who waits.

        The pool counted it as connecting before. ``early``: bytes that came behind its
        ReadyForQuery. Its handle stays what it was. When it raises, the link is parting
        or closed.
        """
        cdef Loop *L = &self.loop
        cdef LinkConn *link = self.link(handle)
        cdef Pool *p
        cdef ParamSet *values = NULL
        cdef ServerConn *sc
        try:
            p = self.pool(pool_id)
            early += self.link_take(handle)[0]
            values = self.parameter_set(parameters)
            sc = link_becomes_server(L, link)
            if sc == NULL:
                raise MemoryError
        except BaseException:
            params_unref(&L.relay.params, values)
            part_link(L, link)
            raise
        loop_now(L)
        step_server_begin(
            &L.relay, &sc.session, p, values, bytes_of(early), len(early)
        )
        if sc.conn.watched == 0:
            step_server_close(&L.relay, &sc.session, CLOSE_NO_MEMORY)
        elif p.paused:
            step_server_retire(&L.relay, &sc.session)
        carry_out(L)

    def server_close(self, uint64_t handle, int reason):
        """Close a server and, if it is attached, leave its client without one."""
        cdef Conn *conn = conn_of(&self.loop, handle)
        if conn != NULL and conn.kind == KIND_SERVER:
            step_server_close(
                &self.loop.relay, &(<ServerConn *> conn).session, <CloseReason> reason
            )
            carry_out(&self.loop)

    def server_give(self, uint64_t handle):
        """Let go of an idle server for another worker: (descriptor, record).

        The descriptor is the caller's then. None if it has to stay: it is not idle,
        speaks TLS, or something is left in it that cannot travel.
        """
        cdef Loop *L = &self.loop
        cdef Conn *conn = conn_of(L, handle)
        cdef Queue record
        cdef int fd
        if conn == NULL or conn.kind != KIND_SERVER:
            return None
        memset(&record, 0, sizeof(record))
        loop_now(L)
        fd = give_server(L, <ServerConn *> conn, &record)
        carry_out(L)
        if fd < 0:
            return None
        try:
            return fd, bytes_in(&record)
        finally:
            queue_reset(&record)

    def server_retire(self, uint64_t handle):
        """Close a server now if it is idle, else as soon as it is free."""
        cdef Conn *conn = conn_of(&self.loop, handle)
        if conn != NULL and conn.kind == KIND_SERVER:
            step_server_retire(&self.loop.relay, &(<ServerConn *> conn).session)
            carry_out(&self.loop)

    def server_stay(self, uint64_t handle):
        """A server that was put aside (NOTICE_OFFER) serves here; ignored if it is not.
        """
        cdef Conn *conn = conn_of(&self.loop, handle)
        if conn != NULL and conn.kind == KIND_SERVER:
            loop_now(&self.loop)
            step_server_stay(&self.loop.relay, &(<ServerConn *> conn).session)
            carry_out(&self.loop)

    def server_receive(self, int fd, uint32_t pool_id, bytes record):
        """Take over a server that another worker has given: its handle here.

        It serves who waits. ValueError if the record cannot be used here, or the pool
        does not want it: ``fd`` is the caller's still, whatever is raised.
        """
        cdef Loop *L = &self.loop
        cdef Pool *p = self.pool(pool_id)
        cdef Thawed thawed
        cdef ServerConn *sc
        loop_now(L)
        if thaw(&L.relay, bytes_of(record), len(record), &thawed) < 0:
            raise ValueError("the record of this server cannot be used here")
        try:
            if not pool_accepts(&L.relay, p, &thawed):
                raise ValueError("the pool does not want this server")
            sc = receive_server(L, fd, p, &thawed)
            if sc == NULL:
                raise MemoryError
        finally:
            thawed_free(&L.relay, &thawed)
        handle = conn_handle(L, &sc.conn)
        carry_out(L)
        return handle

    def pool_idle_servers(self, uint32_t pool_id):
        """Handles of a pool's idle servers, the one that was used last being the last.
        """
        cdef const ServerSession *s = self.pool(pool_id).idle_tail
        found = []
        while s != NULL:
            found.append(conn_handle(&self.loop, &conn_of_server(s).conn))
            s = s.prev
        return found

    # ------------------------------------------------------------ cancel

    def cancel_begin(self, bytes key):
        """Find who a cancel key belongs to.

        Returns ``None`` when no client has it, 0 when nothing is left to do, else the
        handle of a server, which is not reused until ``cancel_end``. A client whose
        request was not sent yet is answered here.
        """
        cdef Loop *L = &self.loop
        cdef ServerSession *s
        cdef ClientSession *owner = cancel_owner(L, bytes_of(key), len(key))
        if owner == NULL:
            return None
        s = step_cancel(&L.relay, owner)
        carry_out(L)
        return 0 if s == NULL else conn_handle(L, &conn_of_server(s).conn)

    def cancel_end(self, uint64_t handle, bint uncertain=False):
        """The cancel request to this server is over.

        ``uncertain``: it may still strike, so nobody else may use this server.
        """
        cdef Conn *conn = conn_of(&self.loop, handle)
        if conn == NULL or conn.kind != KIND_SERVER:
            return
        step_cancelled(
            &self.loop.relay, &(<ServerConn *> conn).session, uncertain
        )
        carry_out(&self.loop)
