# SPDX-License-Identifier: MIT
"""Counts are lengths, links have two sides, references are counted."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from pooler.session.changes cimport meaning_is_unsure
from pooler.session.records cimport (
    CLIENT_IDLE, CLIENT_WAITING, COPY_IN_OPEN, ClientSession, Pool, Portal,
    SERVER_ACTIVE, SERVER_IDLE, SERVER_TESTED, ServerSession,
)
from pooler.session.requests cimport (
    REQUEST_ALIGN, REQUEST_DESCRIBE, REQUEST_SKIP, request_closes, request_has_effect,
    requests_at, requests_may_skip,
)
from pooler.tables.client_names cimport (
    ABSORB_DROP, ABSORB_KEEP, ABSORB_TEE, ABSORB_WAITS, ClientStatement,
    ClientStatements,
)
from pooler.tables.effect_queue cimport (
    EFFECT_ADDS_NAME, EFFECT_DESCRIBES, EFFECT_DROPS_NAME, EFFECT_DUPLICATE,
    EFFECT_FORGETS, Effect, effects_at,
)
from pooler.tables.query_names cimport QueryNames, STEP_ADDS, STEP_FORGETS
from pooler.tables.server_statements cimport ServerStatement, ServerStatements
from pooler.tables.texts cimport Statement
from tests.fuzz._checks cimport between_messages, check
from tests.fuzz._world cimport CLIENTS, SERVERS, World, relay

cdef enum:
    # A server may have more than the relay would give it: statements that were to
    # make room in requests that PostgreSQL has skipped.
    SURPLUS = 256


# ---------------------------------------------------------------------- the pool

cdef void check_kept(const ServerSession *s) noexcept nogil:
    """An idle server in which something is left is kept for who has left it."""
    cdef const ClientSession *c = s.kept_for
    check(
        c == NULL or (
            c.kept == s and c.server == NULL and s.changes.left != 0
            and (c.state == CLIENT_IDLE or c.state == CLIENT_WAITING)
        ),
        "kept for a client that does not know, or of which nothing is left",
    )
    check(s.changes.left == 0 or c != NULL, "left in an idle server, but by nobody")
    check(s.changes.pending | s.changes.xact == 0, "an idle server is being changed")
    check(
        s.next == NULL or s.next.changes.left != 0 or s.changes.left == 0,
        "a clean server stands behind a changed one",
    )


cdef void check_left(World *w, int i) noexcept nogil:
    """A client sees nothing that another has left in its server."""
    cdef const ServerSession *s = w.servers[i]
    if s.changes.left == 0:
        w.left_by[i] = 0
    elif s.client != NULL:
        check(
            w.left_by[i] == w.numbers[<size_t> s.client.io],
            "a client has got a server in which another has left something",
        )
    check(s.client == NULL or s.kept_for == NULL, "attached, and kept")


cdef void check_waits(const Pool *p) noexcept nogil:
    """Nobody waits for ever while there is an idle server."""
    check(
        p.waiting_head == NULL or p.idle_head == NULL or p.paused
        or p.tested_count != 0 or p.connecting_count != 0 or p.launch_wanted,
        "a client waits beside an idle server",
    )


cdef void check_pool(World *w) noexcept nogil:
    cdef uint32_t idle = 0
    cdef uint32_t waiting = 0
    cdef uint32_t active = 0
    cdef uint32_t tested = 0
    cdef ServerSession *s = w.pool.idle_head
    cdef ClientSession *c = w.pool.waiting_head
    cdef int i
    cdef bint asked = w.pool.inquiry.server == NULL
    while s != NULL:
        check_kept(s)
        check(s.state == SERVER_IDLE and s.client == NULL, "idle, but with a client")
        check(
            s.requests.head == s.requests.tail and s.xact_status == c"I",
            "an idle server owes something",
        )
        check(
            between_messages(&w.server_frames[<size_t> s.io]),
            "an idle server has got half a message",
        )
        idle += 1
        s = s.next
    while c != NULL:
        check(c.state == CLIENT_WAITING and c.server == NULL, "waits with a server")
        waiting += 1
        c = c.next
    for i in range(CLIENTS):
        c = w.clients[i]
        check(
            c == NULL or c.kept == NULL or c.kept.kept_for == c,
            "something is kept for a client, but no server says so",
        )
        check(
            c == NULL or c.server != NULL or between_messages(&w.client_frames[i]),
            "a client without a server has got half a message",
        )
    for i in range(SERVERS):
        s = w.servers[i]
        if s != NULL:
            check_left(w, i)
            check((s.state == SERVER_ACTIVE) == (s.client != NULL), "active, no client")
            check(s.client == NULL or s.client.server == s, "a link of one side")
            active += s.state == SERVER_ACTIVE
            tested += s.state == SERVER_TESTED
            if s == w.pool.inquiry.server:
                asked = s.state == SERVER_TESTED and s.requests.head != s.requests.tail
    check_waits(w.pool)
    check(asked, "a server is asked that is not there, or owes no answer")
    check(idle == w.pool.idle_count, "idle_count")
    check(waiting == w.pool.waiting_count, "waiting_count")
    check(active == w.pool.active_count, "active_count")
    check(tested == w.pool.tested_count, "tested_count")


# ---------------------------------------------------------------------- statements

cdef void check_requests(ServerSession *s) noexcept nogil:
    """Each request that may have an effect has one; those that close are counted."""
    cdef uint32_t effects = 0
    cdef uint32_t closing = 0
    cdef uint32_t k
    cdef uint8_t request
    for k in range(s.requests.head, s.requests.tail):
        request = requests_at(&s.requests, k)[0]
        effects += request_has_effect(request)
        closing += request_closes(request) and request != REQUEST_ALIGN
    check(closing == s.requests.closing_count, "closing_count")
    check(
        s.effects.tail - s.effects.head == (effects if s.tracking.on else 0),
        "requests and effects differ in number",
    )


cdef void check_server(World *w, ServerSession *s) noexcept nogil:
    cdef ServerStatements *has = &s.statements
    cdef ServerStatement *entry = has.oldest
    cdef ServerStatement *newest = NULL
    cdef uint32_t listed = 0
    cdef uint32_t sure = 0
    cdef uint32_t found = 0
    cdef uint32_t i
    while entry != NULL:
        check(entry.older == newest, "a server's list is of one direction")
        newest = entry
        listed += 1
        check(
            entry.epoch == 0 or entry.epoch <= has.epoch + 1, "of an epoch to come"
        )
        check(
            entry.epoch != has.epoch + 1 or entry.generation != has.generation
            or meaning_is_unsure(s),
            "read under settings that nobody knew, but taken for known",
        )
        sure += (
            entry.generation == has.generation and entry.target_batch == 0
            and (entry.named_in == 0 or entry.named_in != has.readings)
        )
        entry = entry.newer
    check(newest == has.newest, "a server's list has another end")
    if has.buckets != NULL:
        for i in range(has.mask + 1):
            entry = has.buckets[i]
            while entry != NULL:
                check(entry.statement.hash & has.mask == i, "in another bucket")
                found += not entry.closing
                entry = entry.next
    check(listed == has.count and found == has.count, "a server's count")
    check(s.tracking.on or has.count == 0, "an untracked server has statements")
    # Not counted: what SQL in a bound portal names, which is kept until it has run;
    # what the last Query that names statements has named; and one more: SQL that names
    # another statement.
    check(
        sure <= w.pool.config.max_prepared_statements + s.tracking.on,
        "more statements than are allowed",
    )
    check(
        has.count <= w.pool.config.max_prepared_statements + SURPLUS,
        "too many statements",
    )


cdef bint has_step(const QueryNames *q, const ClientStatement *name) noexcept nogil:
    """Whether a command that is still to be carried out makes or drops this name."""
    cdef const ClientStatement *other
    cdef uint32_t i
    for i in range(q.settled, q.step_n):
        other = q.steps[i].entry
        while other != NULL:
            if other == name:
                return True
            other = other.next if q.steps[i].kind == STEP_FORGETS else NULL
    return False


cdef bint is_pending(ServerSession *s, const ClientStatement *name) noexcept nogil:
    """Whether the answer to the Parse of this name is really to come."""
    cdef uint32_t k
    cdef Effect *effect
    if s != NULL:
        for k in range(s.effects.head, s.effects.tail):
            effect = effects_at(&s.effects, k)
            if effect.flags & EFFECT_ADDS_NAME and effect.entry == name:
                return True
            if effect.query != NULL and has_step(effect.query, name):
                return True
    return False


cdef bint is_name(
    ClientSession *c, ServerSession *s, const ClientStatement *name
) noexcept nogil:
    """Whether a name is still one: the client's, or one that is being dropped."""
    cdef ClientStatement *other
    cdef uint32_t k
    for k in range(c.statements.mask + 1 if c.statements != NULL else 0):
        other = c.statements.buckets[k]
        while other != NULL:
            if other == name:
                return True
            other = other.next
    for k in range(s.effects.head, s.effects.tail):
        if effects_at(&s.effects, k).flags & EFFECT_DROPS_NAME and (
            effects_at(&s.effects, k).entry == name
        ):
            return True
        if effects_at(&s.effects, k).flags & EFFECT_FORGETS:
            other = effects_at(&s.effects, k).entry
            while other != NULL and other != name:
                other = other.next
            if other != NULL:
                return True
        if effects_at(&s.effects, k).query != NULL and (
            has_step(effects_at(&s.effects, k).query, name)
        ):
            return True
    return False


