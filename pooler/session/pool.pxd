# SPDX-License-Identifier: MIT
"""A pool: idle servers (LIFO, or in turn), waiting clients (FIFO), attach and detach.

Session layer, sans-IO, hot. One pool is one (database, user) of one worker. Every
link, list and count of a pool changes here and nowhere else:

- a server has at most one client and a client at most one server;
- an idle server has no client, a waiting client has no server;
- clients are served in the order in which they began to wait;
- idle_count, active_count and waiting_count are the lengths of what they count;
- what other workers want to know of that stands in the pool's cells at once, by plain
  stores: who is idle and who waits.
"""

from libc.stdint cimport uint32_t, uint64_t

from pooler.board.latency cimport Histogram
from pooler.board.page cimport Cells
from pooler.session.records cimport (
    CLIENT_ACTIVE, CLIENT_IDLE, CLIENT_WAITING, ClientSession, Pool, PoolConfig,
    SERVER_ACTIVE, SERVER_IDLE, SERVER_TESTED, ServerSession, set_client_state,
    set_server_state,
)
from pooler.session.counters cimport count_assignment, note_parted
from pooler.session.custom cimport custom_fits


cdef inline void pool_unlist_idle(Pool *p, ServerSession *s) noexcept nogil:
    if s.prev != NULL:
        s.prev.next = s.next
    else:
        p.idle_head = s.next
    if s.next != NULL:
        s.next.prev = s.prev
    else:
        p.idle_tail = s.prev
        p.cells.idle_since_us = s.prev.idle_since_us if s.prev != NULL else 0
    s.next = s.prev = NULL
    p.idle_count -= 1
    p.cells.idle = p.idle_count


cdef inline void pool_unlist_waiting(Pool *p, ClientSession *c) noexcept nogil:
    if c.prev != NULL:
        c.prev.next = c.next
    else:
        p.waiting_head = c.next
        p.cells.waiting_since_us = c.next.waiting_since_us if c.next != NULL else 0
    if c.next != NULL:
        c.next.prev = c.prev
    else:
        p.waiting_tail = c.prev
    c.next = c.prev = NULL
    p.waiting_count -= 1
    p.cells.waiting = p.waiting_count


cdef inline void pool_unkeep(ServerSession *s) noexcept nogil:
    """A server is kept for nobody any more, whatever was left in it."""
    if s.kept_for != NULL:
        s.kept_for.kept = NULL
        s.kept_for = NULL


cdef inline void pool_attach(
    Pool *p, ClientSession *c, ServerSession *s, uint64_t now_us
) noexcept nogil:
    """Link an idle server and a client that is idle or waiting."""
    cdef uint64_t waited_us = 0
    if c.state == CLIENT_WAITING:
        pool_unlist_waiting(p, c)
        waited_us = now_us - c.waiting_since_us
    count_assignment(p, waited_us)
    pool_unlist_idle(p, s)
    pool_unkeep(s)
    s.checked = False
    set_client_state(c, CLIENT_ACTIVE)
    set_server_state(s, SERVER_ACTIVE)
    c.server = s
    s.client = c
    p.active_count += 1


cdef inline void pool_idle(
    Pool *p, ServerSession *s, uint64_t now_us
) noexcept nogil:
    """Put a server without a client at the front of the idle list."""
    s.idle_since_us = now_us
    s.next = p.idle_head
    s.prev = NULL
    if p.idle_head != NULL:
        p.idle_head.prev = s
    else:
        p.idle_tail = s
        p.cells.idle_since_us = now_us
    p.idle_head = s
    p.idle_count += 1
    p.cells.idle = p.idle_count


cdef inline void pool_detach(
    Pool *p, ServerSession *s, uint64_t now_us
) noexcept nogil:
    """Break the link: both sides become idle. The caller knows the server is free."""
    cdef ClientSession *c = s.client
    c.server = NULL
    s.client = NULL
    set_client_state(c, CLIENT_IDLE)
    set_server_state(s, SERVER_IDLE)
    p.active_count -= 1
    pool_idle(p, s, now_us)


cdef inline bint pool_is_empty(const Pool *p) noexcept nogil:
    """No client and no server is here, or on its way: nothing leads to it."""
    return (
        p.client_count == 0 and p.server_count == 0 and p.connecting_count == 0
        and not p.wake_listed
    )


