# SPDX-License-Identifier: MIT
"""Rows of clients and servers; see ``listing.pxd``."""

from libc.stdint cimport uint64_t
from libc.string cimport memset

from pooler.io.accept cimport note_peer
from pooler.io.conn cimport (
    ClientConn, Conn, KIND_CLIENT, KIND_SERVER, Peer, ServerConn, conn_handle,
    conn_of_client, conn_of_server,
)
from pooler.io.stats cimport peer_name
from pooler.io.syscalls cimport (
    AF_UNIX, c_getsockname, sockaddr, sockaddr_storage, socklen_t, sys_now_us,
    sys_peer_pid,
)
from pooler.io.tls cimport tls_facts
from pooler.session.records cimport ClientSession, SERVER_ACTIVE, ServerSession
from pooler.tables.params cimport ParamSet
from pooler.wire.buffers cimport Stream, queue_size


cdef object local_name(const Conn *conn):
    """(address, port) of our side."""
    cdef sockaddr_storage name
    cdef socklen_t n = sizeof(name)
    cdef Peer local
    memset(&name, 0, sizeof(name))
    memset(&local, 0, sizeof(local))
    if c_getsockname(conn.fd, <sockaddr *> &name, &n) == 0:
        note_peer(&local, &name)
    return peer_name(&local)


cdef int remote_pid(const Conn *conn) noexcept:
    """Of who is at the other end of a Unix socket; 0: nobody knows."""
    return sys_peer_pid(conn.fd)


cdef bytes label(const Loop *L, const ParamSet *values):
    """application_name, as far as it is known."""
    cdef int at = L.relay.params.label
    if values == NULL or at < 0 or values.value[at] == NULL:
        return b""
    return <bytes> values.value[at].text[:values.value[at].n]


cdef object tls_text(const Conn *conn):
    """Version and cipher; "" in the clear."""
    facts = tls_facts(conn)
    return "" if facts is None else f"{facts[0]}/{facts[1]}"


cdef object buffered(const Stream *stream):
    """(bytes that are held, bytes that wait to be sent)."""
    return queue_size(&stream.held), queue_size(&stream.out)


cdef object client_row(const Loop *L, const ClientConn *cc, uint64_t now_us):
    cdef const ClientSession *c = &cc.session
    cdef uint64_t since_us = c.clock.query_us
    return (
        conn_handle(L, &cc.conn),
        cc.id,
        <int> c.state,
        -1 if c.pool == NULL else <int> c.pool.id,
        (
            0 if c.server == NULL
            else conn_handle(L, &conn_of_server(c.server).conn)
        ),
        c.opened_us,
        c.clock.seen_us or c.opened_us,
        now_us - since_us if 0 < since_us < now_us else 0,
        peer_name(&cc.peer),
        local_name(&cc.conn),
        remote_pid(&cc.conn) if cc.peer.family == AF_UNIX else 0,
        b"" if cc.user == NULL else <bytes> cc.user,
        label(L, c.params),
        tls_text(&cc.conn),
        0 if c.statements == NULL else c.statements.count,
        *buffered(&c.stream),
        cc.conn.fd,
    )


cdef object server_row(const Loop *L, const ServerConn *sc):
    cdef const ServerSession *s = &sc.session
    cdef uint64_t used_us = s.idle_since_us
    if s.state == SERVER_ACTIVE and s.client != NULL:
        used_us = s.client.clock.seen_us
    return (
        conn_handle(L, &sc.conn),
        <int> s.state,
        <int> s.pool.id,
        (
            0 if s.client == NULL
            else conn_handle(L, &conn_of_client(s.client).conn)
        ),
        s.opened_us,
        used_us or s.opened_us,
        s.cancels,
        bool(s.fate.obsolete),
        local_name(&sc.conn),
        label(L, s.params),
        tls_text(&sc.conn),
        s.statements.count,
        *buffered(&s.stream),
        sc.conn.fd,
    )


cdef object list_clients(const Loop *L, uint32_t first, uint32_t most):
    """(rows, where to go on); 0: that was all."""
    cdef uint32_t end = min(<uint64_t> L.slot_count, <uint64_t> first + most)
    cdef uint64_t now_us = sys_now_us()
    cdef uint32_t i
    rows = []
    for i in range(first, end):
        if L.slots[i].conn != NULL and L.slots[i].conn.kind == KIND_CLIENT:
            rows.append(client_row(L, <ClientConn *> L.slots[i].conn, now_us))
    return rows, 0 if end == L.slot_count else end


cdef object list_servers(const Loop *L, uint32_t first, uint32_t most):
    """As ``list_clients``."""
    cdef uint32_t end = min(<uint64_t> L.slot_count, <uint64_t> first + most)
    cdef uint32_t i
    rows = []
    for i in range(first, end):
        if L.slots[i].conn != NULL and L.slots[i].conn.kind == KIND_SERVER:
            rows.append(server_row(L, <ServerConn *> L.slots[i].conn))
    return rows, 0 if end == L.slot_count else end
