# SPDX-License-Identifier: MIT
"""Servers that move; see ``moves.pxd``."""

from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy, memset

from pooler.relay.align cimport server_params_end, server_params_go_on
from pooler.relay.clean cimport clean_moved
from pooler.relay.moved_names cimport (
    install_names, moved_names_bytes, put_names, take_names,
)
from pooler.relay.record cimport Reader, take, take_byte, take_long
from pooler.relay.wakes cimport wake_pool, want_servers
from pooler.session.custom cimport custom_put
from pooler.session.deadlines cimport timer_end
from pooler.session.pool cimport pool_add_server, pool_remove_server
from pooler.session.time_limits cimport server_times_begin
from pooler.session.records cimport server_goes_on
from pooler.session.requests cimport requests_free
from pooler.session.sequences cimport sequences_of_strangers, sequences_used
from pooler.session.tracking cimport tracking_begin, tracking_goes_on
from pooler.statements.effects cimport session_statements_free
from pooler.tables.custom_names cimport (
    CUSTOM_MAX, CUSTOM_NAME_MAX, CustomNames, custom_found, custom_take,
)
from pooler.tables.params cimport (
    PARAM_VALUE_MAX, ParamTable, ParamValue, params_empty, params_unref, params_with,
)
from pooler.wire.buffers cimport queue_add, queue_size

cdef enum:
    VERSION = 2
    NOT_KNOWN = 0xFFFF  # instead of a length: there is no value
    RECORD_MAX_BYTES = 16384  # more does not travel; it is some hundred as a rule
    # With its statements, as hex in one message of the bus: five hundred of them. Who
    # has more forgets them all.
    RECORD_AND_NAMES_MAX_BYTES = 30720

cdef enum Mark:  # or-ed
    MARK_TRACKED = 1  # names of prepared statements are the pooler's
    MARK_UNNAMED = 2  # it may have an unnamed statement
    MARK_STATEMENTS = 4  # it has statements that are not written down
    MARK_SEQUENCES = 8  # it remembers values of sequences
    MARKS_ALL = 15


# ---------------------------------------------------------------- writing

cdef int put_text(Queue *into, const uint8_t *text, size_t n) noexcept nogil:
    """One byte of length, and the text."""
    cdef uint8_t length = <uint8_t> n
    if queue_add(into, &length, 1) < 0:
        return -1
    return queue_add(into, text, n)


cdef int put_value(Queue *into, const ParamValue *v) noexcept nogil:
    cdef uint16_t n = NOT_KNOWN if v == NULL else <uint16_t> v.n
    if queue_add(into, <const uint8_t *> &n, sizeof(n)) < 0:
        return -1
    return 0 if v == NULL else queue_add(into, v.text, v.n)


cdef int put_parameters(Relay *r, const ServerSession *s, Queue *into) noexcept nogil:
    cdef ParamTable *t = &r.params
    cdef uint8_t count = <uint8_t> t.count
    cdef int i
    if queue_add(into, &count, 1) < 0:
        return -1
    for i in range(t.count):
        if (
            put_text(into, <const uint8_t *> t.name[i], t.name_n[i]) < 0
            or put_value(into, s.defaults.value[i]) < 0
            or put_value(into, s.params.value[i]) < 0
        ):
            return -1
    return 0


cdef int put_custom(Relay *r, const ServerSession *s, Queue *into) noexcept nogil:
    cdef CustomNames *t = r.params.custom
    cdef uint8_t count = 0
    cdef uint32_t i
    for i in range(t.count):
        count += s.custom.made >> i & 1
    if queue_add(into, &count, 1) < 0:
        return -1
    for i in range(t.count):
        if s.custom.made >> i & 1 and put_text(
            into, <const uint8_t *> t.name[i], t.name_n[i]
        ) < 0:
            return -1
    return 0


cdef int freeze(Relay *r, const ServerSession *s, Queue *into) noexcept nogil:
    """Write down a server that may move.

    Out:     bytes behind what ``into`` holds, which is nothing
    Errors:  -1 without memory, or when it would be more than travels
    Cost:    O(tracked parameters), O(statements)
    """
    cdef uint8_t head[2]
    cdef bint too_many
    head[0] = VERSION
    head[1] = 0
    if s.tracking.on:
        head[1] |= MARK_TRACKED
    if s.tracking.unnamed_maybe:
        head[1] |= MARK_UNNAMED
    if sequences_used(s):
        head[1] |= MARK_SEQUENCES
    if (
        queue_add(into, head, sizeof(head)) < 0
        or queue_add(into, <const uint8_t *> &s.opened_us, sizeof(uint64_t)) < 0
        or queue_add(into, <const uint8_t *> &s.idle_since_us, sizeof(uint64_t)) < 0
        or put_parameters(r, s, into) < 0
        or put_custom(r, s, into) < 0
        or queue_size(into) > RECORD_MAX_BYTES
    ):
        return -1
    too_many = (
        queue_size(into) + moved_names_bytes(&r.statements, s)
        > RECORD_AND_NAMES_MAX_BYTES
    )
    if too_many:
        into.data[into.start + 1] |= MARK_STATEMENTS
    return put_names(&r.statements, s, too_many, into)


# ---------------------------------------------------------------- reading

cdef uint64_t take_time(Reader *from_, uint64_t now_us) noexcept nogil:
    """A time that is over."""
    cdef uint64_t time_us = take_long(from_)
    if time_us == 0 or time_us > now_us:
        from_.bad = True
    return time_us


