# SPDX-License-Identifier: MIT
"""What a server is sent to have its client's statements; see ``install.pxd``."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, strlen

from pooler.wire.buffers cimport QUEUE_MAX_BYTES, Output, output_add, output_room
from pooler.statements.effects cimport push_with_effect
from pooler.session.records cimport (
    CHANGE_MEANING, CHANGE_TRACKED, server_has, server_knows,
)
from pooler.session.requests cimport (
    REQUEST_DESCRIBE, REQUEST_SKIP, REQUEST_SQL, batch_number, request_closes,
    requests_at, requests_push,
)
from pooler.tables.client_names cimport ClientStatement, ClientStatements
from pooler.tables.effect_queue cimport EFFECT_DESCRIBES, EFFECT_STANDS_IN, Effect
from pooler.tables.server_statements cimport (
    ServerStatement, server_statement_add, server_statement_closing,
    server_statement_find, server_statement_named, server_statement_use,
)
from pooler.tables.texts cimport (
    SERVER_NAME_BYTES, STATEMENT_SQL, Statement, TARGET_EXECUTED, TARGET_MISSING,
    next_parse, parses_of_today, schema_count, statement_ref,
)
from pooler._wire cimport HEADER_BYTES, put_cstring, put_header
from pooler.session.batch cimport batch_open
from pooler.tables.params cimport (
    ParamSet, local_set_bytes, params_differ, put_local_set,
)
from pooler.session.counters cimport count_eviction, count_server_parse
from pooler.session.tracking cimport prepare_sent

cdef const char *SYNC = b"S\0\0\0\4"
cdef const char *FLUSH = b"H\0\0\0\4"
cdef const char *PREPARE_WORD = b"PREPARE "
cdef const char *SCRATCH_SUFFIX = b"scratch"
cdef const char *TAKEN_SUFFIX = b"0"  # statements are counted from 1


cdef inline uint32_t most_statements(const ServerSession *s) noexcept nogil:
    cdef uint32_t most = s.pool.config.max_prepared_statements
    return most if most else 1


cdef int put_named(
    Output *out, uint8_t code, const uint8_t *before, size_t before_n,
    const char *name, size_t name_n, size_t rest_n,
) noexcept nogil:
    """Header, some bytes, a name; ``rest_n`` more bytes of the message follow."""
    cdef uint8_t *room = output_room(out, HEADER_BYTES + before_n + name_n + 1)
    if room == NULL:
        return -1
    room += put_header(
        room, code, <uint32_t> (4 + before_n + name_n + 1 + rest_n)
    )
    if before_n:
        memcpy(room, before, before_n)
    put_cstring(room + before_n, name, name_n)
    return 0


cdef int put_close(
    Output *out, uint8_t kind, const char *name, size_t n
) noexcept nogil:
    return put_named(out, c"C", &kind, 1, name, n, 0)


cdef int put_sync(ServerSession *s, Output *out) noexcept nogil:
    output_add(out, <const uint8_t *> SYNC, HEADER_BYTES)
    return requests_push(&s.requests, c"S" | REQUEST_SKIP)


cdef size_t own_name(
    const StatementTable *t, const char *suffix, char *name
) noexcept nogil:
    """A name on servers that no statement has; OWN_NAME_BYTES are enough."""
    cdef size_t n = strlen(suffix)
    memcpy(name, t.forms.prefix, t.forms.prefix_n)
    memcpy(name + t.forms.prefix_n, suffix, n + 1)
    return t.forms.prefix_n + n


cdef int drop(
    StatementTable *t, ServerSession *s, Output *out, ServerStatement *entry
) noexcept nogil:
    """Have the server drop a statement, whether it is there or not."""
    cdef Statement *st = entry.statement
    cdef Effect *effect = push_with_effect(s, c"C" | REQUEST_SKIP)
    if effect == NULL or put_close(out, c"S", st.name, st.name_n) < 0:
        return -1
    effect.removed = statement_ref(st)
    server_statement_closing(&s.statements, entry)
    return 0


cdef int make_room(
    StatementTable *t, ServerSession *s, Output *out, Statement *st
) noexcept nogil:
    """Room on the server for one more statement, which must not be there before.

    In stream order, so no message that was sent earlier can miss what is dropped. A
    statement that names another one needs a place beside that one.
    """
    cdef ServerStatement *entry = server_statement_find(&s.statements, st)
    cdef ServerStatement *newer
    if entry != NULL and drop(t, s, out, entry) < 0:
        return -1
    entry = s.statements.oldest
    while (
        entry != NULL
        and s.statements.count >= most_statements(s) + (st.target != NULL)
    ):
        newer = entry.newer
        # SQL that was bound and is still to be run, and the Query that is being read,
        # need what they name
        if entry.target_batch != batch_number(&s.requests) and (
            not server_statement_named(&s.statements, entry)
        ):
            count_eviction(s.pool)
            if drop(t, s, out, entry) < 0:
                return -1
        entry = newer
    return 0


cdef uint32_t name_stands_for(
    const ServerSession *s, const Statement *st
) noexcept nogil:
    """The id of what the server has by this statement's name; 0: nothing."""
    cdef const ServerStatement *there = server_statement_find(&s.statements, st)
    if there == NULL or there.closing:
        return 0
    if not server_knows(s, there):
        return NOBODY_KNOWS
    return there.instead if there.instead != 0 else st.id


