# SPDX-License-Identifier: MIT
"""Walks over all connections; see ``find.pxd``."""

from libc.stdint cimport uint32_t, uint8_t

from pooler.io.carry_out cimport carry_out
from pooler.io.conn cimport (
    ClientConn, Conn, KIND_CLIENT, KIND_LISTENER, KIND_PARTING, KIND_SERVER, LinkConn,
    ServerConn, conn_handle,
)
from pooler.io.accept cimport close_listener
from pooler.io.link cimport close_link
from pooler.io.part cimport parting_close
from pooler.relay.shared cimport Relay
from pooler.relay.step cimport (
    step_client_close, step_client_limits, step_server_close, step_server_limits,
    step_server_pause, step_server_retire,
)
from pooler.session.records cimport (
    CLIENT_ACTIVE, CLIENT_IDLE, CLOSE_SERVER_OBSOLETE, CLOSE_SHUTDOWN, ServerSession,
    server_is_free,
)


cdef inline ClientConn *client_at(const Loop *L, uint32_t slot) noexcept nogil:
    cdef Conn *conn = L.slots[slot].conn
    if conn == NULL or conn.kind != KIND_CLIENT:
        return NULL
    return <ClientConn *> conn


cdef inline ServerConn *server_at(const Loop *L, uint32_t slot) noexcept nogil:
    cdef Conn *conn = L.slots[slot].conn
    if conn == NULL or conn.kind != KIND_SERVER:
        return NULL
    return <ServerConn *> conn


cdef void close_all(Loop *L) noexcept nogil:
    """Close every connection, link and listener, telling nobody.

    For servers there is no waiting: when this process has ended, the master waits.
    """
    cdef uint32_t i
    for i in range(L.slot_count):
        if client_at(L, i) != NULL:
            step_client_close(&L.relay, &client_at(L, i).session, CLOSE_SHUTDOWN, False)
        elif server_at(L, i) != NULL:
            step_server_close(&L.relay, &server_at(L, i).session, CLOSE_SHUTDOWN)
        carry_out(L)
        if L.slots[i].conn != NULL:
            close_other(L, L.slots[i].conn)


cdef bint is_idle(const ClientSession *c) noexcept nogil:
    """Whether a client that is logged in waits for nothing, outside a transaction."""
    if c.stream.held.cap or c.stream.out.cap:
        return False
    return c.state == CLIENT_IDLE or (
        c.state == CLIENT_ACTIVE and server_is_free(c.server)
    )


cdef uint32_t send_clients_away(
    Loop *L, uint32_t most, bint idle_only
) noexcept nogil:
    """Tell clients that we shut down, and close them; how many there were.

    ``idle_only``: not those that log in, wait, or hold a transaction.
    """
    cdef uint32_t i
    cdef uint32_t count = 0
    cdef ClientConn *cc
    for i in range(L.slot_count):
        cc = client_at(L, i)
        if cc == NULL or (idle_only and not is_idle(&cc.session)):
            continue
        if count == most:
            break
        count += 1
        step_client_close(&L.relay, &cc.session, CLOSE_SHUTDOWN, True)
        carry_out(L)
    return count


cdef void close_other(Loop *L, Conn *conn) noexcept nogil:
    """A listener, a link, or a server that is parting."""
    if conn.kind == KIND_LISTENER:
        close_listener(L, conn)
    elif conn.kind == KIND_PARTING:
        parting_close(L, conn)
    else:
        conn.transport.abort(conn)
        close_link(L, <LinkConn *> conn)


ctypedef void (*ServerStep)(Relay *r, ServerSession *s) noexcept nogil


cdef void step_servers(Loop *L, const Pool *p, ServerStep step) noexcept nogil:
    """Take a step with each server of a pool."""
    cdef uint32_t i
    for i in range(L.slot_count):
        if server_at(L, i) != NULL and server_at(L, i).session.pool == p:
            step(&L.relay, &server_at(L, i).session)
            carry_out(L)


