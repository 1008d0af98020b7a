# SPDX-License-Identifier: MIT
"""TLS as a transport against a peer by OpenSSL, and somebody who damages what it says.

The first byte has options (``ServesBit`` …); then come operations of two bytes, what
and how much (``DO``), ``RAW`` with as many bytes behind it. Our side is a connection
over a real socket; the peer's records go through memory, where they may be changed, cut
and mixed with others.

Promises: what either side gets is the beginning of what the other has sent, whatever
happens on the way; as long as nobody has damaged anything, all of it comes; a
connection that has failed stays failed; what is held is bounded.
"""

from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memmove, memset

from pooler.io.conn cimport Conn, Loop, conn_enter, conn_leave
from pooler.io.openssl cimport (
    BIO, BIO_METHOD, BIO_new, ERR_clear_error, SSL, SSL_CTX, SSL_do_handshake,
    SSL_free, SSL_is_init_finished, SSL_new, SSL_read, SSL_set_accept_state,
    SSL_set_bio, SSL_set_connect_state, SSL_shutdown, SSL_write,
)
from pooler.io.poll cimport WATCH_READ, poll_init, watch, watch_no_more
from pooler.io.syscalls cimport (
    EAGAIN, EPROTO, SOL_SOCKET, c_close, shutdown, ssize_t, sys_recv, sys_send,
)
from pooler.io.tls cimport tls_begin, tls_is_established, tls_of
from pooler.io.tls_context cimport TlsContext
from pooler.io.transport cimport PLAIN
from pooler.wire.buffers cimport queue_size
from tests.fuzz._checks cimport check

import os

cdef extern from "<openssl/bio.h>" nogil:
    const BIO_METHOD *BIO_s_mem()
    int BIO_read(BIO *bio, void *into, int n)
    int BIO_write(BIO *bio, const void *src, int n)

cdef extern from "<openssl/ssl.h>" nogil:
    enum:
        SSL_KEY_UPDATE_REQUESTED
    int SSL_key_update(SSL *ssl, int kind)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        AF_UNIX
        SOCK_STREAM
        SO_SNDBUF
        SHUT_WR
    int socketpair(int domain, int kind, int protocol, int *pair)
    int setsockopt(int fd, int level, int name, const void *value, unsigned n)

cdef enum Option:
    ServesBit = 1  # we are the server
    Tls12Bit = 2
    SmallBit = 4  # the socket takes little
    EstablishedBit = 8  # the handshake is over before anything happens

cdef enum:
    ROOM_BYTES = 65536
    LINE_BYTES = 1 << 20
    MOST_OPERATIONS = 200
    MOST_TURNS = 400
    HELD_MOST_BYTES = 2 * 65536
    OUT_MOST_BYTES = 1 << 20

cdef struct Play:
    Conn conn
    int far  # the other end of our socket
    SSL *peer
    BIO *into
    BIO *out
    uint8_t *line  # what the peer has said and we have not got yet
    size_t line_n
    size_t peer_wrote
    size_t peer_read
    size_t we_wrote
    size_t we_read
    bint damaged
    bint ended  # by the peer
    bint failed

cdef Loop LOOP
cdef SSL_CTX *CONTEXTS[2][2]  # by Tls12Bit; of those that connect, that accept
cdef uint8_t ROOM[ROOM_BYTES]


cdef inline uint8_t at_offset(size_t i, bint ours) noexcept nogil:
    """The byte that either side has at a place of all that it says."""
    return <uint8_t> (i * 31 + (i >> 8) + (113 if ours else 0))


cdef void fill(size_t start, size_t n, bint ours) noexcept nogil:
    cdef size_t i
    for i in range(n):
        ROOM[i] = at_offset(start + i, ours)


cdef void compare(size_t start, size_t n, bint ours) noexcept nogil:
    cdef size_t i
    for i in range(n):
        check(ROOM[i] == at_offset(start + i, ours), "tls: bytes that nobody has sent")


# ------------------------------------------------------------------- the peer

cdef void hear_peer(Play *p) noexcept nogil:
    """What the peer has to send goes onto the line."""
    cdef int n
    while p.line_n + ROOM_BYTES <= LINE_BYTES:
        n = BIO_read(p.out, p.line + p.line_n, ROOM_BYTES)
        if n <= 0:
            return
        p.line_n += <size_t> n


cdef void say(Play *p, size_t most) noexcept nogil:
    """Some of the line reaches our socket."""
    cdef ssize_t sent
    cdef size_t n = p.line_n if p.line_n < most else most
    if n == 0 or p.far < 0:
        return
    sent = sys_send(p.far, p.line, n)
    if sent > 0:
        p.line_n -= <size_t> sent
        memmove(p.line, p.line + sent, p.line_n)