cdef void check_borrowed(ServerSession *s) noexcept nogil:
    """Nothing points to a name that is gone."""
    cdef Effect *effect
    cdef uint32_t k
    if s.client == NULL:
        return
    for k in range(s.effects.head, s.effects.tail):
        effect = effects_at(&s.effects, k)
        if effect.flags & (EFFECT_ADDS_NAME | EFFECT_DESCRIBES) and (
            effect.entry != NULL
        ):
            check(is_name(s.client, s, effect.entry), "an effect, but the name is gone")
    check(
        s.batch.bound == NULL or is_name(s.client, s, s.batch.bound),
        "bound, but the name is gone",
    )


cdef bint is_awaited(ServerSession *s) noexcept nogil:
    """Whether an answer is to come that lets a client go on that settles."""
    cdef uint32_t k
    if s == NULL or s.copy.state == COPY_IN_OPEN:
        return False
    for k in range(s.requests.head, s.requests.tail):
        if requests_at(&s.requests, k)[0] == (REQUEST_DESCRIBE | REQUEST_SKIP):
            return True
    # by ReadyForQuery, or when all is answered that a Flush of ours has asked for
    return s.requests.closing_count != 0 or requests_may_skip(&s.requests)


cdef void check_client(ClientSession *c) noexcept nogil:
    cdef ClientStatements *names = c.statements
    cdef ClientStatement *name
    cdef uint32_t count = 0
    cdef uint64_t size = 0
    cdef uint32_t i
    check(
        not c.settling or is_awaited(c.server),
        "held back, but no answer will let it go on",
    )
    if names == NULL:
        return
    for i in range(names.mask + 1):
        name = names.buckets[i]
        while name != NULL:
            check(name.hash & names.mask == i, "a name in another bucket")
            check(not name.pending or is_pending(c.server, name), "pends for ever")
            count += 1
            size += name.statement.n
            name = name.next
    check(count == names.count and size == names.bytes, "a client's count of names")
    check(
        (names.absorbing == ABSORB_KEEP or names.absorbing == ABSORB_WAITS)
        == (names.part != NULL),
        "a part is left",
    )
    check((names.absorbing == ABSORB_TEE) == (names.draft != NULL), "a draft is left")
    if names.absorbing == ABSORB_KEEP or names.absorbing == ABSORB_TEE:
        check(c.server != NULL, "a message is kept for no server")
        check(
            names.part_n - names.part_have == c.scan.body_left,
            "another part of a message is kept than was read",
        )
    elif names.absorbing == ABSORB_DROP:
        check(c.scan.body_left != 0, "dropping, but the message is over")


