# SPDX-License-Identifier: MIT
"""``Engine``: all that Python may ask of the engine; here servers and links."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from pooler.io.carry_out cimport carry_out
from pooler.io.conn cimport (
    Conn, KIND_LINK, KIND_PARTING, KIND_SERVER, LinkConn, Loop, ServerConn, conn_handle,
    conn_of, conn_of_server,
)
from pooler.io.engine_loop cimport bytes_in, bytes_of
from pooler.io.engine_pools cimport EnginePools
from pooler.io.find cimport cancel_owner
from pooler.io.link cimport (
    close_link, link_becomes_server, link_listen, link_send, open_link, part_link,
)
from pooler.io.loop cimport loop_now
from pooler.io.moves cimport give_server, receive_server
from pooler.io.part cimport part_open, parting_close
from pooler.io.syscalls cimport ENOMEM
from pooler.io.tls cimport tls_begin, tls_error, tls_facts
from pooler.io.tls_context cimport TlsContext, connecting, peer_hash
from pooler.relay.moves cimport Thawed, pool_accepts, thaw, thawed_free
from pooler.relay.step cimport (
    step_cancel, step_cancelled, step_server_begin, step_server_close,
    step_server_retire, step_server_stay,
)
from pooler.session.records cimport (
    CLOSE_NO_MEMORY, ClientSession, CloseReason, Pool, ServerSession,
)
from pooler.tables.params cimport ParamSet, params_unref
from pooler.wire.buffers cimport Queue, queue_reset

import os


@cython.final
cdef class Engine(EnginePools):
    """Connections, pools and the loop of one worker.

    Handles name connections; a handle of a connection that is gone is refused with
    ``LookupError`` (or ignored where closing is all that was asked). Not thread-safe:
    one engine belongs to one event loop.
    """

    # ------------------------------------------------------------ links

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