cdef void peer_receives(Play *p) noexcept nogil:
    """What we have sent reaches the peer, which reads all that it can."""
    cdef ssize_t got
    cdef int n
    while p.far >= 0:
        got = sys_recv(p.far, ROOM, ROOM_BYTES)
        if got <= 0:
            break
        BIO_write(p.into, ROOM, <int> got)
    ERR_clear_error()
    if not SSL_is_init_finished(p.peer):
        SSL_do_handshake(p.peer)
    while SSL_is_init_finished(p.peer):
        n = SSL_read(p.peer, ROOM, ROOM_BYTES)
        if n <= 0:
            break
        compare(p.peer_read, <size_t> n, True)
        p.peer_read += <size_t> n
        check(p.peer_read <= p.we_wrote, "tls: more than we have sent")
    ERR_clear_error()
    hear_peer(p)


cdef void peer_writes(Play *p, size_t n) noexcept nogil:
    if n == 0 or n > ROOM_BYTES or p.ended or not SSL_is_init_finished(p.peer):
        return
    if p.line_n > LINE_BYTES // 2:
        return
    fill(p.peer_wrote, n, False)
    ERR_clear_error()
    if SSL_write(p.peer, ROOM, <int> n) > 0:
        p.peer_wrote += n
    ERR_clear_error()
    hear_peer(p)


# ------------------------------------------------------------------- our side

cdef void look(Play *p) noexcept nogil:
    """What holds between two operations."""
    check(LOOP.records.n == 0, "tls: records are left in the loop")
    check(queue_size(&tls_of(&p.conn).held) <= HELD_MOST_BYTES, "tls: too much held")
    check(queue_size(&tls_of(&p.conn).out) <= OUT_MOST_BYTES, "tls: too much to send")
    check(
        not p.failed or tls_of(&p.conn).failed or p.conn.transport == NULL,
        "tls: a failed connection works again",
    )


cdef ssize_t receive(Play *p, size_t n) noexcept nogil:
    cdef ssize_t got
    memset(ROOM, 0, n)
    got = p.conn.transport.receive(&p.conn, ROOM, n)
    if got > 0:
        check(not p.failed, "tls: bytes behind a failure")
        check(<size_t> got <= n, "tls: more than there is room for")
        compare(p.we_read, <size_t> got, False)
        p.we_read += <size_t> got
        check(p.we_read <= p.peer_wrote, "tls: more than the peer has sent")
    elif got == -EAGAIN:
        check(not p.conn.transport.has_more(&p.conn), "tls: it would be asked for ever")
    elif got == -EPROTO:
        p.failed = True
    return got


cdef void send(Play *p, size_t n) noexcept nogil:
    cdef ssize_t sent
    if n == 0 or not tls_is_established(&p.conn):
        return
    fill(p.we_wrote, n, True)
    sent = p.conn.transport.send(&p.conn, ROOM, n)
    if sent > 0:
        check(not p.failed, "tls: it sends behind a failure")
        p.we_wrote += <size_t> sent


cdef void flush(Play *p) noexcept nogil:
    if p.conn.transport.flush(&p.conn) == 0:
        watch_no_more(&LOOP, &p.conn, 2)


cdef void settle(Play *p) noexcept nogil:
    """Everything goes on until nothing happens any more."""
    cdef size_t before
    cdef ssize_t got
    cdef int _turn
    for _turn in range(MOST_TURNS):
        before = p.we_read + p.peer_read + p.line_n
        peer_receives(p)
        say(p, LINE_BYTES)
        flush(p)
        got = receive(p, ROOM_BYTES)
        if got == -EAGAIN:  # of what was held; now the socket is asked
            got = receive(p, ROOM_BYTES)
        peer_receives(p)
        if (
            got <= 0 and before == p.we_read + p.peer_read + p.line_n
            and queue_size(&tls_of(&p.conn).out) == 0
        ):
            return


# ------------------------------------------------------------------- operations

cdef void do_say(Play *p, size_t most) noexcept nogil:
    say(p, most * 64 + 1)


cdef void do_receive(Play *p, size_t n) noexcept nogil:
    receive(p, n * n + 1)


cdef void do_send(Play *p, size_t n) noexcept nogil:
    send(p, n * n)
    if n % 16 == 0:  # time goes on
        LOOP.relay.now_us += n * 10000


cdef void do_peer_receives(Play *p, size_t n) noexcept nogil:
    flush(p)
    peer_receives(p)


cdef void do_peer_writes(Play *p, size_t n) noexcept nogil:
    peer_writes(p, n * n)


cdef void do_damage(Play *p, size_t at) noexcept nogil:
    """One bit of what is on the line, near its beginning or anywhere."""
    if p.line_n == 0:
        return
    at = at if at < 128 else (at - 128) * p.line_n // 128
    if at < p.line_n:
        p.line[at] ^= <uint8_t> (1 << (at % 8))
        p.damaged = True


cdef void do_drop(Play *p, size_t n) noexcept nogil:
    """The first bytes of the line are lost, or said twice."""
    cdef size_t some = (n >> 1) + 1
    if some > p.line_n or p.line_n + some > LINE_BYTES:
        return
    p.damaged = True
    if n & 1:
        p.line_n -= some
        memmove(p.line, p.line + some, p.line_n)
    else:
        memmove(p.line + some, p.line, p.line_n)
        p.line_n += some


