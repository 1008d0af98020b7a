# SPDX-License-Identifier: MIT
"""``Engine``: what Python may ask of the engine."""

cimport cython
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

from pooler.wire.buffers cimport queue_add, queue_drop, queue_size
from pooler.io.conn cimport (
    ClientConn, Conn, KIND_CLIENT, KIND_LISTENER, KIND_SERVER, ListenerConn, Loop,
    NOTICE_CLIENT_CLOSED, NoticeRow, ServerConn, conn_enter, conn_handle, conn_interest,
    conn_leave, conn_of, conn_swallow_input, conn_write,
)
from pooler.io.ends cimport (
    close_client, close_server, fill_close_reasons, settle, wake_pool, want_servers,
)
from pooler.io.loop cimport free_dead, loop_free, loop_init, loop_run
from pooler.tables.params cimport (
    PARAM_VALUE_MAX, ParamSet, params_empty, params_free, params_init, params_track,
    params_unref, params_with,
)
from pooler.session.pool cimport pool_add_client, pool_add_server, pool_servers_wanted
from pooler.session.records cimport (
    CANCEL_KEY_MAX_BYTES, CANCEL_KEY_MIN_BYTES, CLIENT_ACTIVE, CLIENT_LOGIN,
    CLIENT_WAITING, CLOSE_CLIENT_EOF, CLOSE_NO_MEMORY, CLOSE_QUERY_WAIT, CLOSE_REASONS,
    CLOSE_SERVER_OBSOLETE, CLOSE_SERVER_UNUSABLE, ClientSession, CloseReason, Pool,
    ServerSession, requests_init, script_fill,
)
from pooler.tables.statements cimport StatementTable, statements_free, statements_init
from pooler.io.stats cimport loop_counters, peer_name, pool_counters
from pooler.io.sweep cimport (
    cancel_owner, close_all, expire_logins, expire_tested, retire_servers,
)
from pooler.io.syscalls cimport (
    EPOLLEXCLUSIVE, EPOLLIN, EPOLLOUT, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD,
    c_close, epoll_ctl, epoll_event, errno, sys_now_us,
)
from pooler.io.traffic cimport (
    cancel_waiting, idle_server_bytes, resume_client, run_wakes,
)
from pooler._wire cimport limit_rules

import os
import selectors

from pooler.errors import CLOSE_REASON_ROWS

fill_close_reasons(CLOSE_REASON_ROWS)

