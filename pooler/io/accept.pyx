# SPDX-License-Identifier: MIT
"""New clients; see ``accept.pxd``."""

from libc.stdint cimport int32_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from pooler.io.conn cimport (
    KIND_CLIENT, KIND_LISTENER, NOTICE_ACCEPT_PAUSED, NOTICE_LOGIN, conn_enter,
    conn_handle, conn_leave, notice, take_id,
)
from pooler.io.logins cimport count_clients, login_goes_on
from pooler.io.poll cimport WATCH_READ, WATCH_SHARED, watch, watch_no_more
from pooler.io.spread cimport spread_arrived, spread_pass, spread_target
from pooler.io.syscalls cimport (
    AF_INET, AF_INET6, EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM,
    O_CLOEXEC, O_RDONLY, SOCK_CLOEXEC, SOCK_NONBLOCK, c_accept4, c_close, c_open, errno,
    getpeername, ntohs, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage,
    socklen_t, ssize_t, sys_recv, sys_send, sys_take_fd,
)
from pooler.io.transport cimport PLAIN
from pooler.relay.step cimport step_client_close, step_client_end
from pooler.session.records cimport CLOSE_NO_MEMORY, client_begin
from pooler._wire cimport put_error_response
from pooler.wire.buffers cimport explicit_bzero, queue_add_secret, queue_size

cdef enum:
    ACCEPTS_PER_EVENT = 16
    TURNED_AWAY_AT_ONCE = 64
    CROWD_LOGINS = 32  # at once: from here on they are watched apart


cdef const char *NO_DESCRIPTORS = b"no more connections allowed (file descriptors)"

# Own, of this process: given up for a moment, so that who cannot be served hears of it.
cdef int spare_fd = -1


cdef void keep_spare() noexcept nogil:
    global spare_fd
    if spare_fd < 0:
        spare_fd = c_open(b"/dev/null", O_RDONLY | O_CLOEXEC)


cdef ListenerConn *open_listener(
    Loop *L, int fd, bint shared, uint64_t *coming
) noexcept nogil:
    """Accept on a listening socket; NULL without memory: it is still the caller's.

    ``shared``: other processes accept on it too, wake only one of them. ``coming``: it
    is a door, and so many sockets are on their way to it.
    """
    cdef ListenerConn *listener = <ListenerConn *> calloc(1, sizeof(ListenerConn))
    if listener == NULL or conn_enter(L, &listener.conn) < 0:
        free(listener)
        return NULL
    listener.conn.transport = &PLAIN
    listener.conn.fd = fd
    listener.conn.kind = KIND_LISTENER
    listener.conn.suspended = L.suspended
    listener.shared = shared
    listener.coming = coming
    keep_spare()
    if listen_again(L, listener) < 0:
        listener.conn.fd = -1  # the caller's
        conn_leave(L, &listener.conn)
        return NULL
    return listener


cdef void close_listener(Loop *L, Conn *conn) noexcept nogil:
    """The master has the socket as well, so closing it is not the end of its events."""
    watch(L, conn, 0)
    conn_leave(L, conn)


cdef int listen_again(Loop *L, ListenerConn *listener) noexcept nogil:
    return watch(
        L, &listener.conn,
        WATCH_READ | (<uint8_t> WATCH_SHARED if listener.shared else 0),
    )


cdef void note_peer(Peer *into, const sockaddr_storage *peer) noexcept nogil:
    cdef const sockaddr_in *v4 = <const sockaddr_in *> peer
    cdef const sockaddr_in6 *v6 = <const sockaddr_in6 *> peer
    into.family = peer.ss_family
    if peer.ss_family == AF_INET:
        into.port = ntohs(v4.sin_port)
        memcpy(into.address, &v4.sin_addr, 4)
    elif peer.ss_family == AF_INET6:
        into.port = ntohs(v6.sin6_port)
        memcpy(into.address, &v6.sin6_addr, 16)


cdef bint is_shortage(int error) noexcept nogil:
    """Whether the machine, not the client, is the reason."""
    return error == EMFILE or error == ENFILE or error == ENOBUFS or error == ENOMEM


cdef int add_client(Loop *L, int fd, const sockaddr_storage *peer) noexcept nogil:
    """Take a socket over; -1 without memory: it is still the caller's then."""
    cdef ClientConn *cc = <ClientConn *> calloc(1, sizeof(ClientConn))
    if cc == NULL or conn_enter(L, &cc.conn) < 0:
        free(cc)
        return -1
    cc.conn.transport = &PLAIN
    cc.conn.fd = fd
    cc.conn.kind = KIND_CLIENT
    cc.conn.suspended = L.suspended
    client_begin(&cc.session, &L.relay.wheel, cc)
    note_peer(&cc.peer, peer)
    cc.id = take_id(L)
    L.counters.accepts += 1
    L.client_count += 1
    L.login_count += 1
    count_clients(L)
    cc.conn.crowded = L.login_count > CROWD_LOGINS
    if watch(L, &cc.conn, WATCH_READ) < 0:
        step_client_close(&L.relay, &cc.session, CLOSE_NO_MEMORY, False)
    return 0


