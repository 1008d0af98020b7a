# SPDX-License-Identifier: MIT
"""TLS as a transport; see ``tls.pxd``."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from pooler.io.conn cimport ClientConn, KIND_CLIENT
from pooler.io.openssl cimport (
    BIO, BIO_CTRL_FLUSH, BIO_METHOD, BIO_TYPE_SOURCE_SINK, BIO_clear_retry_flags,
    BIO_free, BIO_get_data, BIO_get_new_index, BIO_meth_new, BIO_meth_set_ctrl,
    BIO_meth_set_read, BIO_meth_set_write, BIO_new, BIO_set_data, BIO_set_init,
    BIO_set_retry_read, ERR_clear_error, ERR_peek_last_error,
    ERR_reason_error_string, SSL_CIPHER_get_name, SSL_ERROR_WANT_READ,
    SSL_ERROR_ZERO_RETURN, SSL_OP_CLEANSE_PLAINTEXT, SSL_clear_options,
    SSL_do_handshake, SSL_free, SSL_get0_alpn_selected, SSL_get_current_cipher,
    SSL_get_error, SSL_get_verify_result, SSL_get_version, SSL_is_init_finished,
    SSL_is_server, SSL_pending, SSL_read, SSL_set_bio, SSL_set_options, SSL_shutdown,
    SSL_write, X509_V_OK, X509_verify_cert_error_string,
)
from pooler.io.poll cimport WATCH_WRITE, more_waits, watch_also
from pooler.io.syscalls cimport (
    EAGAIN, ENOMEM, EPROTO, SHUT_RDWR, SHUT_WR, c_close, shutdown, sys_recv, sys_send,
    sys_socket_error,
)
from pooler.session.records cimport CLIENT_LOGIN
from pooler.wire.buffers cimport (
    output_clear, output_join, queue_add, queue_drop, queue_reset,
    queue_size,
)

cdef enum:
    CAME_BYTES = 65536  # one receive, as many records as fit
    SENT_MOST_BYTES = 262144  # of plain bytes in one send
    READ_MOST_BYTES = 0x40000000
    # A reader can do nothing with a part of a record. So a run of bytes begins with
    # records that one TCP segment holds, as many as TCP sends before it hears of the
    # first; who still reads then has few big ones, which cost less.
    SMALL_RECORD_BYTES = 1350
    SMALL_RUN_BYTES = 10 * SMALL_RECORD_BYTES
    RUN_PAUSE_US = 200000  # after this TCP begins small as well
    OWED_MOST_BYTES = 2 * SENT_MOST_BYTES  # of records that nobody takes


# ---------------------------------------------------------------- OpenSSL's socket

cdef int give(BIO *bio, char *into, int n) noexcept nogil:
    """OpenSSL reads: what is held, then what has come."""
    cdef Tls *t = <Tls *> BIO_get_data(bio)
    cdef size_t most = <size_t> n
    BIO_clear_retry_flags(bio)
    if n <= 0:
        return 0
    if queue_size(&t.held):
        if most > queue_size(&t.held):
            most = queue_size(&t.held)
        memcpy(into, t.held.data + t.held.start, most)
        queue_drop(&t.held, most)
    elif t.came_n:
        if most > t.came_n:
            most = t.came_n
        memcpy(into, t.came, most)
        t.came += most
        t.came_n -= most
    else:
        BIO_set_retry_read(bio)
        return -1
    return <int> most


cdef int take(BIO *bio, const char *src, int n) noexcept nogil:
    """OpenSSL writes: into the loop's output."""
    cdef Tls *t = <Tls *> BIO_get_data(bio)
    BIO_clear_retry_flags(bio)
    if n <= 0:
        return 0
    # a copy: OpenSSL's buffer is its own again when this returns
    output_join(&t.loop.records, <const uint8_t *> src, <size_t> n)
    return -1 if t.loop.records.failed else n


cdef long control(BIO *bio, int what, long n, void *p) noexcept nogil:
    return 1 if what == BIO_CTRL_FLUSH else 0

cdef BIO_METHOD *SOCKET = NULL


cdef int make_method() except -1:
    global SOCKET
    SOCKET = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, b"pooler")
    if (
        SOCKET == NULL or not BIO_meth_set_read(SOCKET, give)
        or not BIO_meth_set_write(SOCKET, take)
        or not BIO_meth_set_ctrl(SOCKET, control)
    ):
        raise ImportError("OpenSSL has no memory for a BIO method")
    return 0

make_method()


# ---------------------------------------------------------------- errors

cdef ssize_t fail(Tls *t) noexcept nogil:
    """Nothing more can be done with this connection; remembers why."""
    cdef unsigned long code = ERR_peek_last_error()
    cdef long verified = SSL_get_verify_result(t.ssl)
    cdef const char *text = ERR_reason_error_string(code) if code else NULL
    if verified != X509_V_OK:
        text = X509_verify_cert_error_string(verified)
    if text == NULL:
        text = b"protocol error"
    if not t.failed:
        t.error = text
    t.failed = True
    ERR_clear_error()
    return -EPROTO


