# SPDX-License-Identifier: MIT
"""``EngineLoop``: the loop of a worker and where its clients come from."""

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free
from libc.string cimport memmove, memset

from pooler.io.accept cimport close_listener, listen_again, open_listener
from pooler.io.carry_out cimport fill_close_reasons
from pooler.io.conn cimport (
    ClientConn, Conn, KIND_CLIENT, KIND_LINK, KIND_LISTENER, LinkConn, ListenerConn,
    MOST_WORKERS, NOTICE_CLIENT_CLOSED, NOTICE_LOGGED_IN, NoticeRow, Spread,
    conn_handle, conn_of, free_dead,
)
from pooler.io.find cimport close_all
from pooler.io.logins cimport logins_free
from pooler.io.loop cimport loop_free, loop_init, loop_run
from pooler.io.poll cimport (
    READY_READ, READY_WRITE, WATCH_READ, WATCH_WRITE, poll_close, watch_python,
)
from pooler.io.spread cimport spread_count
from pooler.io.stats cimport loop_counters, peer_name
from pooler.io.syscalls cimport sys_now_us
from pooler.session.records cimport Pool
from pooler.tables.params cimport (
    PARAM_VALUE_MAX, ParamSet, params_empty, params_free, params_init, params_track,
    params_unref, params_with,
)
from pooler.tables.text_names cimport name_by_text
from pooler.tables.texts cimport StatementTable, statements_free, statements_init
from pooler.wire.buffers cimport Queue, queue_size
from pooler._wire cimport HELD_MOST_BYTES, limit_rules

import os
import selectors

from pooler.errors import CLOSE_REASON_ROWS

fill_close_reasons(CLOSE_REASON_ROWS)

cdef enum:
    NOTICES_AT_ONCE = 2  # of logins: a quarter of a millisecond

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


cdef class EngineLoop:
    """The loop, its notices and its listeners. See ``Engine``."""

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

    # ------------------------------------------------------------ names

    cdef ClientConn *client(self, uint64_t handle) except? NULL:
        cdef Conn *conn = conn_of(&self.loop, handle)
        if conn == NULL or conn.kind != KIND_CLIENT:
            raise LookupError(f"no client {handle:#x}")
        return <ClientConn *> conn

    cdef Pool *pool(self, uint32_t pool_id) except NULL:
        cdef Pool *found = NULL
        if pool_id < self.loop.relay.pool_count:
            found = self.loop.relay.pools[pool_id]
        if found == NULL:
            raise LookupError(f"no pool {pool_id}")
        return found

    cdef LinkConn *link(self, uint64_t handle) except? NULL:
        cdef Conn *conn = conn_of(&self.loop, handle)
        if conn == NULL or conn.kind != KIND_LINK:
            raise LookupError(f"no link {handle:#x}")
        return <LinkConn *> conn

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