cdef void tell_shortage(Loop *L, int fd) noexcept nogil:
    """Somebody cannot be served: 53300, as PostgreSQL's of too many clients. Closes it.

    What he has said is read, or the close would reset the connection, and the reset
    overtake the message.
    """
    cdef uint8_t message[128]
    cdef size_t n = put_error_response(message, b"FATAL", b"53300", NO_DESCRIPTORS)
    sys_send(fd, message, n)
    sys_recv(fd, L.recv_buffer, L.recv_bytes)
    c_close(fd)
    L.counters.turned_away += 1


cdef int take_passed(Loop *L, int door) noexcept nogil:
    """A socket out of a door; -errno.

    The kernel drops one for which there is no descriptor. So the spare one makes room
    for it, and who comes when that cannot be had back hears that he is not served.
    """
    global spare_fd
    cdef int fd
    keep_spare()
    if spare_fd < 0:
        return -EMFILE
    c_close(spare_fd)
    spare_fd = -1
    fd = sys_take_fd(door)
    keep_spare()
    if fd >= 0 and spare_fd < 0:
        tell_shortage(L, fd)
        keep_spare()
        return -EMFILE
    return fd


cdef int take_socket(
    Loop *L, ListenerConn *listener, sockaddr_storage *peer
) noexcept nogil:
    """The socket of somebody who waits, or of whom another worker has let go; -errno.

    -ECONNABORTED: it has gone.
    """
    cdef socklen_t peer_n = sizeof(peer[0])
    cdef int fd
    if listener.coming == NULL:
        fd = c_accept4(
            listener.conn.fd, <sockaddr *> peer, &peer_n, SOCK_NONBLOCK | SOCK_CLOEXEC
        )
        return fd if fd >= 0 else -errno
    fd = take_passed(L, listener.conn.fd)
    if fd == -EAGAIN:
        spread_arrived(listener.coming)
    if fd >= 0 and getpeername(fd, <sockaddr *> peer, &peer_n) < 0:
        c_close(fd)
        return -ECONNABORTED
    return fd


cdef void accept_clients(Loop *L, ListenerConn *listener) noexcept nogil:
    """Accept some of those who wait; a shortage of ours pauses the listener."""
    cdef sockaddr_storage peer
    cdef int fd
    cdef int target
    cdef int _accept
    for _accept in range(ACCEPTS_PER_EVENT):
        fd = take_socket(L, listener, &peer)
        if fd == -EINTR or fd == -ECONNABORTED:
            continue
        if fd < 0:
            if is_shortage(-fd):
                if listener.short_before or listener.coming != NULL:
                    turn_away(L, listener)
                listener.short_before = True
                pause(L, listener, -fd)
            return
        listener.short_before = False
        target = spread_target(L) if listener.coming == NULL else -1
        if target >= 0 and spread_pass(L, target, fd):
            c_close(fd)
        elif add_client(L, fd, &peer) < 0:
            c_close(fd)
            pause(L, listener, ENOMEM)
            return


cdef void turn_away(Loop *L, ListenerConn *listener) noexcept nogil:
    """Descriptors do not come back: tell those who wait, by the one that was spared.

    Who was passed on hears it at once: nobody else will take him.
    """
    global spare_fd
    cdef int fd
    cdef int _client
    keep_spare()
    if spare_fd < 0:
        return
    c_close(spare_fd)
    spare_fd = -1
    for _client in range(TURNED_AWAY_AT_ONCE):
        if listener.coming == NULL:
            fd = c_accept4(listener.conn.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
        else:
            fd = sys_take_fd(listener.conn.fd)
        if fd < 0:
            break
        tell_shortage(L, fd)
    keep_spare()


cdef void pause(Loop *L, ListenerConn *listener, int error) noexcept nogil:
    """Stop asking until Python starts the listener again."""
    notice(
        L, NOTICE_ACCEPT_PAUSED, conn_handle(L, &listener.conn), <int32_t> error
    )
    watch(L, &listener.conn, 0)


cdef void login_readable(Loop *L, ClientConn *cc) noexcept nogil:
    """Keep what a client says before it is logged in; who is not known, Python reads.

    Not more than Python waits for, or a startup packet: the rest waits outside until
    some of it was consumed.
    """
    cdef size_t have = queue_size(&cc.session.stream.held)
    cdef size_t most = (
        cc.login_wanted_bytes if cc.login_wanted_bytes > LOGIN_READ_BYTES
        else LOGIN_READ_BYTES
    )
    cdef ssize_t n
    cdef int code
    if have >= most:
        watch_no_more(L, &cc.conn, WATCH_READ)
        return
    n = cc.conn.transport.receive(&cc.conn, L.recv_buffer, most - have)
    L.counters.recvs += 1
    if n == -EAGAIN:
        return
    if n <= 0:
        step_client_end(&L.relay, &cc.session)
        return
    code = queue_add_secret(&cc.session.stream.held, L.recv_buffer, n)
    explicit_bzero(L.recv_buffer, <size_t> n)  # it may be a password
    if code < 0:
        step_client_close(&L.relay, &cc.session, CLOSE_NO_MEMORY, True)
        return
    if login_goes_on(L, cc):
        return
    if not cc.login_noticed and have + <size_t> n >= cc.login_wanted_bytes:
        cc.login_noticed = True
        notice(L, NOTICE_LOGIN, conn_handle(L, &cc.conn), 0)