cdef ServerStatement *note_installed(
    StatementTable *t, ServerSession *s, Statement *st
) noexcept nogil:
    """From the next request on the server has this statement; NULL without memory."""
    return note_in_place(t, s, st, st)


cdef ServerStatement *note_in_place(
    StatementTable *t, ServerSession *s, const Statement *st, Statement *place
) noexcept nogil:
    """From the next request on it has ``st`` by the name of ``place``."""
    cdef ServerStatement *entry = server_statement_add(&s.statements, place)
    if entry != NULL:
        if st != place:
            entry.instead = st.id
        if st.target != NULL:
            entry.named_then = name_stands_for(s, st.target)
        entry.batch = batch_number(&s.requests)
        entry.parsed_at = schema_count(t)
        parses_of_today(t)
        entry.parse_number = next_parse(t)
        if not st.is_private and (s.changes.xact | s.changes.left) & CHANGE_MEANING:
            entry.epoch = s.statements.epoch + 1
    return entry


cdef int put_parse(
    Output *out, const Statement *st, const char *name, size_t name_n
) noexcept nogil:
    if put_named(out, c"P", NULL, 0, name, name_n, st.n) < 0:
        return -1
    output_add(out, st.text, st.n)
    return 0 if not out.failed else -1


cdef int end_own_batch(ServerSession *s, Output *out) noexcept nogil:
    """Close the batch that messages of ours have opened, before a Query follows."""
    cdef uint8_t last
    if s.batch.open or s.requests.head == s.requests.tail:
        return 0
    last = requests_at(&s.requests, s.requests.tail - 1)[0]
    if request_closes(last):
        return 0
    return put_sync(s, out)


cdef inline void effect_installs(
    Effect *effect, const Statement *st, Statement *place
) noexcept nogil:
    """A request of ours gives the server ``st`` by the name of ``place``."""
    effect.installed = statement_ref(place)
    if st.kind == STATEMENT_SQL:
        effect.moved_from = <uint32_t> strlen(PREPARE_WORD)
    if st != place:
        effect.flags = EFFECT_STANDS_IN


cdef int put_prepare_query(
    ServerSession *s, Output *out, const Statement *st, Statement *place
) noexcept nogil:
    """Prepare a statement by SQL, as a Query of ours."""
    cdef size_t word = strlen(PREPARE_WORD)
    cdef size_t n = HEADER_BYTES + word + place.name_n + 2 + st.n
    cdef Effect *effect
    cdef uint8_t *room = output_room(out, n)
    effect = push_with_effect(s, REQUEST_SQL | REQUEST_SKIP)
    if room == NULL or effect == NULL:
        return -1
    room += put_header(room, c"Q", <uint32_t> (n - 1))
    memcpy(room, PREPARE_WORD, word)
    room += word
    room += put_quoted(room, place.name, place.name_n)
    memcpy(room, st.text, st.n)
    effect_installs(effect, st, place)
    prepare_sent(s)
    return 0


