# SPDX-License-Identifier: MIT
"""The parts of a pool that are not on the way of every transaction."""

from libc.stdlib cimport free

from pooler.board.page cimport Cells
from pooler.session.records cimport (
    CLIENT_CLOSED, PoolConfig, SERVER_CLOSED, SERVER_TESTED,
)
from pooler.session.counters cimport count_login, note_parted
from pooler.session.custom cimport custom_fits
from pooler.session.time_limits cimport wait_goes_on


cdef void pool_begin(Pool *p, uint32_t id, uint32_t max_servers) noexcept nogil:
    """A pool whose memory is zero."""
    p.id = id
    p.max_servers = max_servers
    p.cells = &p.alone


cdef void pool_share(
    Pool *p, Cells *cells, const Cells *rows, uint32_t row_count, Histogram *times
) noexcept nogil:
    """Keep what others want to know in this row of an account.

    In: times borrowed; NULL: nobody asks how long things take

    The account stays open until the pool is gone.
    """
    cells.idle = p.idle_count
    cells.idle_since_us = p.idle_tail.idle_since_us if p.idle_tail != NULL else 0
    cells.waiting = p.waiting_count
    cells.waiting_since_us = (
        p.waiting_head.waiting_since_us if p.waiting_head != NULL else 0
    )
    p.cells = cells
    p.rows = rows
    p.row_count = row_count
    p.times = times


cdef void pool_free(Pool *p) noexcept nogil:
    """Nobody is in it any more."""
    free(p.config.reset_query.message)
    free(p.config.check_query.message)
    free(p)


cdef void pool_configure(Pool *p, const PoolConfig *config) noexcept nogil:
    """Set how it works, for those who wait as well; takes the scripts over."""
    cdef ClientSession *c = p.waiting_head
    free(p.config.reset_query.message)
    free(p.config.check_query.message)
    p.config = config[0]
    while c != NULL:
        wait_goes_on(c)
        c = c.next


cdef void pool_resize(Pool *p, uint32_t max_servers) noexcept nogil:
    p.max_servers = max_servers


cdef void pool_pause(Pool *p, bint closing) noexcept nogil:
    """Hand out no server and open none; ``closing``: for good."""
    p.paused = True
    p.closing = p.closing or closing


cdef void pool_resume(Pool *p) noexcept nogil:
    p.paused = p.closing = False


cdef void pool_replace(Pool *p, uint64_t now_us) noexcept nogil:
    """Its servers are replaced: none comes from elsewhere that was opened before."""
    p.replaced_us = now_us


cdef bint pool_ask_launch(Pool *p) noexcept nogil:
    """Whether servers are wanted, and Python was not asked for them yet."""
    if p.launch_wanted or pool_servers_wanted(p) == 0:
        return False
    p.launch_wanted = True
    return True


cdef uint32_t pool_launch(Pool *p, uint32_t at_most) noexcept nogil:
    """How many servers are opened now; they count as connecting from here on."""
    cdef uint32_t wanted = pool_servers_wanted(p)
    p.launch_wanted = False
    if wanted > at_most:
        wanted = at_most
    p.connecting_count += wanted
    return wanted


cdef void pool_refuse(Pool *p) noexcept nogil:
    """Ask for no servers before ``pool_room``: there would be too many of them."""
    p.launch_wanted = False
    p.refused = True


cdef void pool_room(Pool *p) noexcept nogil:
    """There may be room for servers again."""
    p.refused = False


cdef bint pool_prelaunch(Pool *p) noexcept nogil:
    """Count one server as connecting that nobody waits for; False: there is no room."""
    if p.paused or p.server_count + p.connecting_count >= p.max_servers:
        return False
    p.connecting_count += 1
    return True


cdef void pool_connected(Pool *p) noexcept nogil:
    """A server that was connecting is there, or will not be."""
    if p.connecting_count:
        p.connecting_count -= 1


cdef void pool_abandon(Pool *p, ServerSession *s) noexcept nogil:
    """Part a client from its server, which is not fit for others yet."""
    cdef ClientSession *c = s.client
    c.server = NULL
    s.client = NULL
    note_parted(c)
    set_client_state(c, CLIENT_IDLE)
    set_server_state(s, SERVER_TESTED)
    p.active_count -= 1
    p.tested_count += 1
    if s.requests.head != s.requests.tail:
        s.draining = True
        p.draining_count += 1


cdef void pool_keep(Pool *p, ServerSession *s, uint64_t now_us) noexcept nogil:
    """Break the link; the server is the last to be taken, but by its client.

    Taken are those at the head first, or in turn those at the tail.
    """
    cdef ClientSession *c = s.client
    c.server = NULL
    s.client = NULL
    c.kept = s
    s.kept_for = c
    set_client_state(c, CLIENT_IDLE)
    set_server_state(s, SERVER_IDLE)
    p.active_count -= 1
    if p.config.round_robin:
        pool_idle(p, s, now_us)
        return
    s.idle_since_us = now_us
    s.next = NULL
    s.prev = p.idle_tail
    if p.idle_tail != NULL:
        p.idle_tail.next = s
    else:
        p.idle_head = s
        p.cells.idle_since_us = now_us
    p.idle_tail = s
    p.idle_count += 1
    p.cells.idle = p.idle_count


