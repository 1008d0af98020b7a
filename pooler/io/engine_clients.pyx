# SPDX-License-Identifier: MIT
"""``EngineClients``: logins and clients, of what Python may ask of the engine."""

from libc.stdint cimport UINT32_MAX, uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free
from libc.string cimport memcpy, strdup

from pooler.auth.exchange cimport Exchange
from pooler.auth.secrets cimport KEY_BYTES, StoredSecret, secret_ref, stored_secret
from pooler.board.page cimport Page
from pooler.io.accept cimport LOGIN_HELD_MAX_BYTES
from pooler.io.carry_out cimport carry_out
from pooler.io.conn cimport (
    ClientConn, Conn, KIND_CLIENT, KnownLogin, Logins, Loop, conn_of,
    take_id,
)
from pooler.io.engine_loop cimport EngineLoop, bytes_in, bytes_of
from pooler.io.find cimport client_of_id, client_users, send_clients_away
from pooler.io.listing cimport list_clients, list_servers
from pooler.io.logins cimport (
    admit, count_clients, login_count_for, login_end, login_forget, login_known,
    login_remember, login_take_place, logins_forget,
)
from pooler.io.loop cimport loop_now
from pooler.io.poll cimport WATCH_READ, WATCH_WRITE, watch
from pooler.io.prepared cimport count_holders, list_statements
from pooler.io.stats cimport peer_name
from pooler.io.suspend cimport (
    close_unflushed, count_unflushed, loop_resume, loop_suspend, spare_pool,
)
from pooler.io.syscalls cimport sys_peer_pid, sys_peer_uid
from pooler.io.tls cimport tls_begin, tls_facts, tls_has_come
from pooler.io.tls_context cimport TlsContext, accepting, peer_name as certificate_name
from pooler.io.transport cimport stream_swallow, stream_write
from pooler.relay.step cimport step_client_close, step_client_end
from pooler.session.records cimport (
    CANCEL_KEY_MAX_BYTES, CANCEL_KEY_MIN_BYTES, CLIENT_LOGIN, CLOSE_REASONS,
    ClientSession, CloseReason, Pool, client_may_wait, client_proved,
)
from pooler.tables.params cimport ParamSet
from pooler.wire.buffers cimport queue_size, queue_wipe


NOWHERE = (0xFFFFFFFF,) * 3  # three times NO_ACCOUNT