cdef int put_prepare_messages(
    StatementTable *t, ServerSession *s, Output *out, const Statement *st,
    Statement *place,
) noexcept nogil:
    """Prepare a statement by SQL inside a batch."""
    cdef size_t word = strlen(PREPARE_WORD)
    cdef uint8_t quoted[SERVER_NAME_BYTES + 2]
    cdef size_t quoted_n = put_quoted(quoted, place.name, place.name_n)
    cdef Effect *effect = put_scratch(t, s, out, word + quoted_n + st.n)
    if effect == NULL:
        return -1
    effect_installs(effect, st, place)
    prepare_sent(s)
    output_add(out, <const uint8_t *> PREPARE_WORD, word)
    output_add(out, quoted, quoted_n)
    output_add(out, st.text, st.n)
    return run_scratch(t, s, out)


cdef Effect *put_scratch(
    const StatementTable *t, ServerSession *s, Output *out, size_t text_n
) noexcept nogil:
    """Begin to run SQL of ours inside a batch: Parse, Bind, Execute, twice Close.

    ``text_n`` bytes of text follow, with their terminator; then ``run_scratch``. NULL
    without memory.
    """
    cdef char scratch[OWN_NAME_BYTES]
    cdef size_t scratch_n = own_name(t, SCRATCH_SUFFIX, scratch)
    cdef Effect *effect = push_with_effect(s, c"P" | REQUEST_SKIP)
    if effect == NULL or put_named(
        out, c"P", NULL, 0, scratch, scratch_n, text_n + 2
    ) < 0:
        return NULL
    return effect


cdef int run_scratch(
    const StatementTable *t, ServerSession *s, Output *out
) noexcept nogil:
    """The text is there: run it."""
    cdef char scratch[OWN_NAME_BYTES]
    cdef size_t scratch_n = own_name(t, SCRATCH_SUFFIX, scratch)
    cdef uint8_t zeros[6]
    zeros[:] = [0, 0, 0, 0, 0, 0]
    output_add(out, zeros, 2)
    if (
        requests_push(&s.requests, c"B" | REQUEST_SKIP) < 0
        or requests_push(&s.requests, c"E" | REQUEST_SKIP) < 0
        or push_with_effect(s, c"C" | REQUEST_SKIP) == NULL
        or push_with_effect(s, c"C" | REQUEST_SKIP) == NULL
        or put_named(
            out, c"B", <const uint8_t *> scratch, scratch_n + 1, scratch, scratch_n, 6
        ) < 0
    ):
        return -1
    output_add(out, zeros, 6)
    if put_named(out, c"E", NULL, 0, scratch, scratch_n, 4) < 0:
        return -1
    output_add(out, zeros, 4)
    if out.failed or put_close(out, c"P", scratch, scratch_n) < 0:
        return -1
    return put_close(out, c"S", scratch, scratch_n)


cdef bint depends_on_settings(const Statement *st) noexcept nogil:
    """Whether it may matter to a text under which settings it is read: literals."""
    cdef uint32_t i
    for i in range(st.n):
        if st.text[i] == c"'" or st.text[i] >= 0x80 or (
            st.text[i] == c"$" and not c"0" <= st.text[i + 1] <= c"9"
        ):
            return True
    return False


cdef inline const ParamSet *settings_of(const ServerSession *s) noexcept nogil:
    """What is set on a server where the next message is read; NULL: not known.

    Its client's values: a SET of these may be under way in front.
    """
    if s.changes.pending & CHANGE_TRACKED or s.client == NULL:
        return NULL
    return s.client.params


