# SPDX-License-Identifier: MIT
"""Prepared statements that move with their server. Relay layer, sans-IO, warm.

Their texts stay where they are: what two workers share is called by the same name in
both (``tables/text_names``), so the name says which one it is. In a record (``moves``)
stand, the one that was used longest ago first:

    prefix          one byte of length, and what names begin with
    number          4 bytes; of each statement
        marks       1: all the numbers below follow; 2: the prefix stands in front
        name        one byte of length, and the name or the rest of it
        parsed_at, parse_number, shape, parameters
                    of ServerStatement, 4, 8, 8 and 8 bytes

What is surely there, means what its name says and was read under what its client had
set goes with its numbers, which count in all workers alike. Of the rest the name alone
goes: it is closed there before anybody uses the name, or when it is the oldest one.
"""

from libc.stdint cimport uint8_t, uint32_t

from pooler.relay.record cimport Reader
from pooler.session.records cimport ServerSession
from pooler.tables.texts cimport StatementTable
from pooler.wire.buffers cimport Queue

cdef struct MovedNames:  # in a record, which is borrowed
    const uint8_t *prefix
    const uint8_t *entries
    size_t entries_n
    uint32_t count
    uint8_t prefix_n

cdef size_t moved_names_bytes(const StatementTable *t, ServerSession *s) noexcept nogil
cdef int put_names(
    const StatementTable *t, const ServerSession *s, bint none, Queue *into
) noexcept nogil
cdef void take_names(Reader *from_, MovedNames *found) noexcept nogil
cdef int install_names(
    StatementTable *t, ServerSession *s, const MovedNames *names
) noexcept nogil
