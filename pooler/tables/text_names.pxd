# SPDX-License-Identifier: MIT
"""What prepared statements are called on servers.

Sans-IO, warm: once for each new text. A server that goes to another worker takes its
statements along, so no name may ever mean two things, whichever worker gave it:

- one that is shared is called by what it means: the prefix of the pooler, and 22
  letters that stand for 128 bits of its text, its kind and the parameters under which
  it is read, hashed with a key that all workers have and nobody else. So workers that
  know nothing of each other give the same text the same name, and no other one;
- one that is a client's own has the prefix, something of this worker and a number.

Without a key (tests that write such names) all are counted; then the prefix must be
of one worker alone.
"""

from libc.stdint cimport uint8_t, uint32_t

from pooler.tables.hashing cimport HashKey
from pooler.tables.params cimport ParamSet, ParamTable

cdef enum:
    SERVER_NAME_BYTES = 48  # with the terminator
    NAME_PREFIX_MAX = 20
    NAME_OWN_MAX = 12

cdef struct NameForms:
    HashKey key
    bint by_text  # there is a key
    uint8_t prefix_n
    char prefix[NAME_PREFIX_MAX + 1]  # what all names begin with
    char own[NAME_OWN_MAX + 1]  # what stands behind it in those that are counted

cdef int name_forms_init(NameForms *f, bytes prefix) except -1
cdef int name_by_text(NameForms *f, bytes own, bytes key) except -1
cdef uint8_t put_counted_name(
    const NameForms *f, uint32_t number, char *name
) noexcept nogil
cdef uint8_t put_text_name(
    const NameForms *f, const ParamTable *params, const ParamSet *context,
    uint8_t kind, const uint8_t *text, size_t n, char *name,
) noexcept nogil
cdef bint is_name_of_a_pooler(const uint8_t *name, size_t n) noexcept nogil