cdef int put_settings(
    StatementTable *t, ServerSession *s, Output *out, const Statement *st, bint back
) noexcept nogil:
    """Set what a statement's client had set when it parsed it, or take that back."""
    cdef const ParamSet *have = settings_of(s)
    cdef size_t most = local_set_bytes(t.params, st.context)
    cdef uint8_t *text = <uint8_t *> malloc(most)
    cdef size_t n
    if text == NULL:
        return -1
    n = put_local_set(text, t.params, st.context, have, back)
    if put_scratch(t, s, out, n) == NULL:
        free(text)
        return -1
    output_add(out, text, n)
    free(text)
    return run_scratch(t, s, out)


cdef int install(
    StatementTable *t, ServerSession *s, Output *out, Statement *st, bint for_query
) noexcept nogil:
    """Give the server a statement that it lacks, in front of what needs it."""
    return install_as(t, s, out, st, st, for_query)


cdef int install_as(
    StatementTable *t, ServerSession *s, Output *out, const Statement *st,
    Statement *place, bint for_query,
) noexcept nogil:
    """Give the server a statement by the name of another, whatever had that.

    It is read under the settings of its client's own Parse, whatever is set now.
    """
    if out.ours > QUEUE_MAX_BYTES:  # each Bind of a few bytes may ask for megabytes
        return -1
    out.ours += st.n
    if make_room(t, s, out, place) < 0:
        return -1
    if is_read_elsewhere(t, s, st):
        if (
            note_in_place(t, s, st, place) == NULL
            or put_settings(t, s, out, st, False) < 0
            or put_install(t, s, out, st, place, False) < 0
        ):
            return -1
        return put_settings(t, s, out, st, True)
    if for_query and st.kind == STATEMENT_SQL and end_own_batch(s, out) < 0:
        return -1
    if note_in_place(t, s, st, place) == NULL:
        return -1
    return put_install(t, s, out, st, place, for_query)


cdef inline bint is_read_elsewhere(
    const StatementTable *t, const ServerSession *s, const Statement *st
) noexcept nogil:
    """Whether what is set on the server is not what its client had set at its Parse."""
    return (
        not st.is_adrift
        and params_differ(t.params, st.context, settings_of(s))
        and depends_on_settings(st)
    )


cdef int put_install(
    StatementTable *t, ServerSession *s, Output *out, const Statement *st,
    Statement *place, bint for_query,
) noexcept nogil:
    cdef Effect *effect
    count_server_parse(s.pool)
    if st.kind == STATEMENT_SQL:
        if for_query:
            return put_prepare_query(s, out, st, place)
        return put_prepare_messages(t, s, out, st, place)
    effect = push_with_effect(s, c"P" | REQUEST_SKIP)
    if effect == NULL:
        return -1
    effect_installs(effect, st, place)
    return put_parse(out, st, place.name, place.name_n)


cdef int use_target(
    StatementTable *t, ServerSession *s, Output *out, const Statement *st,
    bint for_query,
) noexcept nogil:
    """Have the name that an EXECUTE looks up mean what it did at its client's Parse.

    PostgreSQL finds out then what columns a Describe of the statement tells. What the
    name means now is seen to by ``targets``; what others name, by ``run_names``.
    """
    cdef ServerStatement *entry = NULL
    if st.target != NULL:
        entry = server_statement_find(&s.statements, st.target)
    if st.target_use == TARGET_MISSING:
        if entry == NULL or entry.closing:
            return 0
        return drop(t, s, out, entry)
    if st.target_use != TARGET_EXECUTED:
        return 0
    if ensure(t, s, out, st.target, for_query) < 0:
        return -1
    entry = server_statement_find(&s.statements, st.target)
    if entry == NULL:
        return -1
    entry.target_batch = batch_number(&s.requests)
    return 0


cdef inline bint is_as_parsed(
    const ServerStatement *entry, const Statement *st
) noexcept nogil:
    """Whether the server knows of an EXECUTE the columns of its client's Parse."""
    if st.target_use == TARGET_EXECUTED:
        return entry.named_then == st.target.id
    return st.target_use != TARGET_MISSING or entry.named_then == 0