# ---------------------------------------------------------------- the way out

cdef int send_records(Conn *conn, Tls *t) noexcept nogil:
    """Send what OpenSSL has written; what is not taken is stored. 0, or -errno."""
    cdef Loop *L = t.loop
    cdef ssize_t sent = 0
    cdef int code
    if L.records.n == 0:
        return 0
    if t.out.cap == 0:
        sent = sys_send(conn.fd, L.records.data, L.records.n)
        if sent == -EAGAIN:
            sent = 0
    code = 0
    if sent < 0:
        code = <int> sent
    elif <size_t> sent < L.records.n and (
        queue_add(&t.out, L.records.data + sent, L.records.n - <size_t> sent) < 0
        or watch_also(L, conn, WATCH_WRITE) < 0
    ):
        code = -ENOMEM
    output_clear(&L.records)
    return code


cdef int tls_flush(Conn *conn) noexcept nogil:
    """0: all records are gone; -EAGAIN: some are not; else -errno."""
    cdef Tls *t = tls_of(conn)
    cdef ssize_t sent
    if t.out.cap == 0:
        return 0
    sent = sys_send(conn.fd, t.out.data + t.out.start, queue_size(&t.out))
    if sent < 0:
        return <int> sent
    queue_drop(&t.out, <size_t> sent)
    return 0 if t.out.cap == 0 else -EAGAIN


cdef ssize_t write_records(Tls *t, const uint8_t *src, size_t n) noexcept nogil:
    """Make records of n bytes, small ones at the beginning of a run; n, or -EPROTO."""
    cdef uint64_t now_us = t.loop.relay.now_us
    cdef size_t done = 0
    cdef size_t most
    cdef int written
    if now_us - t.sent_us >= RUN_PAUSE_US:
        t.run_bytes = 0
    t.sent_us = now_us
    ERR_clear_error()
    while done < n:
        most = n - done
        if t.run_bytes < SMALL_RUN_BYTES:
            if most > SMALL_RECORD_BYTES:
                most = SMALL_RECORD_BYTES
            t.run_bytes += <uint32_t> most
        written = SSL_write(t.ssl, src + done, <int> most)
        if written <= 0:
            return fail(t)
        done += <size_t> written
    return <ssize_t> n


cdef ssize_t tls_send(Conn *conn, const uint8_t *src, size_t n) noexcept nogil:
    cdef Tls *t = tls_of(conn)
    cdef ssize_t written
    cdef int code
    if t.failed or not t.established:
        return -EPROTO
    code = tls_flush(conn)
    if code < 0:
        return code
    written = write_records(t, src, n if n < SENT_MOST_BYTES else SENT_MOST_BYTES)
    if written < 0:
        return written
    code = send_records(conn, t)
    return written if code == 0 else code


# ---------------------------------------------------------------- the way in

cdef int keep_rest(Tls *t) noexcept nogil:
    """What OpenSSL has not asked for outlives the receive buffer."""
    cdef size_t n = t.came_n
    t.came_n = 0
    return queue_add(&t.held, t.came, n) if n else 0


cdef ssize_t read_records(Tls *t, uint8_t *into, size_t n) noexcept nogil:
    """As many plain bytes as there are room and records for.

    Returns bytes; without any: -EAGAIN, 0 at the end, or -EPROTO.
    """
    cdef size_t got = 0
    cdef size_t room
    cdef int code
    while got < n:
        room = n - got if n - got < READ_MOST_BYTES else READ_MOST_BYTES
        ERR_clear_error()
        code = SSL_read(t.ssl, into + got, <int> room)
        if code > 0:
            got += <size_t> code
            if t.came_n == 0 and t.held.cap == 0 and SSL_pending(t.ssl) == 0:
                break  # another call would only say so
            continue
        code = SSL_get_error(t.ssl, code)
        if code == SSL_ERROR_ZERO_RETURN:
            t.ended = True
        elif code != SSL_ERROR_WANT_READ:
            fail(t)
        break
    if got:
        t.more = t.ended or t.failed or (
            got == n
            and (SSL_pending(t.ssl) > 0 or t.came_n != 0 or queue_size(&t.held) != 0)
        )
        return <ssize_t> got
    t.more = False
    if t.failed:
        return -EPROTO
    return 0 if t.ended else -EAGAIN


cdef ssize_t tls_receive(Conn *conn, uint8_t *into, size_t n) noexcept nogil:
    """One receive of the socket at most; none while plain bytes wait.

    The end without a close alert is an end like any other: messages have lengths.
    """
    cdef Tls *t = tls_of(conn)
    cdef ssize_t got
    cdef int code
    if t.failed:
        return -EPROTO
    if t.ended:
        return 0
    if t.wipes and (<const ClientConn *> conn).session.state != CLIENT_LOGIN:
        t.wipes = False  # it costs a buffer of 16 KiB for each receive
        SSL_clear_options(t.ssl, SSL_OP_CLEANSE_PLAINTEXT)
    if not t.more:
        got = sys_recv(conn.fd, t.loop.came, CAME_BYTES)
        if got <= 0:
            return got
        t.came = t.loop.came
        t.came_n = <size_t> got
    got = read_records(t, into, n)
    t.established = SSL_is_init_finished(t.ssl) != 0
    if keep_rest(t) < 0:
        return -ENOMEM
    code = send_records(conn, t)  # of the handshake, an alert, a new key
    if queue_size(&t.out) > OWED_MOST_BYTES and not t.failed:
        t.error = b"asks for new keys and does not read them"
        t.failed = t.more = True
        code = -EPROTO
    if got == -EAGAIN and code < 0:
        return code
    if t.more:
        more_waits(t.loop, conn)
    return got