cdef void retire_servers(Loop *L, Pool *p) noexcept nogil:
    """Close a pool's servers: idle ones now, the others when they are free."""
    step_servers(L, p, step_server_retire)


cdef void pause_servers(Loop *L, Pool *p) noexcept nogil:
    """As ``retire_servers``, for a pause."""
    step_servers(L, p, step_server_pause)


cdef void retire_again(Loop *L, Pool *p) noexcept nogil:
    """What servers of a pool wait for that have to go has changed."""
    cdef uint32_t i
    cdef ServerConn *sc
    for i in range(L.slot_count):
        sc = server_at(L, i)
        if sc == NULL or sc.session.pool != p:
            continue
        if sc.session.fate.obsolete == CLOSE_SERVER_OBSOLETE:
            step_server_retire(&L.relay, &sc.session)
            carry_out(L)


cdef void limits_changed(Loop *L, const Pool *p) noexcept nogil:
    """The time limits of a pool count for those who are there, too."""
    cdef uint32_t i
    for i in range(L.slot_count):
        if server_at(L, i) != NULL and server_at(L, i).session.pool == p:
            step_server_limits(&server_at(L, i).session)
        elif client_at(L, i) != NULL and client_at(L, i).session.pool == p:
            step_client_limits(&client_at(L, i).session)


cdef uint32_t count_obsolete(const Loop *L, const Pool *p) noexcept nogil:
    """How many servers of a pool leave as soon as they are free."""
    cdef uint32_t count = 0
    cdef uint32_t i
    cdef const ServerConn *sc
    for i in range(L.slot_count):
        sc = server_at(L, i)
        if sc != NULL and sc.session.pool == p:
            count += sc.session.fate.obsolete
    return count


cdef void kill_pool(Loop *L, Pool *p, CloseReason reason) noexcept nogil:
    """Close the clients of a pool, who are told why, and all its servers."""
    cdef uint32_t i
    cdef ClientConn *cc
    for i in range(L.slot_count):
        cc = client_at(L, i)
        if cc == NULL or cc.session.pool != p:
            continue
        step_client_close(&L.relay, &cc.session, reason, True)
        carry_out(L)
    for i in range(L.slot_count):
        if server_at(L, i) != NULL and server_at(L, i).session.pool == p:
            step_server_close(&L.relay, &server_at(L, i).session, reason)
            carry_out(L)


cdef list client_users(const Loop *L):
    """(handle, pool's id, user) of each client that is logged in.

    The user is empty where it is that of the pool.
    """
    cdef uint32_t i
    cdef ClientConn *cc
    found = []
    for i in range(L.slot_count):
        cc = client_at(L, i)
        if cc == NULL or cc.session.pool == NULL:
            continue
        found.append(
            (
                conn_handle(L, &cc.conn), cc.session.pool.id,
                <bytes> cc.user if cc.user != NULL else b"",
            )
        )
    return found


cdef object client_of_id(const Loop *L, uint32_t id):
    """The handle of a client; None: there is none."""
    cdef uint32_t i
    for i in range(L.slot_count):
        if client_at(L, i) != NULL and client_at(L, i).id == id:
            return conn_handle(L, &client_at(L, i).conn)
    return None


cdef ClientSession *cancel_owner(
    Loop *L, const uint8_t *key, size_t n
) noexcept nogil:
    """The client with this cancel key, or NULL.

    Every key is compared, each in constant time: nothing is learnt from how long it
    takes.
    """
    cdef uint32_t i
    cdef uint32_t k
    cdef uint8_t difference
    cdef ClientConn *cc
    cdef ClientSession *owner = NULL
    for i in range(L.slot_count):
        cc = client_at(L, i)
        if cc == NULL or cc.session.pool == NULL or cc.session.cancel_key_n != n:
            continue
        difference = 0
        for k in range(cc.session.cancel_key_n):
            difference |= cc.session.cancel_key[k] ^ key[k]
        if difference == 0:
            owner = &cc.session
    return owner