# Parameters that are lists of names: SET would take a reported value for one name.
LIST_PARAMETERS = frozenset(
    {"search_path", "temp_tablespaces", "session_preload_libraries",
     "local_preload_libraries"}
)


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
    ):
        """``tracked_parameters``: names of parameters that follow the client.

        ``max_message_bytes`` bounds every message, for all engines of this process.
        ``statement_prefix``: what the names of prepared statements on servers begin
        with, no other worker's being the same.
        """
        cdef int code = loop_init(&self.loop, recv_bytes)
        if code < 0:
            raise OSError(-code, os.strerror(-code))
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
        script_fill(&self.loop.rollback, b"ROLLBACK")
        script_fill(&self.loop.deallocate, b"DEALLOCATE ALL")
        script_fill(&self.loop.discard, b"DISCARD ALL")

    def __dealloc__(self):
        self.close()
        loop_free(&self.loop)
        statements_free(&self.loop.relay.statements)
        params_free(&self.loop.relay.params)

    cpdef void close(self):
        """Close every connection and the epoll descriptor; idempotent."""
        if self.loop.epfd < 0:
            return
        close_all(&self.loop)
        free_dead(&self.loop)
        c_close(self.loop.epfd)
        self.loop.epfd = -1

    def fileno(self):
        """The epoll descriptor. ``run`` reports it as readable when notices wait."""
        return self.loop.epfd

    # ------------------------------------------------------------ the loop

    def watch(self, int fd, int mask):
        """Watch a descriptor of Python's for ``selectors`` events; 0 ends it.

        The caller says ``watch(fd, 0)`` before it closes the descriptor.
        """
        cdef epoll_event event
        event.events = 0
        if mask & selectors.EVENT_READ:
            event.events |= EPOLLIN
        if mask & selectors.EVENT_WRITE:
            event.events |= EPOLLOUT
        event.data.u64 = (<uint64_t> fd << 1) | 1
        if mask == 0:
            epoll_ctl(self.loop.epfd, EPOLL_CTL_DEL, fd, NULL)
        elif (
            epoll_ctl(self.loop.epfd, EPOLL_CTL_MOD, fd, &event) < 0
            and epoll_ctl(self.loop.epfd, EPOLL_CTL_ADD, fd, &event) < 0
        ):
            raise OSError(errno, os.strerror(errno))

    def run(self, timeout_s):
        """Serve connections until Python is needed.

        ``timeout_s``: seconds, ``None`` for ever, <= 0 only what is ready now.
        Returns ``[(fd, selectors mask), ...]`` for Python's descriptors.
        """
        cdef uint64_t deadline_us = <uint64_t> -1
        cdef uint32_t i
        cdef int mask
        if timeout_s is not None:
            deadline_us = sys_now_us()
            if timeout_s > 0:
                deadline_us += <uint64_t> (timeout_s * 1e6)
        with nogil:
            loop_run(&self.loop, deadline_us)
        self.loop.python_count += 1
        ready = []
        for i in range(self.loop.ready_count):
            mask = 0
            if self.loop.ready_masks[i] & ~<uint32_t> EPOLLIN:
                mask |= selectors.EVENT_WRITE
            if self.loop.ready_masks[i] & ~<uint32_t> EPOLLOUT:
                mask |= selectors.EVENT_READ
            ready.append((self.loop.ready_fds[i], mask))
        if self.loop.notice_count:
            ready.append((self.loop.epfd, selectors.EVENT_READ))
        return ready

    def take_notices(self):
        """Return and forget what was left for Python.

        Rows are (Notice, handle, argument, pool id or -1, age in us, peer); what a
        kind fills in is said at ``Notice``.
        """
        cdef uint32_t i
        cdef NoticeRow *row
        rows = []
        for i in range(self.loop.notice_count):
            row = &self.loop.notices[i]
            peer = None
            if row.kind == NOTICE_CLIENT_CLOSED:
                peer = peer_name(&row.peer)
            rows.append(
                (row.kind, row.handle, row.argument, row.pool_id, row.age_us, peer)
            )
        self.loop.notice_count = 0
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

    def counters(self):
        """What the loop has done so far, for tests and diagnosis."""
        return loop_counters(&self.loop)

    # ------------------------------------------------------------ listeners

    def add_listener(self, int fd, bint shared):
        """Accept on a non-blocking listening socket; takes the descriptor over.

        ``shared``: other processes accept on it too, wake only one of them.
        """
        cdef Loop *L = &self.loop
        cdef ListenerConn *lc = <ListenerConn *> calloc(1, sizeof(ListenerConn))
        if lc == NULL or conn_enter(L, &lc.conn) < 0:
            free(lc)
            raise MemoryError
        lc.conn.fd = fd
        lc.conn.kind = KIND_LISTENER
        if conn_interest(
            L, &lc.conn, EPOLLIN | (<uint32_t> EPOLLEXCLUSIVE if shared else 0)
        ) < 0:
            raise OSError(errno, os.strerror(errno))
        return conn_handle(L, &lc.conn)

    def accept_again(self, uint64_t handle, bint shared):
        """Start a listener that was paused for want of descriptors."""
        cdef Conn *conn = conn_of(&self.loop, handle)
        if conn != NULL and conn.kind == KIND_LISTENER:
            conn_interest(
                &self.loop, conn,
                EPOLLIN | (<uint32_t> EPOLLEXCLUSIVE if shared else 0),
            )

    def close_listener(self, uint64_t handle):
        """Stop accepting; the connections stay."""
        cdef Conn *conn = conn_of(&self.loop, handle)
        if conn != NULL and conn.kind == KIND_LISTENER:
            conn_leave(&self.loop, conn)

    # ------------------------------------------------------------ clients

    cdef ClientConn *client(self, uint64_t handle) except? NULL:
        cdef Conn *conn = conn_of(&self.loop, handle)
        if conn == NULL or conn.kind != KIND_CLIENT:
            raise LookupError(f"no client {handle:#x}")
        return <ClientConn *> conn

    def login_bytes(self, uint64_t handle):
        """What a client in state LOGIN has sent and Python has not consumed."""
        cdef ClientConn *cc = self.client(handle)
        cdef const uint8_t *data = (
            cc.session.stream.held.data + cc.session.stream.held.start
        )
        cc.login_noticed = False
        if cc.session.stream.held.cap == 0:
            return b""
        return PyBytes_FromStringAndSize(
            <const char *> data, queue_size(&cc.session.stream.held)
        )

    def login_consume(self, uint64_t handle, size_t n):
        """Forget the first n of ``login_bytes``."""
        cdef ClientConn *cc = self.client(handle)
        if n > queue_size(&cc.session.stream.held):
            raise ValueError(f"{n} bytes are not there to consume")
        if n:
            queue_drop(&cc.session.stream.held, n)
            conn_interest(
                &self.loop, &cc.conn, EPOLLIN | (cc.conn.interest & EPOLLOUT)
            )

    def client_peer(self, uint64_t handle):
        """(address, port) of a client; a Unix socket has ("unix", 0)."""
        return peer_name(&self.client(handle).peer)

    def client_send(self, uint64_t handle, bytes data):
        """Send bytes to a client that is not attached to a server."""
        cdef ClientConn *cc = self.client(handle)
        if conn_write(
            &self.loop, &cc.conn, &cc.session.stream.out,
            <const uint8_t *> PyBytes_AsString(data), len(data),
        ) < 0:
            close_client(&self.loop, cc, CLOSE_CLIENT_EOF, False)

    def client_admit(
        self, uint64_t handle, uint32_t pool_id, parameters, bytes cancel_key,
        bytes greeting,
    ):
        """A client has logged in: send its greeting and let it work.

        ``parameters``: one ``bytes`` or ``None`` per tracked parameter.
        """
        cdef Loop *L = &self.loop
        cdef ClientConn *cc = self.client(handle)
        cdef ClientSession *c = &cc.session
        if c.state != CLIENT_LOGIN:
            raise ValueError("client is logged in already")
        if not CANCEL_KEY_MIN_BYTES <= len(cancel_key) <= CANCEL_KEY_MAX_BYTES:
            raise ValueError(f"cancel key of {len(cancel_key)} bytes")
        if pool_id >= L.pool_count:
            raise LookupError(f"no pool {pool_id}")
        c.params = self.parameter_set(parameters)
        memcpy(c.cancel_key, <const char *> cancel_key, len(cancel_key))
        c.cancel_key_n = <uint8_t> len(cancel_key)
        pool_add_client(L.pools[pool_id], c)
        L.login_count -= 1
        L.now_us = L.relay.now_us = sys_now_us()
        if conn_write(
            L, &cc.conn, &c.stream.out,
            <const uint8_t *> PyBytes_AsString(greeting), len(greeting),
        ) < 0:
            close_client(L, cc, CLOSE_CLIENT_EOF, False)
            return
        resume_client(L, cc)
        run_wakes(L)

    def client_close(self, uint64_t handle, int reason, bytes farewell=b""):
        """Close a client, after sending it ``farewell``; ignored when it is gone."""
        cdef Loop *L = &self.loop
        cdef Conn *conn = conn_of(L, handle)
        cdef ClientConn *cc
        if not 0 <= reason < CLOSE_REASONS:
            raise ValueError(f"no close reason {reason}")
        if conn == NULL or conn.kind != KIND_CLIENT:
            return
        cc = <ClientConn *> conn
        if farewell:
            conn_write(
                L, conn, &cc.session.stream.out,
                <const uint8_t *> PyBytes_AsString(farewell), len(farewell),
            )
            conn_swallow_input(L, conn)
        close_client(L, cc, <CloseReason> reason, False)
        run_wakes(L)

    # ------------------------------------------------------------ pools

    def pool_create(self, uint32_t max_servers):
        """A new, empty pool; returns its id. Pools live as long as the engine."""
        cdef Loop *L = &self.loop
        cdef uint32_t n = L.pool_count + 1
        cdef Pool *p = <Pool *> calloc(1, sizeof(Pool))
        cdef void *pools = realloc(L.pools, n * sizeof(Pool *))
        if pools != NULL:
            L.pools = <Pool **> pools
        cdef void *wakes = realloc(L.wakes, n * sizeof(Pool *))
        if wakes != NULL:
            L.wakes = <Pool **> wakes
        cdef void *listed = realloc(L.wake_listed, n * sizeof(bint))
        if listed != NULL:
            L.wake_listed = <bint *> listed
        if p == NULL or pools == NULL or wakes == NULL or listed == NULL:
            free(p)
            raise MemoryError
        p.id = L.pool_count
        p.max_servers = max_servers
        L.pools[p.id] = p
        L.wake_listed[p.id] = False
        L.pool_count = n
        return p.id

    cdef Pool *pool(self, uint32_t pool_id) except NULL:
        if pool_id >= self.loop.pool_count:
            raise LookupError(f"no pool {pool_id}")
        return self.loop.pools[pool_id]

    def pool_configure(
        self, uint32_t pool_id, *, int mode, bytes reset_query, bint reset_always,
        bytes check_query, uint64_t check_delay_us, bint cancel_abandoned,
        uint32_t max_prepared_statements=0, bint dedicated=False,
    ):
        """Set how a pool works; scripts are SQL, empty for none.

        ``check_query`` may be ``b"\\0"``: an empty query is sent. Where
        ``max_prepared_statements`` comes from or goes to 0, the pool's servers are
        replaced.
        """
        cdef Pool *p = self.pool(pool_id)
        script_fill(&p.reset_query, reset_query)
        script_fill(&p.check_query, check_query)
        p.mode = <uint8_t> mode
        p.reset_always = reset_always
        p.check_delay_us = check_delay_us
        p.cancel_abandoned = cancel_abandoned
        p.dedicated = dedicated
        if (p.max_prepared_statements == 0) != (max_prepared_statements == 0):
            retire_servers(&self.loop, p)
        p.max_prepared_statements = max_prepared_statements
        p.paused = p.closing = False

    def pool_resize(self, uint32_t pool_id, uint32_t max_servers):
        """Change how many servers a pool may have; surplus ones leave when free."""
        cdef Pool *p = self.pool(pool_id)
        p.max_servers = max_servers
        while p.server_count > max_servers and p.idle_tail != NULL:
            close_server(
                &self.loop, <ServerConn *> p.idle_tail.io, CLOSE_SERVER_OBSOLETE
            )
        want_servers(&self.loop, p)

    def pool_launching(self, uint32_t pool_id, uint32_t at_most):
        """How many servers to open now; they count as connecting from here on."""
        cdef Pool *p = self.pool(pool_id)
        cdef uint32_t wanted = pool_servers_wanted(p)
        p.launch_wanted = False
        if wanted > at_most:
            wanted = at_most
        p.connecting_count += wanted
        return wanted

    def pool_prelaunch(self, uint32_t pool_id):
        """Count one server as connecting that no waiting client asked for."""
        cdef Pool *p = self.pool(pool_id)
        if p.server_count + p.connecting_count >= p.max_servers:
            return False
        p.connecting_count += 1
        return True

    def pool_launch_failed(self, uint32_t pool_id):
        """A server that was connecting did not come to be."""
        cdef Pool *p = self.pool(pool_id)
        p.connecting_count -= 1

    def pool_drop_waiting(self, uint32_t pool_id, uint64_t waited_us, bytes farewell):
        """Close clients that have waited this long; returns how many.

        They are told ``farewell``, or ``query_wait_timeout`` when that is empty.
        """
        cdef Loop *L = &self.loop
        cdef Pool *p = self.pool(pool_id)
        cdef ClientSession *c
        cdef uint64_t now_us = sys_now_us()
        cdef int n = 0
        while p.waiting_head != NULL:
            c = p.waiting_head
            if now_us < c.since_us + waited_us:
                break
            if farewell:
                self.client_close(
                    conn_handle(L, <Conn *> c.io), CLOSE_SERVER_UNUSABLE, farewell
                )
            else:
                close_client(L, <ClientConn *> c.io, CLOSE_QUERY_WAIT, True)
            n += 1
        return n

    def pool_retire(self, uint32_t pool_id, bint for_ever):
        """Close a pool's servers: idle ones now, the others when they are free.

        ``for_ever``: the pool opens no new ones either, and who asks is sent away.
        """
        cdef Pool *p = self.pool(pool_id)
        if for_ever:
            p.paused = p.closing = True
        retire_servers(&self.loop, p)

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

    def server_adopt(
        self, int fd, uint32_t pool_id, parameters, bytes early=b""
    ):
        """A server has logged in: it becomes idle and serves who waits.

        Takes the descriptor over, also when it raises. The pool counted the server as
        connecting before. ``early``: bytes that came behind its ReadyForQuery.
        """
        cdef Loop *L = &self.loop
        cdef Pool *p
        cdef ServerConn *sc = NULL
        cdef ServerSession *s
        try:
            p = self.pool(pool_id)
            sc = <ServerConn *> calloc(1, sizeof(ServerConn))
            if sc == NULL:
                raise MemoryError
            s = &sc.session
            s.params = self.parameter_set(parameters)
            sc.conn.fd = fd
            sc.conn.kind = KIND_SERVER
            if conn_enter(L, &sc.conn) < 0:
                raise MemoryError
        except BaseException:
            if sc != NULL:
                params_unref(&L.relay.params, sc.session.params)
                free(sc)
            c_close(fd)
            raise
        s.io = sc
        s.xact_status = c"I"
        requests_init(&s.requests)
        s.tracked = p.max_prepared_statements != 0
        L.now_us = L.relay.now_us = sys_now_us()
        s.opened_us = s.since_us = L.now_us
        if p.connecting_count:
            p.connecting_count -= 1
        L.server_count += 1
        pool_add_server(p, s)
        handle = conn_handle(L, &sc.conn)
        if conn_interest(L, &sc.conn, EPOLLIN) < 0:
            close_server(L, sc, CLOSE_NO_MEMORY)
            raise OSError(errno, os.strerror(errno))
        if early:
            queue_add(
                &s.stream.held, <const uint8_t *> PyBytes_AsString(early), len(early)
            )
            idle_server_bytes(L, sc)
        wake_pool(L, p)
        run_wakes(L)
        return handle

    def server_close(self, uint64_t handle, int reason):
        """Close a server and, if it is attached, leave its client without one."""
        cdef Conn *conn = conn_of(&self.loop, handle)
        if conn != NULL and conn.kind == KIND_SERVER:
            close_server(&self.loop, <ServerConn *> conn, <CloseReason> reason)

    # ------------------------------------------------------------ cancel

    def cancel_begin(self, bytes key):
        """Find who a cancel key belongs to.

        Returns ``None`` when no client has it, 0 when nothing is left to do, else the
        handle of a server, which is not reused until ``cancel_end``. A client that
        still waits for a server is answered here.
        """
        cdef Loop *L = &self.loop
        cdef ServerConn *sc
        cdef ClientSession *owner = cancel_owner(
            L, <const uint8_t *> PyBytes_AsString(key), len(key)
        )
        if owner == NULL:
            return None
        if owner.state == CLIENT_WAITING:
            cancel_waiting(L, <ClientConn *> owner.io)
            run_wakes(L)
            return 0
        if owner.state != CLIENT_ACTIVE or owner.aligning:
            return 0
        sc = <ServerConn *> owner.server.io
        sc.session.cancels += 1
        return conn_handle(L, &sc.conn)

    def cancel_end(self, uint64_t handle, bint uncertain=False):
        """The cancel request to this server is over.

        ``uncertain``: it may still strike, so nobody else may use this server.
        """
        cdef Loop *L = &self.loop
        cdef Conn *conn = conn_of(L, handle)
        cdef ServerConn *sc
        if conn == NULL or conn.kind != KIND_SERVER:
            return
        sc = <ServerConn *> conn
        if sc.session.cancels:
            sc.session.cancels -= 1
        if uncertain:
            sc.session.obsolete = True
        settle(L, &sc.session)
        run_wakes(L)

    # ------------------------------------------------------------ sweeps

    def expire_logins(self, uint64_t older_than_us):
        """Close clients that have been logging in for longer; returns how many."""
        return expire_logins(&self.loop, sys_now_us(), older_than_us)

    def expire_abandoned(self, uint64_t older_than_us):
        """Close servers that did not come to rest; returns how many.

        That is an abandoned query that did not end, or a query of our own (ROLLBACK,
        reset, check) that was not answered. Younger abandoned ones are cancelled
        again: a request that comes before PostgreSQL has begun is ignored.
        """
        return expire_tested(&self.loop, sys_now_us(), older_than_us)