cdef inline bint server_is_stale(
    const ServerSession *s, uint64_t now_us
) noexcept nogil:
    """An idle server has been so for too long to be trusted."""
    return (
        s.pool.config.check_query.n != 0 and not s.checked
        and now_us >= s.idle_since_us + s.pool.config.check_delay_us
    )


cdef inline bint server_fits(
    const ServerSession *s, const ClientSession *c, uint64_t now_us
) noexcept nogil:
    """Whether a client may have an idle server as it is."""
    return (
        s.kept_for == c
        or (s.kept_for == NULL and s.changes.left == 0 and custom_fits(s, c))
    ) and not server_is_stale(s, now_us)


cdef ServerSession *pool_other_for(
    const Pool *p, const ClientSession *c
) noexcept nogil


cdef ServerSession *pool_longest_for(
    const Pool *p, const ClientSession *c
) noexcept nogil


cdef inline ServerSession *pool_first_for(
    const Pool *p, const ClientSession *c
) noexcept nogil:
    """The idle server that a client would get, if it is fit; NULL: there is none."""
    if c.kept != NULL:
        return c.kept
    if p.config.round_robin:
        return pool_longest_for(p, c)
    if p.idle_head == NULL or custom_fits(p.idle_head, c):
        return p.idle_head
    return pool_other_for(p, c)


cdef inline ServerSession *pool_take(
    Pool *p, ClientSession *c, uint64_t now_us
) noexcept nogil:
    """Attach an idle server to a client; NULL when there is none or others wait.

    A client that does not wait yet never overtakes one that does. It has back the
    server in which it has left something.
    """
    cdef ServerSession *s = pool_first_for(p, c)
    if s == NULL or p.paused or not server_fits(s, c, now_us):
        return NULL
    if p.waiting_head != NULL and p.waiting_head != c:
        return NULL
    pool_attach(p, c, s, now_us)
    return s

cdef void pool_begin(Pool *p, uint32_t id, uint32_t max_servers) noexcept nogil
cdef void pool_share(
    Pool *p, Cells *cells, const Cells *rows, uint32_t row_count, Histogram *times
) noexcept nogil
cdef void pool_configure(Pool *p, const PoolConfig *config) noexcept nogil
cdef void pool_resize(Pool *p, uint32_t max_servers) noexcept nogil
cdef void pool_pause(Pool *p, bint closing) noexcept nogil
cdef void pool_resume(Pool *p) noexcept nogil
cdef void pool_replace(Pool *p, uint64_t now_us) noexcept nogil
cdef bint pool_ask_launch(Pool *p) noexcept nogil
cdef uint32_t pool_launch(Pool *p, uint32_t at_most) noexcept nogil
cdef bint pool_prelaunch(Pool *p) noexcept nogil
cdef void pool_refuse(Pool *p) noexcept nogil
cdef void pool_room(Pool *p) noexcept nogil
cdef void pool_connected(Pool *p) noexcept nogil
cdef void pool_free(Pool *p) noexcept nogil
cdef void pool_abandon(Pool *p, ServerSession *s) noexcept nogil
cdef void pool_keep(Pool *p, ServerSession *s, uint64_t now_us) noexcept nogil
cdef void pool_let_go(Pool *p, ServerSession *s) noexcept nogil
cdef void pool_drained(Pool *p, ServerSession *s) noexcept nogil
cdef void pool_test(Pool *p, ServerSession *s) noexcept nogil
cdef void pool_tested(
    Pool *p, ServerSession *s, bint checked, uint64_t now_us
) noexcept nogil
cdef void pool_wait(Pool *p, ClientSession *c, uint64_t now_us) noexcept nogil
cdef void pool_give_up(Pool *p, ClientSession *c) noexcept nogil
cdef uint32_t pool_servers_wanted(const Pool *p) noexcept nogil
cdef void pool_add_server(
    Pool *p, ServerSession *s, uint64_t now_us
) noexcept nogil
cdef void pool_remove_server(Pool *p, ServerSession *s) noexcept nogil
cdef void pool_add_client(Pool *p, ClientSession *c) noexcept nogil
cdef void pool_remove_client(Pool *p, ClientSession *c) noexcept nogil
