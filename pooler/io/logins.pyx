# SPDX-License-Identifier: MIT
"""Logins that never leave C; see ``logins.pxd``."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset, strdup

from pooler.auth.crypto cimport OPENSSL_cleanse, RAND_bytes
from pooler.auth.exchange cimport (
    MESSAGE_HEAD_BYTES, PROOF_ANSWERED, PROOF_GIVEN, PROOF_MORE,
    PROOF_NO_MEMORY, ProofCode, Question, RANDOM_BYTES, exchange_begin, exchange_end,
    exchange_take,
)
from pooler.auth.secrets cimport secret_unref
from pooler.board.page cimport (
    NO_ACCOUNT, page_count_client, page_give_client, page_take_client,
)
from pooler.io.conn cimport (
    KNOWN_LOGIN_BUCKETS, Logins, NOTICE_LOGGED_IN, Peer, ProofUnderWay,
    RANDOM_CACHE_BYTES, conn_handle, notice,
)
from pooler.io.openssl cimport SSL_CTX
from pooler.io.poll cimport crowd_leave
from pooler.io.spread cimport spread_count
from pooler.io.syscalls cimport AF_INET, AF_INET6
from pooler.io.tls cimport tls_begin
from pooler.io.tls_context cimport accepting_by
from pooler.io.transport cimport stream_write
from pooler.relay.step cimport step_client_admit, step_client_end
from pooler.session.records cimport (
    CANCEL_KEY_MAX_BYTES, Pool, client_cancel_key,
)
from pooler.tables.hashing cimport hash_bytes
from pooler.tables.params cimport ParamSet, params_ref, params_unref
from pooler.wire.buffers cimport (
    output_clear, output_join, queue_drop, queue_size, queue_wipe,
)
from pooler._wire cimport load_be32, store_be32

cdef enum:
    PACKET_HEAD_BYTES = 8
    PACKET_MAX_BYTES = 10004  # of a startup packet, as in login/packets
    SSL_REQUEST_CODE = 80877103
    PROTOCOL_MAJOR = 3
    HOP_BYTE = 7
    HOP_BITS = 3
    SLOT_BITS = 0x7F

cdef enum Turn:  # what becomes of a login after one look
    TURN_AGAIN
    TURN_WAIT  # for more bytes, or it is over
    TURN_PYTHON


# ---------------------------------------------------------------- what is known

cdef inline bint same_place(const Peer *a, const Peer *b) noexcept nogil:
    return a.family == b.family and memcmp(a.address, b.address, 16) == 0


cdef inline KnownLogin **bucket(Logins *known, uint64_t hash) noexcept nogil:
    return &known.known[hash % KNOWN_LOGIN_BUCKETS]


cdef KnownLogin *find(
    Loop *L, const ClientConn *cc, const uint8_t *packet, size_t n
) noexcept nogil:
    """What is known of this packet from this client; NULL: nothing."""
    cdef KnownLogin *k
    cdef uint64_t hash
    if L.logins.known_count == 0:
        return NULL
    hash = hash_bytes(packet, n)
    k = bucket(&L.logins, hash)[0]
    while k != NULL:
        if (
            k.hash == hash and k.packet_n == n and k.secured == (cc.conn.tls != NULL)
            and same_place(&k.peer, &cc.peer) and memcmp(k.bytes, packet, n) == 0
        ):
            if k.until_us == 0 or L.relay.now_us < k.until_us:
                return k
            forget(L, k)
            return NULL
        k = k.next
    return NULL


cdef void unref(Loop *L, KnownLogin *k) noexcept nogil:
    k.refs -= 1
    if k.refs == 0:
        secret_unref(k.secret)
        params_unref(&L.relay.params, k.values)
        free(k.user)
        free(k)


cdef void forget(Loop *L, KnownLogin *known) noexcept nogil:
    """Take one out of the table, if it is still there."""
    cdef KnownLogin **at
    if known.forgotten:
        return
    at = bucket(&L.logins, known.hash)
    while at[0] != known:
        at = &at[0].next
    at[0] = known.next
    known.forgotten = True
    L.logins.known_count -= 1
    unref(L, known)


cdef void logins_forget(Loop *L) noexcept nogil:
    """Nothing is known any more. Cost: O(what was)"""
    cdef int i
    if L.logins.known_count == 0:
        return
    for i in range(KNOWN_LOGIN_BUCKETS):
        while L.logins.known[i] != NULL:
            forget(L, L.logins.known[i])


cdef void login_forget(Loop *L, uint32_t number) noexcept nogil:
    """Forget the one with this number, if it is known. Cost: O(all that are)"""
    cdef KnownLogin *k
    cdef int i
    if L.logins.known_count == 0:
        return
    for i in range(KNOWN_LOGIN_BUCKETS):
        k = L.logins.known[i]
        while k != NULL:
            if k.number == number:
                forget(L, k)
                return
            k = k.next


cdef void logins_forget_pool(Loop *L, uint32_t pool_id) noexcept nogil:
    """Forget those that lead to a pool. Cost: O(all that are known)"""
    cdef KnownLogin *k
    cdef KnownLogin *following
    cdef int i
    if L.logins.known_count == 0:
        return
    for i in range(KNOWN_LOGIN_BUCKETS):
        k = L.logins.known[i]
        while k != NULL:
            following = k.next
            if k.pool_id == pool_id:
                forget(L, k)
            k = following


cdef void logins_free(Loop *L) noexcept nogil:
    """Free what the table owns; nobody logs in any more."""
    logins_forget(L)
    free(L.logins.known)
    free(L.logins.out.scratch)
    OPENSSL_cleanse(L.logins.random, RANDOM_CACHE_BYTES)
    memset(&L.logins, 0, sizeof(Logins))


cdef KnownLogin *login_known(
    const ClientConn *cc, const uint8_t *packet, size_t packet_n,
    const uint8_t *before, size_t before_n, const uint8_t *greeting, size_t greeting_n,
) noexcept nogil:
    """A row for a client like this one, to be filled in; NULL without memory."""
    cdef KnownLogin *k = <KnownLogin *> malloc(
        sizeof(KnownLogin) + packet_n + before_n + greeting_n
    )
    if k == NULL:
        return NULL
    memset(k, 0, sizeof(KnownLogin))
    k.refs = 1
    k.hash = hash_bytes(packet, packet_n)
    k.peer = cc.peer
    k.peer.port = 0
    k.secured = cc.conn.tls != NULL
    k.packet_n = <uint32_t> packet_n
    k.before_n = <uint32_t> before_n
    k.greeting_n = <uint32_t> greeting_n
    memcpy(k.bytes, packet, packet_n)
    memcpy(k.bytes + packet_n, before, before_n)
    memcpy(k.bytes + packet_n + before_n, greeting, greeting_n)
    return k


cdef uint32_t login_remember(Loop *L, KnownLogin *known) noexcept nogil:
    """Take the row over, in place of one for the same client; its number, 0: none.

    A full table is emptied: whoever is still about is known again by the next login.
    """
    cdef Logins *logins = &L.logins
    cdef KnownLogin **at
    cdef KnownLogin *k
    if logins.known == NULL:
        logins.known = <KnownLogin **> calloc(
            KNOWN_LOGIN_BUCKETS, sizeof(KnownLogin *)
        )
    if logins.known == NULL or not logins.on:
        unref(L, known)
        return 0
    if logins.known_count >= KNOWN_LOGIN_BUCKETS:
        logins_forget(L)
    at = bucket(logins, known.hash)
    k = at[0]
    while k != NULL:
        if (
            k.packet_n == known.packet_n and k.secured == known.secured
            and same_place(&k.peer, &known.peer)
            and memcmp(k.bytes, known.bytes, k.packet_n) == 0
        ):
            forget(L, k)
            break
        k = k.next
    known.next = at[0]
    at[0] = known
    logins.known_count += 1
    logins.last_number += 1
    known.number = logins.last_number
    return known.number


# ---------------------------------------------------------------- parts of a login

cdef void count_clients(Loop *L) noexcept nogil:
    """Show on the board how many places of max_client_conn are taken here."""
    spread_count(L)
    if L.logins.clients != NULL:
        L.logins.clients[0] = L.client_count - L.uncounted_count


cdef int login_take_place(
    Loop *L, ClientConn *cc, const uint32_t *accounts, const uint64_t *limits
) noexcept nogil:
    """Give a client a place that all workers count, if it has none yet.

    Returns 0, or which limit is in the way (``page_take_client``).
    """
    cdef int refused
    if cc.placed or L.logins.page.shared == NULL:
        return 0
    refused = page_take_client(&L.logins.page, L.logins.slot, accounts, limits)
    if refused == 0:
        cc.placed = True
        memcpy(cc.accounts, accounts, sizeof(cc.accounts))
    return refused


cdef void login_count_for(
    Loop *L, ClientConn *cc, const uint32_t *accounts
) noexcept nogil:
    """A client that has a place counts also where it does not yet."""
    cdef int i
    if not cc.placed:
        return
    for i in range(3):
        if cc.accounts[i] == NO_ACCOUNT and accounts[i] != NO_ACCOUNT:
            page_count_client(&L.logins.page, L.logins.slot, accounts[i])
            cc.accounts[i] = accounts[i]


cdef void login_give_place(Loop *L, ClientConn *cc) noexcept nogil:
    """A client has left."""
    if cc.placed:
        cc.placed = False
        page_give_client(&L.logins.page, L.logins.slot, cc.accounts)


cdef const uint8_t *take_random(Logins *logins, uint32_t n) noexcept nogil:
    """n bytes that nobody can guess, n <= RANDOM_CACHE_BYTES; NULL: there are none.

    They are fetched for many logins at once, and each is given out once.
    """
    if logins.random_n < n:
        if RAND_bytes(logins.random, RANDOM_CACHE_BYTES) != 1:
            return NULL
        logins.random_n = RANDOM_CACHE_BYTES
    logins.random_n -= n
    return logins.random + logins.random_n


cdef bint make_key(Logins *logins, uint8_t *key, uint8_t n) noexcept nogil:
    """A cancel key of this worker; the layout is that of ``worker/cancel``."""
    cdef const uint8_t *random = take_random(logins, n)
    if random == NULL:
        return False
    memcpy(key, random, n)
    key[0] = logins.slot & SLOT_BITS
    if logins.peer_id:
        key[1] = <uint8_t> logins.peer_id
        key[2] = <uint8_t> (logins.peer_id >> 8)
        key[HOP_BYTE] |= HOP_BITS
    return True


cdef bint send(
    Loop *L, ClientConn *cc, const uint8_t *src, size_t n
) noexcept nogil:
    """False: the client is gone."""
    if n == 0 or stream_write(
        L, &cc.conn, &cc.session.stream.out, src, n
    ) >= 0:
        return True
    step_client_end(&L.relay, &cc.session)
    return False


cdef void admit(
    Loop *L, ClientConn *cc, Pool *p, ParamSet *values, const char *user,
    const uint8_t *key, uint8_t key_n, const uint8_t *greeting, size_t n,
) noexcept nogil:
    """A client has logged in: send its greeting and let it work.

    Takes the reference to ``values``. ``user``: NULL: that of the pool. ``carry_out``
    is due.
    """
    if user != NULL:
        cc.user = strdup(user)  # without memory it is shown as the pool's
    client_cancel_key(&cc.session, key, key_n)
    L.login_count -= 1
    crowd_leave(L, &cc.conn)
    step_client_admit(&L.relay, &cc.session, p, values)
    send(L, cc, greeting, n)


cdef void login_end(Loop *L, ClientConn *cc) noexcept nogil:
    """Let go of what a login under way has."""
    if cc.proof == NULL:
        return
    exchange_end(&cc.proof.exchange)
    unref(L, cc.proof.known)
    free(cc.proof)
    cc.proof = NULL


# ---------------------------------------------------------------- the way in

cdef Turn let_in(
    Loop *L, ClientConn *cc, KnownLogin *k, const uint8_t *first, size_t first_n
) noexcept nogil:
    """Tell all at once: what ends the proof, the greeting, the key, ReadyForQuery."""
    cdef uint8_t tail[MESSAGE_HEAD_BYTES + CANCEL_KEY_MAX_BYTES + 6]
    cdef uint8_t *key = tail + MESSAGE_HEAD_BYTES
    cdef uint8_t *ready = key + k.key_n
    if not make_key(&L.logins, key, k.key_n):
        return TURN_PYTHON
    tail[0] = c"K"
    store_be32(tail + 1, 4 + k.key_n)
    memcpy(ready, b"Z\0\0\0\x05I", 6)
    output_clear(&L.logins.out)
    output_join(&L.logins.out, first, first_n)
    output_join(
        &L.logins.out, k.bytes + k.packet_n + k.before_n, k.greeting_n
    )
    output_join(&L.logins.out, tail, MESSAGE_HEAD_BYTES + k.key_n + 6)
    if L.logins.out.failed:
        return TURN_PYTHON
    L.counters.known_logins += 1
    if L.logins.tell_logins:
        notice(
            L, NOTICE_LOGGED_IN, conn_handle(L, &cc.conn), <int> k.number
        ).peer = cc.peer
    admit(
        L, cc, L.relay.pools[k.pool_id], params_ref(k.values), k.user, key, k.key_n,
        L.logins.out.data, L.logins.out.n,
    )
    return TURN_WAIT


cdef Turn ask(Loop *L, ClientConn *cc, KnownLogin *k) noexcept nogil:
    """Begin the proof: one send."""
    cdef const uint8_t *random = take_random(&L.logins, RANDOM_BYTES)
    cdef ProofUnderWay *proof
    if random == NULL:
        return TURN_PYTHON
    proof = <ProofUnderWay *> calloc(1, sizeof(ProofUnderWay))
    if proof == NULL:
        return TURN_PYTHON
    proof.known = k
    k.refs += 1
    cc.proof = proof
    if not exchange_begin(
        &proof.exchange, <Question> k.question, k.secret, L.logins.binding,
        L.logins.binding_n if k.secured else 0, random,
    ):
        login_end(L, cc)
        return TURN_PYTHON
    output_clear(&L.logins.out)
    output_join(&L.logins.out, k.bytes + k.packet_n, k.before_n)
    output_join(&L.logins.out, proof.exchange.answer, proof.exchange.answer_n)
    if L.logins.out.failed:
        login_end(L, cc)
        return TURN_PYTHON
    send(L, cc, L.logins.out.data, L.logins.out.n)
    return TURN_AGAIN


cdef Turn answer_tls(Loop *L, ClientConn *cc) noexcept nogil:
    """SSLRequest, alone and for the first time: S and TLS, or N."""
    cdef bint secure = L.logins.tls != NULL and (
        cc.peer.family == AF_INET or cc.peer.family == AF_INET6
    )
    queue_drop(&cc.session.stream.held, PACKET_HEAD_BYTES)
    cc.asked_tls = True
    if not send(L, cc, b"S" if secure else b"N", 1):
        return TURN_WAIT
    if secure and (
        cc.session.stream.out.cap
        or tls_begin(L, &cc.conn, accepting_by(<SSL_CTX *> L.logins.tls)) < 0
    ):
        step_client_end(&L.relay, &cc.session)
    return TURN_WAIT


cdef Turn take_packet(Loop *L, ClientConn *cc) noexcept nogil:
    """SSLRequest or a startup packet that is known; all else is Python's."""
    cdef const uint8_t *p = cc.session.stream.held.data + cc.session.stream.held.start
    cdef size_t n = queue_size(&cc.session.stream.held)
    cdef uint32_t length
    cdef uint32_t code
    cdef KnownLogin *k
    if n < 4:
        # a length has two zeros in front: what has not is no packet
        return TURN_PYTHON if p[0] or (n > 1 and p[1]) else TURN_WAIT
    length = load_be32(p)
    if not PACKET_HEAD_BYTES <= length <= PACKET_MAX_BYTES:
        return TURN_PYTHON
    if n < PACKET_HEAD_BYTES:
        return TURN_WAIT
    code = load_be32(p + 4)
    if code == SSL_REQUEST_CODE:
        if length != PACKET_HEAD_BYTES or n != PACKET_HEAD_BYTES or cc.asked_tls or (
            cc.conn.tls != NULL
        ):
            return TURN_PYTHON
        return answer_tls(L, cc)
    if code >> 16 != PROTOCOL_MAJOR:
        return TURN_PYTHON
    if n < length:
        cc.login_wanted_bytes = length
        return TURN_WAIT
    k = find(L, cc, p, length)
    if k == NULL or L.logins.full or login_take_place(L, cc, k.accounts, k.limits):
        return TURN_PYTHON
    if k.secret != NULL:
        code = ask(L, cc, k)
        if code != TURN_PYTHON:
            queue_drop(&cc.session.stream.held, length)
        return <Turn> code
    queue_drop(&cc.session.stream.held, length)
    return let_in(L, cc, k, k.bytes + k.packet_n, k.before_n)


