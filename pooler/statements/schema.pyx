# SPDX-License-Identifier: MIT
"""Counting of changes; see ``schema.pxd``."""

from libc.stdint cimport uint8_t
from libc.string cimport memcmp, strlen

from pooler.tables.texts cimport count_schema_change
from pooler.session.tracking cimport schema_changing, schema_settled

cdef enum:
    TAGS = 8

# DO and CALL run code that may do anything. GRANT, COMMENT and SECURITY LABEL change
# the meaning of no text. CREATE TABLE AS has the tag of SELECT.
cdef const char *CHANGES[TAGS]
CHANGES[:] = [
    b"ALTER ", b"CREATE ", b"DROP ", b"DO", b"CALL", b"IMPORT ", b"REASSIGN ",
    b"COMMIT PREPARED",
]


cdef bint changes_schema(const uint8_t *tag, size_t n) noexcept nogil:
    """Whether a command of this tag may have changed what a text means."""
    cdef int i
    cdef size_t size
    for i in range(TAGS):
        if tag[0] == CHANGES[i][0]:
            size = strlen(CHANGES[i])
            if n > size and memcmp(tag, CHANGES[i], size) == 0:
                return True
    return False


cdef void schema_tag(
    StatementTable *t, ServerSession *s, const uint8_t *tag, size_t n
) noexcept nogil:
    """A command is done: tag[0:n) of its CommandComplete."""
    if n and changes_schema(tag, n):
        schema_changing(s)
    if s.tracking.changing:
        count_schema_change(t)


cdef void schema_ready(StatementTable *t, ServerSession *s) noexcept nogil:
    """ReadyForQuery; its status is noted already."""
    if s.tracking.changing:
        count_schema_change(t)
        if s.xact_status == c"I":
            schema_settled(s)