cdef bint tls_has_more(const Conn *conn) noexcept nogil:
    return tls_of(conn).more


# ---------------------------------------------------------------- begin and end

cdef int tls_connected(Conn *conn) noexcept nogil:
    return sys_socket_error(conn.fd)


cdef void tls_abort(Conn *conn) noexcept nogil:
    shutdown(conn.fd, SHUT_RDWR)


cdef void say_last(Conn *conn) noexcept nogil:
    """Say that nothing follows, as far as the kernel takes it, and free TLS."""
    cdef Tls *t = tls_of(conn)
    if t.established and not t.failed and tls_flush(conn) == 0:
        ERR_clear_error()
        SSL_shutdown(t.ssl)
        sys_send(conn.fd, t.loop.records.data, t.loop.records.n)
        output_clear(&t.loop.records)
    conn.tls = NULL
    tls_free(t)


cdef void tls_part(Conn *conn) noexcept nogil:
    say_last(conn)
    shutdown(conn.fd, SHUT_WR)


cdef void tls_close(Conn *conn) noexcept nogil:
    """Idempotent."""
    if conn.fd < 0:
        return
    say_last(conn)
    c_close(conn.fd)
    conn.fd = -1


cdef void tls_free(Tls *t) noexcept nogil:
    queue_reset(&t.held)
    queue_reset(&t.out)
    SSL_free(t.ssl)
    ERR_clear_error()
    free(t)

TLS.receive = tls_receive
TLS.send = tls_send
TLS.flush = tls_flush
TLS.has_more = tls_has_more
TLS.connected = tls_connected
TLS.abort = tls_abort
TLS.part = tls_part
TLS.close = tls_close


cdef int tls_begin(Loop *L, Conn *conn, SSL *ssl) noexcept nogil:
    """From now on a plain connection speaks TLS; nothing may be queued to be sent.

    Takes ``ssl`` over, which may be NULL for want of memory. Who is to begin does so;
    the handshake goes on with each receive. Returns 0, -ENOMEM (nothing has changed),
    or -errno.
    """
    cdef Tls *t = <Tls *> calloc(1, sizeof(Tls))
    cdef BIO *bio = BIO_new(SOCKET)
    if L.came == NULL:
        L.came = <uint8_t *> malloc(CAME_BYTES)
    if t == NULL or bio == NULL or ssl == NULL or L.came == NULL:
        SSL_free(ssl)
        BIO_free(bio)
        free(t)
        return -ENOMEM
    BIO_set_data(bio, t)
    BIO_set_init(bio, 1)
    SSL_set_bio(ssl, bio, bio)
    t.ssl = ssl
    t.loop = L
    conn.tls = t
    conn.transport = &TLS
    if SSL_is_server(ssl):
        t.wipes = conn.kind == KIND_CLIENT
        if t.wipes:
            SSL_set_options(ssl, SSL_OP_CLEANSE_PLAINTEXT)
        return 0
    ERR_clear_error()
    SSL_do_handshake(ssl)
    return send_records(conn, t)


cdef void tls_has_come(Conn *conn, Queue *held) noexcept nogil:
    """What a peer has sent before anybody knew that it was TLS is its beginning."""
    cdef Tls *t = tls_of(conn)
    t.held = held[0]
    memset(held, 0, sizeof(Queue))
    t.more = True
    more_waits(t.loop, conn)


cdef bint tls_is_established(const Conn *conn) noexcept nogil:
    """Whether the handshake is over; False: a plain connection, too."""
    return conn.tls != NULL and tls_of(conn).established


cdef const char *tls_error(const Conn *conn) noexcept nogil:
    """Why TLS has failed, static; NULL: it has not."""
    if conn.tls == NULL:
        return NULL
    return tls_of(conn).error


cdef object tls_facts(const Conn *conn):
    """(version, cipher, ALPN protocol), for Python; None: a plain connection.

    Empty before the handshake is over.
    """
    cdef const Tls *t = tls_of(conn)
    cdef const unsigned char *protocol = NULL
    cdef unsigned n = 0
    if t == NULL:
        return None
    if not t.established:
        return ("", "", "")
    SSL_get0_alpn_selected(t.ssl, &protocol, &n)
    return (
        (<bytes> SSL_get_version(t.ssl)).decode(),
        (<bytes> SSL_CIPHER_get_name(SSL_get_current_cipher(t.ssl))).decode(),
        (<const char *> protocol)[:n].decode() if n else "",
    )
