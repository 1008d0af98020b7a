# SPDX-License-Identifier: MIT
"""Prepared statements that move; see ``moved_names.pxd``."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

from pooler.relay.record cimport take, take_byte, take_long, take_number
from pooler.session.records cimport server_has
from pooler.tables.server_statements cimport (
    ServerStatement, server_statement_add, server_statements_free,
)
from pooler.tables.text_names cimport (
    NAME_PREFIX_MAX, SERVER_NAME_BYTES, is_name_of_a_pooler,
)
from pooler.tables.texts cimport (
    Statement, counts_are_shared, statement_called, statement_unref,
)
from pooler.wire.buffers cimport queue_add

cdef enum:
    MARK_SURE = 1
    MARK_PREFIX = 2
    MARKS_ALL = 3
    HEAD_BYTES = 2  # of a statement: marks, length of its name
    NUMBERS_BYTES = 28

cdef struct Moved:  # one statement that was read
    uint8_t marks
    uint8_t name_n
    uint8_t name[SERVER_NAME_BYTES]
    ServerStatement numbers


# ---------------------------------------------------------------- writing

cdef inline bint is_sure(
    const ServerSession *s, const ServerStatement *entry
) noexcept nogil:
    """Whether it is what its name says, for everybody who knows that name."""
    return (
        server_has(s, entry) and entry.epoch == 0 and not entry.statement.is_private
        and entry.statement.target == NULL
    )


cdef inline uint8_t marks_of(
    const StatementTable *t, const ServerSession *s, const ServerStatement *entry
) noexcept nogil:
    cdef const Statement *st = entry.statement
    cdef uint8_t n = t.forms.prefix_n
    cdef uint8_t marks = MARK_SURE if t.forms.by_text and is_sure(s, entry) else 0
    if st.name_n > n and memcmp(st.name, t.forms.prefix, n) == 0:
        marks |= MARK_PREFIX
    return marks


cdef size_t moved_names_bytes(const StatementTable *t, ServerSession *s) noexcept nogil:
    """How many bytes ``put_names`` writes."""
    cdef const ServerStatement *entry = s.statements.oldest
    cdef size_t size = 1 + t.forms.prefix_n + sizeof(uint32_t)
    cdef uint8_t marks
    while entry != NULL:
        marks = marks_of(t, s, entry)
        size += HEAD_BYTES + entry.statement.name_n
        if marks & MARK_PREFIX:
            size -= t.forms.prefix_n
        if marks & MARK_SURE:
            size += NUMBERS_BYTES
        entry = entry.newer
    return size


cdef int put_one(
    const StatementTable *t, const ServerStatement *entry, uint8_t marks, Queue *into
) noexcept nogil:
    cdef const Statement *st = entry.statement
    cdef uint8_t skipped = t.forms.prefix_n if marks & MARK_PREFIX else 0
    cdef uint8_t head[HEAD_BYTES]
    cdef uint8_t numbers[NUMBERS_BYTES]
    head[0] = marks
    head[1] = st.name_n - skipped
    memcpy(numbers, &entry.parsed_at, 4)
    memcpy(numbers + 4, &entry.parse_number, 8)
    memcpy(numbers + 12, &entry.shape, 8)
    memcpy(numbers + 20, &entry.parameters, 8)
    if (
        queue_add(into, head, HEAD_BYTES) < 0
        or queue_add(into, <const uint8_t *> st.name + skipped, head[1]) < 0
    ):
        return -1
    return queue_add(into, numbers, NUMBERS_BYTES) if marks & MARK_SURE else 0


cdef int put_names(
    const StatementTable *t, const ServerSession *s, bint none, Queue *into
) noexcept nogil:
    """Write down what a server has; ``none``: as if it had nothing.

    Errors:  -1 without memory
    Cost:    O(statements)
    """
    cdef const ServerStatement *entry = NULL if none else s.statements.oldest
    cdef uint32_t count = 0 if none else s.statements.count
    if (
        queue_add(into, &t.forms.prefix_n, 1) < 0
        or queue_add(into, <const uint8_t *> t.forms.prefix, t.forms.prefix_n) < 0
        or queue_add(into, <const uint8_t *> &count, sizeof(count)) < 0
    ):
        return -1
    while entry != NULL:
        if put_one(t, entry, marks_of(t, s, entry), into) < 0:
            return -1
        entry = entry.newer
    return 0


# ---------------------------------------------------------------- reading

cdef void take_one(Reader *from_, const MovedNames *names, Moved *found) noexcept nogil:
    """The next statement, doubted in all that can be."""
    cdef uint8_t skipped
    cdef uint8_t n
    cdef const uint8_t *rest
    found.marks = take_byte(from_)
    n = take_byte(from_)
    rest = take(from_, n)
    skipped = names.prefix_n if found.marks & MARK_PREFIX else 0
    if rest == NULL or found.marks & ~MARKS_ALL or skipped + n >= SERVER_NAME_BYTES:
        from_.bad = True
        return
    memcpy(found.name, names.prefix, skipped)
    memcpy(found.name + skipped, rest, n)
    found.name_n = skipped + n
    if not is_name_of_a_pooler(found.name, found.name_n):
        from_.bad = True
    if found.marks & MARK_SURE:
        found.numbers.parsed_at = take_number(from_)
        found.numbers.parse_number = take_long(from_)
        found.numbers.shape = take_long(from_)
        found.numbers.parameters = take_long(from_)


cdef void take_names(Reader *from_, MovedNames *found) noexcept nogil:
    """Read over the statements of a record, which stay where they are."""
    cdef Moved one
    cdef uint32_t _i
    found.prefix_n = take_byte(from_)
    found.prefix = take(from_, found.prefix_n)
    found.count = take_number(from_)
    if from_.bad or found.prefix_n > NAME_PREFIX_MAX or found.count > from_.n:
        from_.bad = True
        return
    found.entries = from_.src
    found.entries_n = from_.n
    for _i in range(found.count):
        take_one(from_, found, &one)
        if from_.bad:
            return
    found.entries_n -= from_.n


cdef int install_one(
    StatementTable *t, ServerSession *s, const Moved *one
) noexcept nogil:
    cdef Statement *st = statement_called(t, one.name, one.name_n)
    cdef ServerStatement *entry = NULL
    if st != NULL:
        entry = server_statement_add(&s.statements, st)
    if entry == NULL:
        statement_unref(t, st)
        return -1
    if (
        one.marks & MARK_SURE and not st.is_private and t.forms.by_text
        and counts_are_shared(t)
    ):
        entry.parsed_at = one.numbers.parsed_at
        entry.parse_number = one.numbers.parse_number
        entry.shape = one.numbers.shape
        entry.parameters = one.numbers.parameters
    else:
        entry.generation = s.statements.generation - 1  # nobody can say what it is
    statement_unref(t, st)
    return 0


cdef int install_names(
    StatementTable *t, ServerSession *s, const MovedNames *names
) noexcept nogil:
    """A server has come that has these, of which ``take_names`` has found no fault.

    Errors:  -1: they cannot all be kept, and none is; the server has them still
    """
    cdef Reader from_
    cdef Moved one
    cdef uint32_t _i
    from_.src = names.entries
    from_.n = names.entries_n
    from_.bad = False
    for _i in range(names.count):
        take_one(&from_, names, &one)
        if install_one(t, s, &one) < 0:
            server_statements_free(t, &s.statements)
            return -1
    return 0