# ---------------------------------------------------------------------- references

cdef inline void count_one(Statement *st, bint take) noexcept nogil:
    if st != NULL:
        if take:
            check(st.refs != 0, "a statement has more users than references")
            st.refs -= 1
        else:
            st.refs += 1


cdef void count_client(ClientSession *c, bint take) noexcept nogil:
    cdef ClientStatements *names = c.statements
    cdef ClientStatement *name
    cdef uint32_t i
    if names == NULL:
        return
    count_one(names.unnamed, take)
    for i in range(names.mask + 1):
        name = names.buckets[i]
        while name != NULL:
            count_one(name.statement, take)
            name = name.next


cdef void count_steps(const QueryNames *q, bint take) noexcept nogil:
    cdef const ClientStatement *name
    cdef uint32_t i
    for i in range(q.settled, q.step_n):
        count_one(q.steps[i].statement, take)
        name = q.steps[i].entry
        while name != NULL and q.steps[i].kind != STEP_ADDS:
            count_one(name.statement, take)
            name = name.next if q.steps[i].kind == STEP_FORGETS else NULL


cdef void count_server(ServerSession *s, bint take) noexcept nogil:
    cdef ServerStatement *entry
    cdef Effect *effect
    cdef Portal *portal = s.portals
    cdef const ClientStatement *name
    cdef uint32_t k
    count_one(s.replay.statement, take)
    while portal != NULL:
        count_one(portal.statement, take)
        portal = portal.next
    for k in range(s.statements.mask + 1):
        entry = s.statements.buckets[k] if s.statements.buckets != NULL else NULL
        while entry != NULL:
            count_one(entry.statement, take)
            entry = entry.next
    for k in range(s.effects.head, s.effects.tail):
        effect = effects_at(&s.effects, k)
        count_one(effect.installed, take)
        count_one(effect.removed, take)
        count_one(effect.unnamed_before, take)
        if effect.called != NULL:
            count_one(effect.called.statement, take)
        if effect.flags & (EFFECT_DROPS_NAME | EFFECT_DUPLICATE):
            count_one(effect.entry.statement, take)
        name = effect.entry if effect.flags & EFFECT_FORGETS else NULL
        while name != NULL:
            count_one(name.statement, take)
            name = name.next
        if effect.query != NULL:
            count_steps(effect.query, take)