cdef void do_special(Play *p, size_t what) noexcept nogil:
    ERR_clear_error()
    if what % 4 == 0:
        settle(p)
    elif what % 4 == 1 and SSL_is_init_finished(p.peer):
        SSL_key_update(p.peer, SSL_KEY_UPDATE_REQUESTED)
        SSL_do_handshake(p.peer)
    elif what % 4 == 2 and SSL_is_init_finished(p.peer):
        SSL_shutdown(p.peer)
        p.ended = True
    elif what % 4 == 3 and p.far >= 0:
        shutdown(p.far, SHUT_WR)
        p.ended = p.damaged = True  # what is on the line is lost
        p.line_n = 0
    ERR_clear_error()
    hear_peer(p)

ctypedef void (*Operation)(Play *p, size_t n) noexcept nogil
cdef enum:
    OPERATIONS = 9
    RAW = 8

cdef Operation DO[OPERATIONS]
DO[:] = [
    do_say, do_receive, do_send, do_peer_receives, do_peer_writes, do_damage, do_drop,
    do_special, NULL,
]


cdef void inject(Play *p, const uint8_t *src, size_t n) noexcept nogil:
    """Bytes of the input in front of what is on the line."""
    if n == 0 or p.line_n + n > LINE_BYTES:
        return
    memmove(p.line + n, p.line, p.line_n)
    memcpy(p.line, src, n)
    p.line_n += n
    p.damaged = True


cdef void play(Play *p, const uint8_t *src, size_t n) noexcept nogil:
    cdef size_t at = 0
    cdef size_t much
    cdef int _operation
    for _operation in range(MOST_OPERATIONS):
        if at + 2 > n:
            return
        much = src[at + 1]
        if src[at] % OPERATIONS == RAW:
            at += 2
            if much > n - at:
                much = n - at
            inject(p, src + at, much)
            at += much
        else:
            DO[src[at] % OPERATIONS](p, much)
            at += 2
        look(p)


# ------------------------------------------------------------------- begin and end

cdef bint begin(Play *p, uint8_t options) noexcept nogil:
    cdef bint serves = options & ServesBit
    cdef int pair[2]
    cdef int few = 4096
    cdef SSL_CTX **contexts = CONTEXTS[1 if options & Tls12Bit else 0]
    cdef SSL *ours = SSL_new(contexts[1 if serves else 0])
    p.peer = SSL_new(contexts[0 if serves else 1])
    p.into, p.out = BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem())
    p.line = <uint8_t *> malloc(LINE_BYTES)
    SSL_set_bio(p.peer, p.into, p.out)
    if serves:
        SSL_set_accept_state(ours)
        SSL_set_connect_state(p.peer)
    else:
        SSL_set_connect_state(ours)
        SSL_set_accept_state(p.peer)
    if socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0:
        return False
    if options & SmallBit:
        setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &few, sizeof(few))
    p.far = pair[1]
    p.conn.transport = &PLAIN
    p.conn.fd = pair[0]
    check(conn_enter(&LOOP, &p.conn) == 0, "no slot")
    check(tls_begin(&LOOP, &p.conn, ours) == 0, "tls cannot begin")
    watch(&LOOP, &p.conn, WATCH_READ)
    return True


cdef void end(Play *p) noexcept nogil:
    conn_leave(&LOOP, &p.conn)
    p.conn.transport.close(&p.conn)  # twice is harmless
    check(p.conn.fd == -1 and p.conn.tls == NULL, "tls: closed, and not")
    LOOP.dead = NULL
    c_close(p.far)
    SSL_free(p.peer)
    ERR_clear_error()
    free(p.line)
    free(p)


cdef int fuzz_tls(const uint8_t *src, size_t n) noexcept nogil:
    cdef Play *p
    if n < 1:
        return 0
    p = <Play *> calloc(1, sizeof(Play))
    LOOP.relay.now_us = 1
    if begin(p, src[0]):
        if src[0] & EstablishedBit:
            settle(p)
            check(tls_is_established(&p.conn), "tls: no handshake without an attack")
        play(p, src + 1, n - 1)
        settle(p)
        look(p)
        if not p.damaged and not p.failed and not p.ended:
            check(tls_is_established(&p.conn), "tls: no handshake without an attack")
            check(p.we_read == p.peer_wrote, "tls: something has not come")
            check(p.peer_read == p.we_wrote, "tls: something has not left")
        check(p.damaged or not p.failed, "tls: a failure without an attack")
    end(p)
    return 0


def start():
    """Make the contexts, of the files that ``build.py`` has made."""
    folder = os.path.dirname(__file__)
    files = {
        "cert_file": os.path.join(folder, "server.crt"),
        "key_file": os.path.join(folder, "server.key"),
    }
    made = []
    for versions in (["tlsv1.2", "tlsv1.3"], ["tlsv1.2"]):
        made.append(TlsContext(accepts=False, prefix="x", versions=versions))
        made.append(TlsContext(accepts=True, prefix="x", versions=versions, **files))
    for i in range(2):
        for k in range(2):
            CONTEXTS[i][k] = (<TlsContext> made[2 * i + k]).context
    if poll_init(&LOOP) < 0:
        raise OSError("epoll")
    return made


KEPT = start()