cdef class EngineClients(EngineLoop):
    """Logins, clients, and lists of connections. See ``Engine``."""

    # ------------------------------------------------------------ logins

    def logins_configure(
        self, *, uint64_t[:] client_cells, uint8_t slot, bint full=False,
        uint16_t peer_id=0, TlsContext context=None, bint tell_logins=True,
        bint tell_closes=True,
    ):
        """From now on logins whose startup packet is known need no Python.

        ``client_cells``: how many clients each worker has, shared, and this worker's
        row of them; lent until ``close``. ``full``: nobody may log in. ``context``:
        TLS for clients that ask for it; None: they are refused. ``tell_logins``,
        ``tell_closes``: whether notices of such logins, and of the end of clients, are
        wanted. What was known is forgotten.
        """
        cdef Logins *logins = &self.loop.logins
        logins_forget(&self.loop)
        self.client_cells = client_cells
        self.login_context = context
        logins.clients = &client_cells[slot]
        logins.full = full
        logins.slot = slot
        logins.peer_id = peer_id
        logins.tls = NULL if context is None else <void *> context.context
        logins.binding_n = 0
        if context is not None:
            logins.binding_n = <uint8_t> len(context.certificate_hash)
            memcpy(
                logins.binding, bytes_of(context.certificate_hash), logins.binding_n
            )
        logins.tell_logins = tell_logins
        logins.tell_closes = tell_closes
        logins.on = True
        count_clients(&self.loop)

    def logins_share(self, Page page):
        """Clients take places on the page, in the row of the slot, from now on."""
        self.page = page
        self.loop.logins.page = page.map

    def tell_closes(self):
        """From now on the end of every client is told."""
        self.loop.logins.tell_closes = True

    def logins_forget(self):
        """Something has changed that a known login depends on."""
        logins_forget(&self.loop)

    def login_forget(self, uint32_t number):
        """What ``login_remember`` has returned is not known any more."""
        login_forget(&self.loop, number)

    def login_remember(
        self, uint64_t handle, bytes packet, uint32_t pool_id, parameters,
        bytes greeting, *, bytes before=b"", int question=0, StoredSecret secret=None,
        uint64_t valid_us=0, uint8_t key_bytes=CANCEL_KEY_MIN_BYTES, bytes user=b"",
        places=NOWHERE, limits=(0, 0, 0),
    ):
        """A client that is about to be admitted: others like it need no Python.

        ``packet``: its startup packet. ``before``: what it was told in front of the
        question, ``secret``: what its answer was measured by; None: nothing was asked.
        ``valid_us``: for how long, 0 for ever. ``places``, ``limits``: as for
        ``client_take_place``; the accounts stay open meanwhile. ``greeting``: all it is
        told, up to the cancel key of ``key_bytes``. ``user``: empty: that of the pool.
        Returns the
        number by which NOTICE_LOGGED_IN names them, 0 if nothing is kept.
        """
        cdef ClientConn *cc = self.client(handle)
        cdef KnownLogin *known
        cdef int i
        self.pool(pool_id)
        if not CANCEL_KEY_MIN_BYTES <= key_bytes <= CANCEL_KEY_MAX_BYTES:
            raise ValueError(f"cancel key of {key_bytes} bytes")
        known = login_known(
            cc, bytes_of(packet), len(packet), bytes_of(before), len(before),
            bytes_of(greeting), len(greeting),
        )
        if known == NULL:
            raise MemoryError
        try:
            known.values = self.parameter_set(parameters)
        except BaseException:
            free(known)
            raise
        if user:
            known.user = strdup(user)
        known.pool_id = pool_id
        for i in range(3):
            known.accounts[i] = places[i]
            known.limits[i] = limits[i]
        known.key_n = key_bytes
        if valid_us:
            loop_now(&self.loop)
            known.until_us = self.loop.relay.now_us + valid_us
        known.question = <uint8_t> question
        if secret is not None:
            known.secret = secret_ref(secret.secret)
        return login_remember(&self.loop, known)

    def login_state(self, uint64_t handle):
        """What the engine has done of a login that is Python's now.

        (SSLRequest was answered, TLS has begun, proof); the proof is None, or what
        ``LedElsewhere`` (``login/outcomes``) is made of.
        """
        cdef ClientConn *cc = self.client(handle)
        cdef Exchange *x
        proof = None
        if cc.proof != NULL:
            x = &cc.proof.exchange
            proof = (
                <bytes> cc.proof.known.bytes[:cc.proof.known.packet_n],
                <int> cc.proof.code, <int> x.question, x.kind, x.length,
                stored_secret(x.secret), <bytes> x.client_key[:KEY_BYTES],
                <bytes> x.answer[:x.answer_n],
            )
        return bool(cc.asked_tls), cc.conn.tls != NULL, proof

    # ------------------------------------------------------------ clients

    def login_bytes(self, uint64_t handle):
        """What a client in state LOGIN has sent and Python has not consumed."""
        cdef ClientConn *cc = self.client(handle)
        cc.login_noticed = False
        return bytes_in(&cc.session.stream.held)

    def login_consume(self, uint64_t handle, size_t n, uint32_t wanted_bytes=0):
        """Forget the first n of ``login_bytes``.

        ``wanted_bytes``: Python wants to hear of the rest when there are so many.
        """
        cdef ClientConn *cc = self.client(handle)
        if n > queue_size(&cc.session.stream.held):
            raise ValueError(f"{n} bytes are not there to consume")
        if n:
            queue_wipe(&cc.session.stream.held, n)  # it may be a password
        cc.login_wanted_bytes = min(wanted_bytes, <uint32_t> LOGIN_HELD_MAX_BYTES)
        watch(&self.loop, &cc.conn, WATCH_READ | (cc.conn.watched & WATCH_WRITE))

    def client_peer(self, uint64_t handle):
        """(address, port) of a client; a Unix socket has ("unix", 0)."""
        return peer_name(&self.client(handle).peer)

    def client_age_us(self, uint64_t handle):
        """How long ago a client was accepted."""
        return self.loop.relay.now_us - self.client(handle).session.opened_us

    def client_send(self, uint64_t handle, bytes data):
        """Send bytes to a client that is not attached to a server."""
        cdef ClientConn *cc = self.client(handle)
        if stream_write(
            &self.loop, &cc.conn, &cc.session.stream.out, bytes_of(data), len(data)
        ) < 0:
            step_client_end(&self.loop.relay, &cc.session)
            carry_out(&self.loop)

    def client_admit(
        self, uint64_t handle, uint32_t pool_id, parameters, bytes cancel_key,
        bytes greeting, *, bytes user=b"",
    ):
        """A client has logged in: send its greeting and let it work.

        ``parameters``: one ``bytes`` or ``None`` per tracked parameter. ``user``: as
        whom; empty: as the user of the pool.
        """
        cdef Loop *L = &self.loop
        cdef ClientConn *cc = self.client(handle)
        cdef ClientSession *c = &cc.session
        cdef Pool *p = self.pool(pool_id)
        if c.state != CLIENT_LOGIN:
            raise ValueError("client is logged in already")
        if not CANCEL_KEY_MIN_BYTES <= len(cancel_key) <= CANCEL_KEY_MAX_BYTES:
            raise ValueError(f"cancel key of {len(cancel_key)} bytes")
        cdef ParamSet *values = self.parameter_set(parameters)
        loop_now(L)
        login_end(L, cc)
        admit(
            L, cc, p, values, <const char *> user if user else NULL,
            bytes_of(cancel_key), <uint8_t> len(cancel_key), bytes_of(greeting),
            len(greeting),
        )
        carry_out(L)

    def client_start_tls(self, uint64_t handle, TlsContext context):
        """A client that is logging in speaks TLS from now on.

        What it has sent and Python has not consumed is the beginning of that. The
        caller has seen to it that nothing stands in front of it that was sent in the
        clear (CVE-2021-23214).
        """
        cdef ClientConn *cc = self.client(handle)
        if cc.session.state != CLIENT_LOGIN or cc.conn.tls != NULL:
            raise ValueError("client is logged in already, or speaks TLS")
        if cc.session.stream.out.cap or tls_begin(
            &self.loop, &cc.conn, accepting(context)
        ) < 0:
            raise MemoryError
        if cc.session.stream.held.cap:
            tls_has_come(&cc.conn, &cc.session.stream.held)
        cc.login_wanted_bytes = 0

    def client_tls(self, uint64_t handle):
        """(version, cipher, ALPN protocol) of a client; None without TLS.

        Empty before the handshake is over.
        """
        return tls_facts(&self.client(handle).conn)

    def client_certificate_name(self, uint64_t handle):
        """The common name in the certificate that a client has shown; b"": none."""
        return certificate_name(&self.client(handle).conn)

    def client_take_place(self, uint64_t handle, places, limits):
        """Give a client a place until it leaves, unless it has one.

        ``places``: the accounts of everybody, of its database and of its user, or
        NO_ACCOUNT. ``limits``: of these, 0 for none. Returns 0, or which of the three
        limits is in the way.
        """
        cdef uint32_t accounts[3]
        cdef uint64_t most[3]
        cdef int i
        for i in range(3):
            accounts[i] = places[i]
            most[i] = limits[i]
        return login_take_place(&self.loop, self.client(handle), accounts, most)

    def client_count_for(self, uint64_t handle, accounts):
        """A client with a place counts in these three as well, or NO_ACCOUNT.

        Where it counts already it stays; the accounts stay open meanwhile.
        """
        cdef uint32_t more[3]
        cdef int i
        for i in range(3):
            more[i] = accounts[i]
        login_count_for(&self.loop, self.client(handle), more)

    def client_uncounted(self, uint64_t handle):
        """A client takes no place of ``max_client_conn``."""
        cdef ClientConn *cc = self.client(handle)
        self.loop.uncounted_count += not cc.uncounted
        cc.uncounted = True
        count_clients(&self.loop)

    def client_proved(self, uint64_t handle):
        """The login of a client waits for nothing but a server."""
        client_proved(&self.client(handle).session)

    def client_may_wait(self, uint64_t handle):
        """A client's login waits until others leave: it may take any time."""
        client_may_wait(&self.client(handle).session)

    def client_os_uid(self, uint64_t handle):
        """The user id of the process behind a Unix socket; None: there is none."""
        cdef int uid = sys_peer_uid(self.client(handle).conn.fd)
        return uid if uid >= 0 else None

    def client_os_pid(self, uint64_t handle):
        """The process behind a Unix socket; 0: it is not told, or there is none."""
        return max(0, sys_peer_pid(self.client(handle).conn.fd))

    def client_close(
        self, uint64_t handle, int reason, bytes farewell=b"", *, bint tell=False
    ):
        """Close a client; ignored when it is gone.

        ``farewell`` is sent before, to one that logs in. ``tell``: it gets FATAL and
        the reason, unless it is in the middle of a message.
        """
        cdef Loop *L = &self.loop
        cdef Conn *conn = conn_of(L, handle)
        cdef ClientConn *cc
        if not 0 <= reason < CLOSE_REASONS:
            raise ValueError(f"no close reason {reason}")
        if conn == NULL or conn.kind != KIND_CLIENT:
            return
        cc = <ClientConn *> conn
        if farewell:
            stream_write(
                L, conn, &cc.session.stream.out, bytes_of(farewell), len(farewell)
            )
        stream_swallow(L, conn)
        step_client_close(&L.relay, &cc.session, <CloseReason> reason, tell)
        carry_out(L)

    def client_users(self):
        """(handle, pool id, user) of each client that is logged in; by one walk.

        The user is ``bytes``, empty where it is that of the pool.
        """
        return client_users(&self.loop)

    def send_clients_away(self, uint32_t most=UINT32_MAX, *, bint idle_only=False):
        """Close clients with FATAL 57P01, as far as they take it; how many there were.

        ``idle_only``: not those that log in, wait, or hold a transaction. One that is
        in the middle of a message is told nothing.
        """
        loop_now(&self.loop)
        return send_clients_away(&self.loop, most, idle_only)

    # ------------------------------------------------------------ SUSPEND

    def suspend(self, spared):
        """Read nothing, accept nobody; connections of the pools ``spared`` go on.

        Idempotent: those of further pools go on then. No deadline comes.
        """
        cdef uint32_t pool_id
        loop_suspend(&self.loop)
        for pool_id in spared:
            spare_pool(&self.loop, self.pool(pool_id))

    def resume(self):
        """Read and accept again. Times that are up by now count at the next turn."""
        loop_resume(&self.loop)

    def unflushed(self):
        """How many that rest have not taken yet what they were sent."""
        return count_unflushed(&self.loop)

    def close_unflushed(self):
        """Close these, and who waits for them (``suspend_timeout``)."""
        loop_now(&self.loop)
        close_unflushed(&self.loop)

    # ------------------------------------------------------------ lists

    def take_id(self):
        """The id of a new connection, of which no other in the pooler has or had it."""
        return take_id(&self.loop)

    def list_clients(self, uint32_t first, uint32_t most):
        """(rows, where to go on): clients, of at most so many places; 0: that is all.

        A connection that is there all the time is in one list, and one only.
        """
        return list_clients(&self.loop, first, most)

    def list_servers(self, uint32_t first, uint32_t most):
        """As ``list_clients``."""
        return list_servers(&self.loop, first, most)

    def count_holders(self, uint32_t first, uint32_t most, dict holders):
        """Clients and servers by pool and prepared statement; see ``io/prepared``."""
        return count_holders(&self.loop, first, most, holders)

    def list_statements(self, uint32_t first, uint32_t most, dict found):
        """Prepared statements by their ids; see ``io/prepared``."""
        return list_statements(&self.loop, first, most, found)

    def client_of_id(self, uint32_t id):
        """The handle of the client with this id; None: there is none."""
        return client_of_id(&self.loop, id)