cdef void count_references(World *w, bint take) noexcept nogil:
    cdef Statement *st
    cdef uint32_t i
    for i in range(CLIENTS):
        if w.clients[i] != NULL:
            count_client(w.clients[i], take)
    for i in range(SERVERS):
        if w.servers[i] != NULL:
            count_server(w.servers[i], take)
    for i in range(relay.statements.mask + 1):
        st = relay.statements.buckets[i]
        while st != NULL:
            count_one(st.target, take)
            st = st.next


cdef void check_references(World *w) noexcept nogil:
    """Every reference to a statement is somebody's, and every text is counted."""
    cdef ClientStatements *names
    cdef Statement *st
    cdef uint32_t i
    cdef uint32_t count = 0
    cdef uint64_t size = 0
    count_references(w, True)
    for i in range(relay.statements.mask + 1):
        st = relay.statements.buckets[i]
        while st != NULL:
            check(st.refs == 0, "a reference to a statement is nobody's")
            count += 1
            size += sizeof(Statement) + st.n
            st = st.next
    count_references(w, False)
    for i in range(CLIENTS):
        if w.clients[i] != NULL:
            names = w.clients[i].statements
            if names != NULL and names.part != NULL:
                size += names.part_n
            if names != NULL and names.draft != NULL:
                size += sizeof(Statement) + names.part_n
    check(count == relay.statements.count, "the count of statements")
    check(size == relay.statements.bytes, "the bytes of statements")


cdef void check_world(World *w) noexcept nogil:
    cdef int i
    check_pool(w)
    for i in range(SERVERS):
        if w.servers[i] != NULL:
            check_requests(w.servers[i])
            check_server(w, w.servers[i])
            check_borrowed(w.servers[i])
    for i in range(CLIENTS):
        if w.clients[i] != NULL:
            check_client(w.clients[i])
    check_references(w)


cdef void check_empty() noexcept nogil:
    """Nobody is left, so nothing may be."""
    check(relay.statements.count == 0, "a statement is left")
    check(relay.statements.bytes == 0, "bytes of statements are left")
    check(relay.params.value_count == 0, "a parameter value is left")
    check(relay.params.set_count == 1, "a parameter set is left")