cdef Turn take_proof(Loop *L, ClientConn *cc) noexcept nogil:
    """One message of a proof under way."""
    cdef ProofUnderWay *proof = cc.proof
    cdef const uint8_t *p = cc.session.stream.held.data + cc.session.stream.held.start
    cdef size_t n = queue_size(&cc.session.stream.held)
    cdef size_t consumed
    cdef Turn turn
    cdef ProofCode code = exchange_take(&proof.exchange, p, n, &consumed)
    if code == PROOF_MORE:
        cc.login_wanted_bytes = (
            proof.exchange.length + 1 if n >= MESSAGE_HEAD_BYTES else MESSAGE_HEAD_BYTES
        )
        return TURN_WAIT
    if consumed:
        queue_wipe(&cc.session.stream.held, consumed)  # it may be a password
    if code == PROOF_ANSWERED:
        if not send(L, cc, proof.exchange.answer, proof.exchange.answer_n):
            return TURN_WAIT
        return TURN_AGAIN
    proof.code = code
    if code != PROOF_GIVEN:
        forget(L, proof.known)
        return TURN_PYTHON
    if proof.known.forgotten:
        return TURN_PYTHON
    turn = let_in(
        L, cc, proof.known, proof.exchange.answer, proof.exchange.answer_n
    )
    if turn == TURN_PYTHON:
        proof.code = PROOF_NO_MEMORY
    else:
        login_end(L, cc)
    return turn


cdef bint login_goes_on(Loop *L, ClientConn *cc) noexcept nogil:
    """Lead a login as far as its bytes allow; False: from here on Python has to.

    ``carry_out`` is due.
    """
    cdef Turn turn = TURN_AGAIN
    if cc.by_python or not L.logins.on:
        return False
    while turn == TURN_AGAIN and queue_size(&cc.session.stream.held):
        turn = take_packet(L, cc) if cc.proof == NULL else take_proof(L, cc)
    cc.by_python = turn == TURN_PYTHON
    return not cc.by_python
