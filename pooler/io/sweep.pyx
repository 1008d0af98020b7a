# SPDX-License-Identifier: MIT
"""Walks over all connections; see ``_sweep.pxd``."""

from libc.stdint cimport uint32_t, uint64_t, uint8_t

from pooler.io.conn cimport (
    ClientConn, Conn, KIND_CLIENT, KIND_SERVER, Loop, NOTICE_CANCEL, ServerConn,
    conn_handle, conn_leave, notice,
)
from pooler.io.ends cimport close_client, close_server
from pooler.session.records cimport (
    CLIENT_LOGIN, CLOSE_LOGIN_TIMEOUT, CLOSE_SERVER_ABANDONED, CLOSE_SERVER_OBSOLETE,
    CLOSE_SHUTDOWN, ClientSession, Pool, REQUEST_SKIP, SERVER_IDLE, SERVER_TESTED,
    ServerSession, requests_count, requests_first,
)


cdef inline ClientConn *client_at(Loop *L, uint32_t slot) noexcept nogil:
    cdef Conn *conn = L.slots[slot].conn
    if conn == NULL or conn.kind != KIND_CLIENT:
        return NULL
    return <ClientConn *> conn


cdef inline ServerConn *server_at(Loop *L, uint32_t slot) noexcept nogil:
    cdef Conn *conn = L.slots[slot].conn
    if conn == NULL or conn.kind != KIND_SERVER:
        return NULL
    return <ServerConn *> conn


cdef void close_all(Loop *L) noexcept nogil:
    """Close every connection and listener, telling nobody."""
    cdef uint32_t i
    for i in range(L.slot_count):
        if client_at(L, i) != NULL:
            close_client(L, client_at(L, i), CLOSE_SHUTDOWN, False)
        elif server_at(L, i) != NULL:
            close_server(L, server_at(L, i), CLOSE_SHUTDOWN)
        elif L.slots[i].conn != NULL:
            conn_leave(L, L.slots[i].conn)


cdef void retire_servers(Loop *L, Pool *p) noexcept nogil:
    """Close a pool's servers: idle ones now, the others when they are free."""
    cdef uint32_t i
    cdef ServerConn *sc
    for i in range(L.slot_count):
        sc = server_at(L, i)
        if sc == NULL or sc.session.pool != p:
            continue
        sc.session.obsolete = True
        if sc.session.state == SERVER_IDLE:
            close_server(L, sc, CLOSE_SERVER_OBSOLETE)


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


cdef int expire_logins(Loop *L, uint64_t now_us, uint64_t older_than_us) noexcept nogil:
    """Close clients that have been logging in for longer; returns how many."""
    cdef uint32_t i
    cdef ClientConn *cc
    cdef int n = 0
    if L.login_count == 0:
        return 0
    for i in range(L.slot_count):
        cc = client_at(L, i)
        if (
            cc != NULL
            and cc.session.state == CLIENT_LOGIN
            and now_us > cc.session.since_us + older_than_us
        ):
            close_client(L, cc, CLOSE_LOGIN_TIMEOUT, True)
            n += 1
    return n


cdef int expire_tested(Loop *L, uint64_t now_us, uint64_t older_than_us) noexcept nogil:
    """Close servers without a client that did not come to rest; returns how many.

    Younger ones that still run an abandoned query are to be cancelled again.
    """
    cdef uint32_t i
    cdef ServerConn *sc
    cdef ServerSession *s
    cdef int n = 0
    for i in range(L.slot_count):
        sc = server_at(L, i)
        if sc == NULL or sc.session.state != SERVER_TESTED:
            continue
        s = &sc.session
        if now_us > s.since_us + older_than_us and (
            s.abandoned or requests_first(&s.requests) & REQUEST_SKIP
        ):
            close_server(L, sc, CLOSE_SERVER_ABANDONED)
            n += 1
        elif s.abandoned and s.cancels == 0 and requests_count(&s.requests):
            s.cancels += 1
            notice(L, NOTICE_CANCEL, conn_handle(L, &sc.conn), 0)
    return n
