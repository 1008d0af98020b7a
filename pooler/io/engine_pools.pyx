# SPDX-License-Identifier: MIT
"""``EnginePools``: pools, of what Python may ask of the engine."""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free
from libc.string cimport memset

from pooler.board.page cimport Page
from pooler.io.carry_out cimport carry_out
from pooler.io.conn cimport Conn, Loop, conn_handle, notices_disown
from pooler.io.engine_clients cimport EngineClients
from pooler.io.engine_loop cimport bytes_in
from pooler.io.find cimport (
    count_obsolete, kill_pool, limits_changed, pause_servers, retire_again,
    retire_servers,
)
from pooler.io.logins cimport logins_forget_pool
from pooler.io.loop cimport loop_now
from pooler.io.stats cimport pool_counters
from pooler.io.syscalls cimport sys_now_us
from pooler.relay.inquire cimport inquiry_forget, words_forget
from pooler.relay.offers cimport (
    is_shared, note_uneven, sharing_begin, sharing_even, sharing_patience,
)
from pooler.relay.step cimport (
    relay_add_pool, relay_drop_pool, step_pool_inquire, step_pool_lets_go,
    step_pool_waits, step_pool_wants, step_server_close,
)
from pooler.session.counters cimport counters_begin
from pooler.session.pool cimport (
    pool_configure, pool_connected, pool_is_empty, pool_launch, pool_pause,
    pool_prelaunch, pool_refuse, pool_replace, pool_resize, pool_resume, pool_room,
    pool_share,
)
from pooler.session.records cimport (
    CLOSE_SERVER_EVICTED, CLOSE_SERVER_OBSOLETE, CloseReason, MODE_SESSION, Pool,
    PoolConfig, Script, ServerSession, script_fill,
)
from pooler.session.sequences cimport sequences_always
from pooler.session.sharing cimport (
    ROW_WORDS, RowSet, is_uneven, row_to_ask, row_to_serve,
)
from pooler.session.time_limits cimport TimeLimits, time_limits_fill


cdef TimeLimits time_limits_of(dict given) except *:
    """KeyError if something is no limit."""
    cdef TimeLimits times
    left = dict(given)
    times.query_wait_us = left.pop("query_wait_us", 0)
    times.wait_notify_us = left.pop("wait_notify_us", 0)
    times.client_idle_us = left.pop("client_idle_us", 0)
    times.query_us = left.pop("query_us", 0)
    times.xact_us = left.pop("xact_us", 0)
    times.idle_xact_us = left.pop("idle_xact_us", 0)
    times.server_idle_us = left.pop("server_idle_us", 0)
    times.lifetime_us = left.pop("lifetime_us", 0)
    times.tested_us = left.pop("tested_us", 0)
    if left:
        raise KeyError(*left)
    return times