cdef ServerSession *pool_other_for(
    const Pool *p, const ClientSession *c
) noexcept nogil:
    """The first one behind which others have not made up parameters; else the first."""
    cdef ServerSession *s = p.idle_head.next
    while s != NULL and not custom_fits(s, c):
        s = s.next
    return s if s != NULL else p.idle_head


cdef inline bint takes_anybody(
    const ServerSession *s, const ClientSession *c
) noexcept nogil:
    return s.kept_for == NULL and s.changes.left == 0 and custom_fits(s, c)


cdef ServerSession *pool_longest_for(
    const Pool *p, const ClientSession *c
) noexcept nogil:
    """``pool_first_for`` where servers are used in turn: that which was idle longest.

    But one that was just checked for who waits, or all of them would be, one by one.
    Cost: O(servers that are kept)
    """
    cdef ServerSession *s = p.idle_head
    if s == NULL or (s.checked and takes_anybody(s, c)):
        return s
    s = p.idle_tail
    while s != NULL and not takes_anybody(s, c):
        s = s.prev
    return s if s != NULL else p.idle_tail


cdef void pool_let_go(Pool *p, ServerSession *s) noexcept nogil:
    """Anybody may have a server that was kept; nothing is left in it."""
    pool_unlist_idle(p, s)
    pool_unkeep(s)
    pool_idle(p, s, s.idle_since_us)


cdef void pool_drained(Pool *p, ServerSession *s) noexcept nogil:
    """A server has ended its work for a client that has left."""
    if s.draining:
        s.draining = False
        p.draining_count -= 1


cdef void pool_test(Pool *p, ServerSession *s) noexcept nogil:
    """Take an idle server out of reach while it is checked."""
    pool_unlist_idle(p, s)
    pool_unkeep(s)
    set_server_state(s, SERVER_TESTED)
    p.tested_count += 1


cdef void pool_tested(
    Pool *p, ServerSession *s, bint checked, uint64_t now_us
) noexcept nogil:
    """A server is fit for the next client; ``checked``: it has just answered."""
    s.checked = checked
    p.tested_count -= 1
    set_server_state(s, SERVER_IDLE)
    pool_idle(p, s, now_us)


cdef void pool_wait(Pool *p, ClientSession *c, uint64_t now_us) noexcept nogil:
    """Put an idle client at the end of the queue."""
    set_client_state(c, CLIENT_WAITING)
    c.waiting_since_us = now_us
    c.next = NULL
    c.prev = p.waiting_tail
    if p.waiting_tail != NULL:
        p.waiting_tail.next = c
    else:
        p.waiting_head = c
        p.cells.waiting_since_us = now_us
    p.waiting_tail = c
    p.waiting_count += 1
    p.cells.waiting = p.waiting_count


cdef void pool_give_up(Pool *p, ClientSession *c) noexcept nogil:
    """Take a waiting client out of the queue without a server."""
    pool_unlist_waiting(p, c)
    note_parted(c)
    set_client_state(c, CLIENT_IDLE)


cdef uint32_t pool_servers_wanted(const Pool *p) noexcept nogil:
    """How many more servers should be opened for those who wait."""
    cdef uint32_t total = p.server_count + p.connecting_count
    cdef uint32_t room = p.max_servers - total if p.max_servers > total else 0
    cdef uint32_t coming = p.connecting_count + p.tested_count - p.draining_count
    cdef uint32_t unserved = (
        p.waiting_count - coming if p.waiting_count > coming else 0
    )
    if p.paused or p.refused:
        return 0
    return unserved if unserved < room else room


cdef void pool_add_server(
    Pool *p, ServerSession *s, uint64_t now_us
) noexcept nogil:
    """A server that has logged in becomes idle here."""
    s.pool = p
    set_server_state(s, SERVER_IDLE)
    p.server_count += 1
    pool_idle(p, s, now_us)


cdef void pool_remove_server(Pool *p, ServerSession *s) noexcept nogil:
    """A server goes away in whatever state; its client is left idle, not closed."""
    cdef ClientSession *c = s.client
    if s.state == SERVER_IDLE:
        pool_unlist_idle(p, s)
        pool_unkeep(s)
    elif s.state == SERVER_ACTIVE:
        p.active_count -= 1
        if c != NULL:
            c.server = NULL
            s.client = NULL
            note_parted(c)
            set_client_state(c, CLIENT_IDLE)
    elif s.state == SERVER_TESTED:
        pool_drained(p, s)
        p.tested_count -= 1
    else:
        return
    p.server_count -= 1
    set_server_state(s, SERVER_CLOSED)


cdef void pool_add_client(Pool *p, ClientSession *c) noexcept nogil:
    """A client that has logged in becomes idle here."""
    c.pool = p
    set_client_state(c, CLIENT_IDLE)
    p.client_count += 1
    count_login(p)


cdef void pool_remove_client(Pool *p, ClientSession *c) noexcept nogil:
    """A client goes away; the caller has dealt with its server."""
    if c.state == CLIENT_WAITING:
        pool_give_up(p, c)
    set_client_state(c, CLIENT_CLOSED)
    p.client_count -= 1
