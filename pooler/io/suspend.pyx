# SPDX-License-Identifier: MIT
"""SUSPEND; see ``suspend.pxd``."""

from libc.stdint cimport uint8_t, uint32_t

from pooler.io.carry_out cimport carry_out
from pooler.io.conn cimport (
    ClientConn, Conn, KIND_CLIENT, KIND_LISTENER, KIND_SERVER, ListenerConn, ServerConn,
)
from pooler.io.poll cimport WATCH_READ, WATCH_SHARED, WATCH_WRITE, watch
from pooler.relay.step cimport step_client_close, step_server_close
from pooler.session.records cimport CLOSE_SUSPEND_TIMEOUT


cdef inline bint may_rest(const Conn *conn) noexcept nogil:
    """Python's links go on, and so does what is parting."""
    return (
        conn.kind == KIND_CLIENT or conn.kind == KIND_SERVER
        or conn.kind == KIND_LISTENER
    )


cdef inline const Pool *pool_of(const Conn *conn) noexcept nogil:
    if conn.kind == KIND_CLIENT:
        return (<const ClientConn *> conn).session.pool
    if conn.kind == KIND_SERVER:
        return (<const ServerConn *> conn).session.pool
    return NULL


cdef inline bint is_unflushed(const Conn *conn) noexcept nogil:
    """Whether it rests, and its peer has not taken all that it was sent."""
    return conn.suspended and conn.watched & WATCH_WRITE


cdef void wake(Loop *L, Conn *conn) noexcept nogil:
    """Read it again; who may not be read just now is left alone as soon as it shows."""
    cdef uint8_t bits = WATCH_READ | (conn.watched & WATCH_WRITE)
    if conn.kind == KIND_LISTENER and (<ListenerConn *> conn).shared:
        bits |= WATCH_SHARED
    conn.suspended = False
    watch(L, conn, bits)


cdef void loop_suspend(Loop *L) noexcept nogil:
    """Read nothing of anybody, accept nobody, and let no deadline come; idempotent."""
    cdef uint32_t i
    cdef Conn *conn
    L.suspended = True
    for i in range(L.slot_count):
        conn = L.slots[i].conn
        if conn != NULL and may_rest(conn):
            conn.suspended = True
            watch(L, conn, conn.watched)


cdef void loop_resume(Loop *L) noexcept nogil:
    """Go on with everybody; idempotent."""
    cdef uint32_t i
    L.suspended = False
    for i in range(L.slot_count):
        if L.slots[i].conn != NULL and L.slots[i].conn.suspended:
            wake(L, L.slots[i].conn)


cdef void spare_pool(Loop *L, const Pool *p) noexcept nogil:
    """Go on with those of one pool: the console has to hear of the end of it."""
    cdef uint32_t i
    cdef Conn *conn
    for i in range(L.slot_count):
        conn = L.slots[i].conn
        if conn != NULL and conn.suspended and pool_of(conn) == p:
            wake(L, conn)


cdef uint32_t count_unflushed(const Loop *L) noexcept nogil:
    cdef uint32_t i
    cdef uint32_t count = 0
    for i in range(L.slot_count):
        count += L.slots[i].conn != NULL and is_unflushed(L.slots[i].conn)
    return count


cdef void close_unflushed(Loop *L) noexcept nogil:
    """Close those whose peers do not take what they are sent, and who waits for them.

    ``suspend_timeout``
    """
    cdef uint32_t i
    cdef Conn *conn
    cdef ServerConn *sc
    for i in range(L.slot_count):
        conn = L.slots[i].conn
        if conn == NULL or not is_unflushed(conn):
            continue
        if conn.kind == KIND_CLIENT:
            step_client_close(
                &L.relay, &(<ClientConn *> conn).session, CLOSE_SUSPEND_TIMEOUT, True
            )
            carry_out(L)
            continue
        sc = <ServerConn *> conn
        if sc.session.client != NULL:
            step_client_close(
                &L.relay, sc.session.client, CLOSE_SUSPEND_TIMEOUT, True
            )
            carry_out(L)
        if L.slots[i].conn == conn:
            step_server_close(&L.relay, &sc.session, CLOSE_SUSPEND_TIMEOUT)
            carry_out(L)
