# SPDX-License-Identifier: MIT
"""Recording of a batch; see ``replay.pxd``."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memcpy, strcmp

from pooler.session.records cimport (
    REPLAY_ENDING, REPLAY_OFF, REPLAY_OPEN, REPLAY_WHOLE, Replay,
)
from pooler.session.requests cimport request_is_query, requests_first
from pooler.statements.server_names cimport (
    behind_prefix, is_name_byte, is_statements, name_bytes,
)
from pooler.statements.sql_text cimport sql_concerns
from pooler.tables.texts cimport (
    SERVER_NAME_BYTES, STATEMENT_PARSE, statement_ref, statement_unref,
)
from pooler._wire cimport error_is_fatal

cdef extern from "<string.h>" nogil:
    void *memmem(const void *text, size_t n, const void *part, size_t part_n)

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

cdef enum:
    FIRST_BYTES = 512
    FLUSH_BYTES = 5

cdef struct ErrorFields:  # of an ErrorResponse; all borrowed
    const char *state  # SQLSTATE, five characters; NULL: it has none
    const char *routine  # zero-terminated
    bint inside  # it has a context


# ---------------------------------------------------------------- recording

cdef void begin(
    StatementTable *t, ServerSession *s, const Output *out, Statement *st
) noexcept nogil:
    s.replay.n = 0
    s.replay.first = s.requests.tail
    s.replay.output_start = out.n
    s.replay.repeated = False
    s.replay.inert = s.replay.unproven = False
    if s.replay.statement != st:
        statement_unref(t, s.replay.statement)
        s.replay.statement = statement_ref(st)


cdef void replay_arm(
    StatementTable *t, ServerSession *s, const Output *out, Statement *st
) noexcept nogil:
    """The next request is the first of its batch that needs a prepared statement."""
    if (
        s.replay.state == REPLAY_OFF
        and s.xact_status == c"I"
        and not s.batch.executed
        and s.requests.closing_count == 0
    ):
        begin(t, s, out, st)
        s.replay.state = REPLAY_OPEN


cdef void replay_arm_parse(
    StatementTable *t, ServerSession *s, const Output *out, Statement *st
) noexcept nogil:
    """The Parse of ``st`` that was queued last is unproven; its Bind comes next."""
    begin(t, s, out, st)
    s.replay.first = s.requests.tail - 1
    s.replay.state = REPLAY_OPEN
    s.replay.unproven = True


cdef void replay_arm_query(
    StatementTable *t, ServerSession *s, const Output *out, Statement *st,
    const uint8_t *arguments, size_t n,
) noexcept nogil:
    """The next request is a Query that is nothing but one EXECUTE.

    ``arguments``: what stands behind the name.
    """
    if s.xact_status == c"I" and not s.batch.open and not may_execute_another(st):
        begin(t, s, out, st)
        s.replay.state = REPLAY_ENDING
        s.replay.inert = is_inert(arguments, n)


cdef void replay_request(ServerSession *s, uint8_t code) noexcept nogil:
    """A request of the client is about to be sent."""
    if s.replay.state == REPLAY_OPEN and code == c"S":
        s.replay.state = REPLAY_ENDING
    elif s.replay.state != REPLAY_OPEN or (
        code != c"B" and code != c"D" and code != c"E"
    ):
        replay_forget(s)


cdef void replay_collect(ServerSession *s, const Output *out) noexcept nogil:
    """Copy what this read has added to the batch; a long batch is not kept."""
    cdef Replay *replay = &s.replay
    cdef size_t start = replay.output_start
    cdef size_t want
    cdef uint8_t *grown
    replay.output_start = 0
    if replay.state != REPLAY_OPEN and replay.state != REPLAY_ENDING:
        return
    want = replay.n + out.n - start
    if want > REPLAY_MAX_BYTES:
        replay_forget(s)
        return
    if want > replay.cap:
        want = want * 2 if want > FIRST_BYTES else FIRST_BYTES
        grown = <uint8_t *> realloc(replay.bytes, want)
        if grown == NULL:
            replay_forget(s)
            return
        replay.bytes = grown
        replay.cap = <uint32_t> want
    if out.n > start:
        memcpy(replay.bytes + replay.n, out.data + start, out.n - start)
        replay.n += <uint32_t> (out.n - start)
    if replay.state == REPLAY_ENDING:
        replay.state = REPLAY_WHOLE


cdef ReplayTakes replay_takes(
    const ServerSession *s, const Output *out, size_t unsent, uint8_t code,
    uint32_t length, bint whole,
) noexcept nogil:
    """Whether the batch of an unproven Parse can take one more request.

    In:      unsent: bytes of this read in front of it that are not in ``out`` yet
    """
    cdef size_t size = s.replay.n + out.n - s.replay.output_start + unsent
    if s.replay.state != REPLAY_OPEN or (
        code != c"B" and code != c"D" and code != c"E" and code != c"S"
    ):
        return TAKES_NO_MORE
    # names of ours may be longer than the client's, and a Flush may come behind it
    if size + length + 1 + SERVER_NAME_BYTES + FLUSH_BYTES > REPLAY_MAX_BYTES:
        return TAKES_NO_MORE
    return TAKES_IT if whole else TAKES_LATER


cdef bint replay_possible(ServerSession *s) noexcept nogil:
    """Whether the request that PostgreSQL answers now is the first of a kept batch."""
    return (
        s.replay.state != REPLAY_OFF
        and not s.replay.repeated
        and s.requests.head == s.replay.first
        and s.requests.head != s.requests.tail
        and s.xact_status == c"I"
        and s.client != NULL
        and s.client.scan.body_left == 0  # else half a message is under way
        and s.replay.n != 0
    )


cdef bint has_name_of_ours(
    const StatementTable *t, const uint8_t *body, size_t n
) noexcept nogil:
    """Whether a text names a statement as servers know it (and no more than that)."""
    cdef const uint8_t *end = body + n
    cdef const uint8_t *at = behind_prefix(&t.forms, body, n)
    cdef size_t rest_n
    if at == NULL:
        return False
    rest_n = name_bytes(at, end)
    return is_statements(&t.forms, at, rest_n) and not (
        at + rest_n < end and at[rest_n] == c"?"
    )


cdef void read_fields(
    const uint8_t *body, size_t n, ErrorFields *found
) noexcept nogil:
    """The fields of an ErrorResponse that no translation and no RAISE can change."""
    cdef size_t at = 0
    cdef const uint8_t *end
    found.state = found.routine = NULL
    found.inside = False
    while at < n and body[at] != 0:
        end = <const uint8_t *> memchr(body + at, 0, n - at)
        if end == NULL:
            return
        if body[at] == c"C" and end - body - at == 6:
            found.state = <const char *> body + at + 1
        elif body[at] == c"R":
            found.routine = <const char *> body + at + 1
        elif body[at] == c"W":
            found.inside = True
        at = <size_t> (end - body) + 1


cdef StaleError stale_error(
    const uint8_t *body, size_t n, ErrorFields *found
) noexcept nogil:
    """What an ErrorResponse says of the statement that was asked for.

    0A000 is also what PostgreSQL says of things that it does not support, and both can
    be raised by anybody, so the routine decides.
    """
    read_fields(body, n, found)
    if found.state == NULL or error_is_fatal(body, n):
        return STALE_NOT
    if found.routine != NULL:
        if memcmp(found.state, b"0A000", 5) == 0 and (
            strcmp(found.routine, b"RevalidateCachedQuery") == 0
        ):
            return STALE_RESULT
        if memcmp(found.state, b"26000", 5) == 0 and (
            strcmp(found.routine, b"FetchPreparedStatement") == 0
        ):
            return STALE_MISSING
    if (
        memcmp(found.state, b"57", 2) == 0  # cancelled, or going away
        or memcmp(found.state, b"53", 2) == 0  # no resources
        or memcmp(found.state, b"40", 2) == 0  # deadlock, serialization
        or memcmp(found.state, b"55P03", 5) == 0  # lock_timeout
    ):
        return STALE_NOT
    return STALE_PERHAPS


cdef bint replay_wanted(
    ServerSession *s, const uint8_t *body, size_t n
) noexcept nogil:
    """Whether this ErrorResponse is answered by sending the kept batch again."""
    cdef ErrorFields found
    cdef StaleError kind
    if not replay_possible(s):
        return False
    kind = stale_error(body, n, &found)
    if found.inside or kind == STALE_NOT:
        return False
    if s.replay.unproven or kind == STALE_MISSING:
        return True
    return kind == STALE_RESULT and (
        s.replay.inert or not request_is_query(requests_first(&s.requests))
    )


cdef bint says_stale(
    const StatementTable *t, const uint8_t *body, size_t n
) noexcept nogil:
    """Whether an ErrorResponse means that what the server has is not to be trusted.

    A name that the client made up is missing for good.
    """
    cdef ErrorFields found
    cdef StaleError kind = stale_error(body, n, &found)
    return kind == STALE_RESULT or (
        kind == STALE_MISSING and has_name_of_ours(t, body, n)
    )


cdef bint says_taken(
    const StatementTable *t, const uint8_t *body, size_t n
) noexcept nogil:
    """Whether a PREPARE has found the name taken that no statement has (``put_taken``).
    """
    cdef ErrorFields found
    cdef const uint8_t *end = body + n
    cdef const uint8_t *at
    read_fields(body, n, &found)
    if (
        found.state == NULL or memcmp(found.state, b"42P05", 5) != 0 or found.inside
        or (found.routine != NULL and strcmp(
            found.routine, b"StorePreparedStatement"
        ) != 0)
    ):
        return False
    at = behind_prefix(&t.forms, body, n)
    return at != NULL and at < end and at[0] == c"0" and name_bytes(at, end) == 1


cdef bint says_owed(
    const StatementTable *t, const ServerSession *s, const uint8_t *body, size_t n
) noexcept nogil:
    """Whether an ErrorResponse says that what we could not prepare is missing."""
    cdef ErrorFields found
    cdef const uint8_t *name
    cdef uint8_t following
    if stale_error(body, n, &found) != STALE_MISSING or found.inside:
        return False
    if s.tracking.owed_name_n == 0:
        return has_name_of_ours(t, body, n)
    name = <const uint8_t *> memmem(
        body, n, s.tracking.owed_name, s.tracking.owed_name_n
    )
    if name == NULL or name + s.tracking.owed_name_n == body + n:
        return False
    following = name[s.tracking.owed_name_n]
    return not is_name_byte(following) and following != c"?"


# ---------------------------------------------------------------- an EXECUTE

cdef inline bint is_letter(uint8_t byte) noexcept nogil:
    return c"a" <= byte | 0x20 <= c"z" or byte == c"_" or byte >= 0x80


cdef inline bint is_blank(uint8_t byte) noexcept nogil:
    return byte == c" " or 9 <= byte <= 13


cdef size_t skip_word(const uint8_t *text, size_t n, size_t at) noexcept nogil:
    while at < n and (
        is_letter(text[at]) or c"0" <= text[at] <= c"9" or text[at] == c"."
    ):
        at += 1
    return at


cdef bint is_value(const uint8_t *word, size_t n) noexcept nogil:
    return (
        (n == 4 and strncasecmp(<const char *> word, b"null", 4) == 0)
        or (n == 4 and strncasecmp(<const char *> word, b"true", 4) == 0)
        or (n == 5 and strncasecmp(<const char *> word, b"false", 5) == 0)
    )


cdef size_t skip_literal(const uint8_t *text, size_t n, size_t at) noexcept nogil:
    """Behind the '...' that begins at ``at``; n + 1 if it may hold escapes."""
    at += 1
    while at < n and text[at] != c"'":
        if text[at] == c"\\":
            return n + 1
        at += 1
    return at + 1


cdef bint is_inert(const uint8_t *text, size_t n) noexcept nogil:
    """Whether the arguments of an EXECUTE surely call nothing, so may be read twice.

    They do not if they are values: numbers, 'texts', NULL, TRUE, FALSE, with a sign or
    a cast. Whatever else stands there counts as a call.
    Cost: O(n)
    """
    cdef size_t at = 0
    cdef size_t end
    cdef bint opened = False
    cdef bint cast = False  # a name of a type is due
    while at < n:
        if is_letter(text[at]) or c"0" <= text[at] <= c"9" or text[at] == c".":
            end = skip_word(text, n, at)
            if is_letter(text[at]) and not cast and not is_value(text + at, end - at):
                return False
            cast = False
            at = end
        elif text[at] == c"'":
            at = skip_literal(text, n, at)
            if at > n:
                return False
        elif text[at] == c"(" and not opened:
            opened = True
            at += 1
        elif text[at] == c":" and at + 1 < n and text[at + 1] == c":":
            cast = True
            at += 2
        elif text[at] == c"-" and at + 1 < n and text[at + 1] == c"-":
            return False  # a comment
        elif is_blank(text[at]) or memchr(b"),+-;", text[at], 5) != NULL:
            at += 1
        else:
            return False
    return True


cdef bint may_execute_another(const Statement *st) noexcept nogil:
    """Whether this statement may be an EXECUTE itself, with arguments of its own.

    PREPARE takes queries only; a Parse takes every command, and EXECUTE stands behind
    EXPLAIN and CREATE TABLE AS as well.
    """
    cdef size_t at = 0
    if st.kind != STATEMENT_PARSE:
        return False
    while at < st.n and is_blank(st.text[at]):
        at += 1
    return sql_concerns(st.text, st.n) or st.text[at] | 0x20 == c"c"


cdef void replay_free(StatementTable *t, ServerSession *s) noexcept nogil:
    statement_unref(t, s.replay.statement)
    free(s.replay.bytes)
    s.replay.statement = NULL
    s.replay.bytes = NULL
    s.replay.n = s.replay.cap = 0
    replay_forget(s)