cdef class EnginePools(EngineClients):
    """Pools, and what they launch, share and give up. See ``Engine``."""

    # ------------------------------------------------------------ pools

    def pool_create(self, uint32_t max_servers):
        """A new, empty pool; returns its id. It lives until ``pool_drop``."""
        cdef Pool *p = relay_add_pool(&self.loop.relay, max_servers)
        if p == NULL:
            raise MemoryError
        return p.id

    def pools_empty(self):
        """Pools without a client or server, as id: clients that ever logged in.

        Cost: O(pools)
        """
        cdef uint32_t i
        cdef const Pool *p
        found = {}
        for i in range(self.loop.relay.pool_count):
            p = self.loop.relay.pools[i]
            if p != NULL and pool_is_empty(p):
                found[i] = p.counters.client_logins
        return found

    def pool_drop(self, uint32_t pool_id):
        """Forget a pool for good, and logins that lead to it; False: it is in use.

        Its id may be that of another one from here on; notices that are to be taken
        still do not name it.
        """
        cdef Pool *p = self.pool(pool_id)
        if not pool_is_empty(p):
            return False
        logins_forget_pool(&self.loop, pool_id)
        notices_disown(&self.loop, pool_id)
        relay_drop_pool(&self.loop.relay, p)
        return True

    def pool_configure(
        self, uint32_t pool_id, *, int mode, bytes reset_query, bint reset_always,
        bytes check_query, uint64_t check_delay_us, bint cancel_abandoned,
        uint32_t max_prepared_statements=0, bint dedicated=False,
        bint clean_changed=False, bint clean_custom=False, bint clean_sequences=False,
        bint single_use=False, uint32_t min_servers=0, bint round_robin=False,
        bint fast_close=False, bint no_queries=False, limits=None,
    ):
        """Set how a pool works; scripts are SQL, empty for none.

        ``check_query`` may be ``b"\\0"``: an empty query is sent. Where
        ``max_prepared_statements`` comes from or goes to 0, the pool's servers are
        replaced. ``single_use``: a server is closed when its first client is done.
        ``min_servers``: so many of all workers stay however long they are idle.
        ``round_robin``: servers are used in turn. ``fast_close``: in session mode, one
        that is replaced does not wait for its client to leave.
        ``limits``: fields of ``TimeLimits`` in us, those that are not 0.
        """
        cdef Pool *p = self.pool(pool_id)
        cdef PoolConfig config
        cdef bint replace = (p.config.max_prepared_statements == 0) != (
            max_prepared_statements == 0
        )
        memset(&config, 0, sizeof(config))
        script_fill(&config.reset_query, reset_query)
        script_fill(&config.check_query, check_query)
        config.mode = <uint8_t> mode
        config.max_prepared_statements = max_prepared_statements
        config.reset_always = reset_always
        config.check_delay_us = check_delay_us
        config.cancel_abandoned = cancel_abandoned
        config.clean_changed = clean_changed
        config.clean_custom = clean_changed and clean_custom
        config.dedicated = dedicated
        config.no_queries = no_queries
        config.single_use = single_use
        config.min_servers = min_servers
        config.round_robin = round_robin
        config.fast_close = fast_close and mode == MODE_SESSION
        cdef TimeLimits times = time_limits_of(limits or {})
        time_limits_fill(&config, &times)
        pool_configure(p, &config)
        loop_now(&self.loop)
        limits_changed(&self.loop, p)
        if clean_sequences and clean_changed and mode != MODE_SESSION:
            sequences_always(p)
        if dedicated:  # it was another client's before
            pool_resume(p)
            counters_begin(p)
        if replace:
            retire_servers(&self.loop, p)
        elif p.config.fast_close:
            retire_again(&self.loop, p)

    def pool_resize(self, uint32_t pool_id, uint32_t max_servers):
        """Change how many servers a pool may have; surplus ones leave when free."""
        cdef Pool *p = self.pool(pool_id)
        pool_resize(p, max_servers)
        while p.server_count > max_servers and p.idle_tail != NULL:
            step_server_close(&self.loop.relay, p.idle_tail, CLOSE_SERVER_OBSOLETE)
            carry_out(&self.loop)
        step_pool_wants(&self.loop.relay, p)
        carry_out(&self.loop)

    def pool_share(self, uint32_t pool_id, Page page, uint32_t row, uint32_t account):
        """A pool tells other workers who is idle and who waits: in a row of an account.

        One pool of a worker for one account, which stays open as long as the pool.
        """
        self.page = page
        pool_share(
            self.pool(pool_id), page.row_of(account, row), page.row_of(account, 0),
            page.rows, page.times_of(account, row),
        )
        sharing_begin(self.pool(pool_id))

    def pool_look(self, uint32_t pool_id):
        """What other workers want of a pool, or have for it, at this moment.

        (row that should have an idle server of ours, row that has one to spare for
        ours, whether clients wait on one side and a server is idle on the other);
        -1: none.
        """
        cdef Pool *p = self.pool(pool_id)
        cdef const RowSet *shunned = &self.loop.relay.shunned
        if not is_shared(p):
            return -1, -1, False
        loop_now(&self.loop)
        return (
            row_to_serve(
                p.rows, p.row_count - 1, p.cells, shunned,
                self.loop.relay.now_us, p.sharing.patience_us,
            ),
            row_to_ask(
                p.rows, p.row_count - 1, p.cells, shunned,
                self.loop.relay.now_us, p.sharing.patience_us,
            ),
            bool(is_uneven(p.rows, p.row_count - 1, p.cells, shunned)),
        )

    def pool_let_go(self, uint32_t pool_id):
        """Clean an idle server that is kept for its client, so that it may move."""
        loop_now(&self.loop)
        step_pool_lets_go(&self.loop.relay, self.pool(pool_id))
        carry_out(&self.loop)

    def pool_even(self, uint32_t pool_id):
        """NOTICE_UNEVEN of a pool may come again."""
        sharing_even(self.pool(pool_id))

    def pool_patience(self, uint32_t pool_id, uint64_t patience_us):
        """By how much clients elsewhere may wait longer than those of a pool here."""
        sharing_patience(self.pool(pool_id), patience_us)

    def shun(self, rows):
        """Workers that no pool puts servers aside for: a bit for each.

        Who is shunned no more may have clients that wait for what has been idle here
        all the while, and nothing else would tell: pools are looked at again.
        """
        cdef Loop *L = &self.loop
        cdef bint lifted = False
        cdef uint64_t word
        cdef uint32_t i
        for i in range(ROW_WORDS):
            word = rows >> 64 * i & <uint64_t> -1
            lifted |= L.relay.shunned.words[i] & ~word != 0
            L.relay.shunned.words[i] = word
        if not lifted:
            return
        for i in range(L.relay.pool_count):
            if L.relay.pools[i] != NULL:
                note_uneven(&L.relay, L.relay.pools[i])
        carry_out(L)

    def pool_refused(self, uint32_t pool_id):
        """No server may be opened now; none is asked for before ``pool_room``."""
        cdef Pool *p = self.pool(pool_id)
        pool_refuse(p)
        step_pool_waits(&self.loop.relay, p)
        carry_out(&self.loop)

    def pool_room(self, uint32_t pool_id):
        """There may be room for servers: they are asked for again if it is wanted."""
        cdef Pool *p = self.pool(pool_id)
        pool_room(p)
        step_pool_wants(&self.loop.relay, p)
        carry_out(&self.loop)

    def pool_evict(self, uint32_t pool_id):
        """Close the server that has been idle longest; False: none is.

        One in which a client has left something that it may have back goes last.
        """
        cdef Pool *p = self.pool(pool_id)
        cdef ServerSession *s = p.idle_tail
        while s != NULL and (s.kept_for != NULL or s.changes.left):
            s = s.prev
        if s == NULL:
            s = p.idle_tail
        if s == NULL:
            return False
        step_server_close(&self.loop.relay, s, CLOSE_SERVER_EVICTED)
        carry_out(&self.loop)
        return True

    def pool_launching(self, uint32_t pool_id, uint32_t at_most):
        """How many servers to open now; they count as connecting from here on."""
        cdef Pool *p = self.pool(pool_id)
        cdef uint32_t launched = pool_launch(p, at_most)
        if launched == 0:
            step_pool_waits(&self.loop.relay, p)
            carry_out(&self.loop)
        return launched

    def pool_prelaunch(self, uint32_t pool_id):
        """Count one server as connecting that no waiting client asked for."""
        return bool(pool_prelaunch(self.pool(pool_id)))

    def pool_launch_failed(self, uint32_t pool_id):
        """A server that was connecting did not come to be."""
        cdef Pool *p = self.pool(pool_id)
        pool_connected(p)
        step_pool_waits(&self.loop.relay, p)
        carry_out(&self.loop)

    def pool_drop_waiting(self, uint32_t pool_id, int reason, bytes farewell):
        """Close all clients that wait, for a CloseReason; they are told ``farewell``.
        """
        cdef Pool *p = self.pool(pool_id)
        while p.waiting_head != NULL:
            self.client_close(
                conn_handle(&self.loop, <Conn *> p.waiting_head.io),
                reason, farewell,
            )

    def pool_retire(self, uint32_t pool_id, bint for_ever):
        """Close a pool's servers: idle ones now, the others when they are free.

        ``for_ever``: the pool opens no new ones either, and who asks is sent away.
        What another worker has opened before is not taken over any more.
        """
        cdef Pool *p = self.pool(pool_id)
        pool_replace(p, sys_now_us())
        if for_ever:
            pool_pause(p, True)
        retire_servers(&self.loop, p)

    def pool_hold(self, uint32_t pool_id, bint held):
        """Hand out no server and open none until it is let go; those who ask wait.

        Servers leave: idle ones now, the others when they are free.
        """
        cdef Pool *p = self.pool(pool_id)
        if p.closing or p.paused == held:
            return
        if held:
            pool_pause(p, False)
            pause_servers(&self.loop, p)
        else:
            pool_resume(p)
            step_pool_waits(&self.loop.relay, p)
            step_pool_wants(&self.loop.relay, p)
            carry_out(&self.loop)

    def pool_kill(self, uint32_t pool_id, int reason):
        """Close all clients of a pool, who are told why, and all servers."""
        kill_pool(&self.loop, self.pool(pool_id), <CloseReason> reason)

    def pool_obsolete(self, uint32_t pool_id):
        """How many servers of a pool are to be closed as soon as they are free."""
        return count_obsolete(&self.loop, self.pool(pool_id))

    def pool_inquire(self, uint32_t pool_id, bytes query):
        """Ask an idle server of a pool; ``query`` must leave nothing behind.

        False when there is no idle server, or somebody waits for one, or one is being
        asked. Otherwise NOTICE_INQUIRED comes, and ``pool_inquiry_answer`` is due.
        """
        cdef Loop *L = &self.loop
        cdef Pool *p = self.pool(pool_id)
        cdef Script script
        cdef bint asked
        memset(&script, 0, sizeof(script))
        script_fill(&script, query)
        loop_now(L)
        asked = step_pool_inquire(&L.relay, p, script.message, script.n)
        carry_out(L)
        free(script.message)
        return asked

    def pool_inquiry_answer(self, uint32_t pool_id):
        """All messages up to ReadyForQuery; empty when the server was lost."""
        cdef bytes data = bytes_in(&self.pool(pool_id).inquiry.answer)
        inquiry_forget(self.pool(pool_id))
        return data

    def pool_learned(self, uint32_t pool_id):
        """Parameter, what clients asked for, what servers made of it: all of it new."""
        cdef bytes data = bytes_in(&self.pool(pool_id).inquiry.learned)
        words_forget(self.pool(pool_id))
        cdef list parts = data.split(b"\0")
        parts.pop()  # behind the last terminator
        in_turn = iter(parts)
        return list(zip(in_turn, in_turn, in_turn))

    def pool_stats(self, uint32_t pool_id):
        """Counts and totals of one pool."""
        return pool_counters(self.pool(pool_id))
