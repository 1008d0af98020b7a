# SPDX-License-Identifier: MIT
"""Counting of changes; see ``schema.pxd``."""

from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memcpy

from pooler.tables.texts cimport count_databases, count_schema_change
from pooler.session.tracking cimport schema_changing, schema_settled

cdef enum:
    TAGS = 8
    TAG_BYTES = 16

cdef const char *DATABASE = b" DATABASE"

cdef enum:
    DATABASE_BYTES = 10  # with its terminator

cdef struct Tag:  # how the tag of a command begins that may have changed something
    char text[TAG_BYTES]
    uint8_t n

cdef Tag CHANGES[TAGS]
cdef uint8_t FIRST_OF[27]  # of the tags with a letter, A to Z; the last is the end

# By their first letters. DO and CALL run code that may do anything. GRANT, COMMENT and
# SECURITY LABEL change the meaning of no text. CREATE TABLE AS has the tag of SELECT.
_CHANGES = [
    b"ALTER ", b"CALL", b"COMMIT PREPARED", b"CREATE ", b"DO", b"DROP ", b"IMPORT ",
    b"REASSIGN ",
]


cdef int fill_changes() except -1:
    cdef int i
    cdef bytes tag
    if len(_CHANGES) != TAGS or sorted(_CHANGES) != _CHANGES:
        raise ImportError("TAGS is not their number, or they are not in order")
    if sum({1 << tag[0] - c"A" for tag in _CHANGES}) != COUNTED_LETTERS:
        raise ImportError("COUNTED_LETTERS are not their first letters")
    for i, tag in enumerate(_CHANGES):
        memcpy(CHANGES[i].text, <const char *> tag, len(tag))
        CHANGES[i].n = <uint8_t> len(tag)
    for i in range(27):
        FIRST_OF[i] = sum(1 for tag in _CHANGES if tag[0] < c"A" + i)
    return 0

fill_changes()


cdef inline bint changes_schema(const uint8_t *tag, size_t n) noexcept nogil:
    """Whether a command of this tag may have changed what a text means."""
    cdef const Tag *row
    cdef uint8_t letter = tag[0] - c"A" if n > 1 else 26
    cdef int i
    if letter >= 26:
        return False
    for i in range(FIRST_OF[letter], FIRST_OF[letter + 1]):
        row = &CHANGES[i]
        if row.text[1] == tag[1] and n > row.n and memcmp(tag, row.text, row.n) == 0:
            return True
    return False


cdef inline bint is_of_databases(const uint8_t *tag, size_t n) noexcept nogil:
    """Whether a tag ends so, with its terminator: it begins with a word and a blank."""
    return n > DATABASE_BYTES and memcmp(
        tag + n - DATABASE_BYTES, DATABASE, DATABASE_BYTES
    ) == 0


cdef void schema_tag(
    StatementTable *t, ServerSession *s, const uint8_t *tag, size_t n
) noexcept nogil:
    """A command is done: tag[0:n) of its CommandComplete."""
    if changes_schema(tag, n):
        schema_changing(s)
        if is_of_databases(tag, n):
            count_databases(t)
    if s.tracking.changing:
        count_schema_change(t)


cdef void schema_ready(StatementTable *t, ServerSession *s) noexcept nogil:
    """ReadyForQuery; its status is noted already."""
    if s.tracking.changing:
        count_schema_change(t)
        if s.xact_status == c"I":
            schema_settled(s)