cdef void take_value(
    Reader *from_, ParamTable *t, int index, ParamSet **values
) noexcept nogil:
    """Put a value into a set, which is replaced by another one."""
    cdef uint16_t n = 0
    cdef const uint8_t *at = take(from_, sizeof(n))
    cdef ParamSet *more
    if at != NULL:
        memcpy(&n, at, sizeof(n))
    if at == NULL or n == NOT_KNOWN:
        return
    at = take(from_, n)
    if at == NULL or n > PARAM_VALUE_MAX or (n and memchr(at, 0, n) != NULL):
        from_.bad = True
        return
    more = params_with(t, values[0], index, at, n)
    params_unref(t, values[0])
    values[0] = more
    from_.bad = more == NULL


cdef void take_parameters(Reader *from_, Relay *r, Thawed *t) noexcept nogil:
    """The same ones in the same order, or somebody follows others than we."""
    cdef ParamTable *table = &r.params
    cdef const uint8_t *name
    cdef uint8_t n
    cdef int i
    t.defaults = params_empty(table)
    t.params = params_empty(table)
    if t.defaults == NULL or t.params == NULL or take_byte(from_) != table.count:
        from_.bad = True
    for i in range(table.count):
        n = take_byte(from_)
        name = take(from_, n)
        if name == NULL or n != table.name_n[i] or memcmp(table.name[i], name, n):
            from_.bad = True
            return
        take_value(from_, table, i, &t.defaults)
        if not from_.bad:
            take_value(from_, table, i, &t.params)


cdef void take_custom(Reader *from_, Relay *r, Thawed *t) noexcept nogil:
    """Their bits here; a name for which there is none makes it bad."""
    cdef CustomNames *names = r.params.custom
    cdef uint8_t count = take_byte(from_)
    cdef const uint8_t *name
    cdef uint8_t n
    cdef int _i
    if count > CUSTOM_MAX:
        from_.bad = True
        return
    custom_take(names)
    for _i in range(count):
        n = take_byte(from_)
        name = take(from_, n)
        if name == NULL or n == 0 or n > CUSTOM_NAME_MAX or (
            not custom_found(names, name, n)
        ):
            from_.bad = True
            break
    t.custom = custom_take(names)


cdef int thaw(Relay *r, const uint8_t *src, size_t n, Thawed *t) noexcept nogil:
    """Read a record, every length and number of it being doubted.

    In:      src[0:n) borrowed, until ``t`` is freed
    Out:     ``t``; the caller frees it (``thawed_free``)
    Errors:  -1: it cannot be used here, and ``t`` is empty
    Cost:    O(n)
    """
    cdef Reader from_
    from_.src = src
    from_.n = n
    from_.bad = False
    memset(t, 0, sizeof(Thawed))
    if take_byte(&from_) != VERSION:
        return -1
    t.marks = take_byte(&from_)
    t.opened_us = take_time(&from_, r.now_us)
    t.idle_since_us = take_time(&from_, r.now_us)
    if t.marks & ~MARKS_ALL or from_.bad:
        return -1
    take_parameters(&from_, r, t)
    if not from_.bad:
        take_custom(&from_, r, t)
    take_names(&from_, &t.names)
    if from_.bad or from_.n or (
        t.names.count and t.marks & MARK_TRACKED == 0
    ):
        thawed_free(r, t)
        return -1
    return 0


cdef void thawed_free(Relay *r, Thawed *t) noexcept nogil:
    """Idempotent."""
    params_unref(&r.params, t.defaults)
    params_unref(&r.params, t.params)
    memset(t, 0, sizeof(Thawed))


# ---------------------------------------------------------------- leaving, joining

cdef bint pool_accepts(const Relay *r, const Pool *p, const Thawed *t) noexcept nogil:
    """Whether such a server would be here if it had been opened here."""
    return (
        not p.config.dedicated and not p.paused
        and p.server_count + p.connecting_count < p.max_servers
        and t.opened_us >= p.replaced_us
        and (t.marks & MARK_TRACKED != 0) == (p.config.max_prepared_statements != 0)
    )


cdef void leave_pool(Relay *r, ServerSession *s) noexcept nogil:
    """A server that may move is nobody's here any more; its connection is left alone.

    Who waits may have another one opened.
    """
    cdef Pool *p = s.pool
    if r.pending.settle == s:
        r.pending.settle = NULL
    session_statements_free(&r.statements, s)
    pool_remove_server(p, s)
    timer_end(&s.timer)
    requests_free(&s.requests)
    server_params_end(r, s)
    if p.waiting_head != NULL:
        want_servers(r, p)


cdef void join_pool(Relay *r, ServerSession *s, Pool *p, Thawed *t) noexcept nogil:
    """A server of another worker serves a pool that accepts it; takes ``t`` over."""
    cdef bint stray = t.marks & MARK_STATEMENTS != 0
    server_goes_on(s, t.opened_us)
    server_params_go_on(s, t.defaults, t.params)
    t.defaults = t.params = NULL
    custom_put(s, t.custom)
    sequences_of_strangers(s, t.marks & MARK_SEQUENCES != 0)
    tracking_begin(s, t.marks & MARK_TRACKED != 0)
    if install_names(&r.statements, s, &t.names) < 0:
        stray = True
    tracking_goes_on(s, t.marks & MARK_UNNAMED != 0, stray)
    pool_add_server(p, s, t.idle_since_us)
    server_times_begin(s)
    if s.tracking.stray:
        clean_moved(r, s)
    else:
        wake_pool(r, p)