cdef int describe_first(
    StatementTable *t, ServerSession *s, Output *out, Statement *st
) noexcept nogil:
    """Have the server say what rows a statement returns, before it is bound."""
    cdef uint8_t kind = c"S"
    cdef Effect *effect = push_with_effect(s, REQUEST_DESCRIBE | REQUEST_SKIP)
    if effect == NULL or put_named(out, c"D", &kind, 1, st.name, st.name_n, 0) < 0:
        return -1
    effect.flags = EFFECT_DESCRIBES
    effect.installed = statement_ref(st)
    batch_open(s, True)
    output_add(out, <const uint8_t *> FLUSH, HEADER_BYTES)
    return 0 if not out.failed else -1


cdef int ensure(
    StatementTable *t, ServerSession *s, Output *out, Statement *st, bint for_query
) noexcept nogil:
    """The server has this statement when it comes to the next message."""
    return ensure_since(t, s, out, st, for_query, 0)


cdef int ensure_since(
    StatementTable *t, ServerSession *s, Output *out, Statement *st, bint for_query,
    uint64_t born,
) noexcept nogil:
    """As ``ensure``, for a name that was given when ``next_parse`` was ``born``.

    What the server parsed before that may have other types of parameters than
    PostgreSQL would have given this name, so it is parsed anew.
    """
    cdef ServerStatement *entry = server_statement_find(&s.statements, st)
    if server_has(s, entry) and entry.parse_number >= born and (
        is_as_parsed(entry, st)
    ):
        server_statement_use(&s.statements, entry)
        return 0
    if st.target != NULL and use_target(t, s, out, st, for_query) < 0:
        return -1
    return install(t, s, out, st, for_query)


cdef bint meaning_is_lost(
    ServerSession *s, const Statement *st, uint64_t born
) noexcept nogil:
    """Whether the server would have to read a text, and nobody knows under what.

    Its literals might become others, so its client is told to prepare it anew.
    """
    cdef ServerStatement *entry
    if not st.is_lost:
        return False
    entry = server_statement_find(&s.statements, st)
    return not (server_has(s, entry) and entry.parse_number >= born) and (
        depends_on_settings(st)
    )


cdef int taken_name(
    const StatementTable *t, ServerSession *s, Output *out, Statement *st, char *name
) noexcept nogil:
    """A name that the server surely finds taken, as the client's for ``st`` is.

    In:      name: room for OWN_NAME_BYTES
    Out:     out: what the server needs for it; the name's length, -1 without memory

    That of ``st`` where it is there. Elsewhere its text may be one that cannot be read
    any more, and what counts is the name alone: a statement without a command, which
    can be prepared in a failed transaction as well.
    """
    cdef ServerStatement *there = server_statement_find(&s.statements, st)
    if server_has(s, there):
        server_statement_use(&s.statements, there)
        memcpy(name, st.name, st.name_n + 1)
        return st.name_n
    return put_taken(t, s, out, name)


cdef int put_taken(
    const StatementTable *t, ServerSession *s, Output *out, char *name
) noexcept nogil:
    """As ``taken_name``, for no statement at all."""
    cdef size_t n = own_name(t, TAKEN_SUFFIX, name)
    if (
        push_with_effect(s, c"C" | REQUEST_SKIP) == NULL
        or put_close(out, c"S", name, n) < 0
        or push_with_effect(s, c"P" | REQUEST_SKIP) == NULL
        or put_named(out, c"P", NULL, 0, name, n, 3) < 0
    ):
        return -1
    output_add(out, <const uint8_t *> b"\0\0\0", 3)
    return <int> n if not out.failed else -1


cdef ClientStatement *only_name_of(
    const ClientStatements *names, const Statement *st
) noexcept nogil:
    """The client's name for a statement; NULL if it has none, or several."""
    cdef ClientStatement *found = NULL
    cdef ClientStatement *entry
    cdef uint32_t i
    if names == NULL:
        return NULL
    for i in range(names.mask + 1):
        entry = names.buckets[i]
        while entry != NULL:
            if entry.statement == st:
                if found != NULL:
                    return NULL
                found = entry
            entry = entry.next
    return found
