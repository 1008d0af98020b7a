# SPDX-License-Identifier: MIT
"""Names of statements on servers; see ``text_names.pxd``."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from pooler.tables.hashing cimport Digest, digest_behind

cdef extern from "<stdio.h>" nogil:
    int snprintf(char *p, size_t n, const char *form, ...)

cdef enum:
    LETTERS_OF_HALF = 11  # of 6 bits each, for 64
    KEY_BYTES = 16
    # What a link of the chain of digests is of; the number of a parameter is added.
    OF_NAME = 0
    OF_VALUE = 256
    OF_TEXT = 512  # and its kind is added

cdef const char *LETTERS = (
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
)


cdef int name_forms_init(NameForms *f, bytes prefix) except -1:
    """Names are ``prefix`` and a number."""
    memset(f, 0, sizeof(NameForms))
    if not 0 < len(prefix) <= NAME_PREFIX_MAX:
        raise ValueError(f"statement prefix of {len(prefix)} bytes")
    memcpy(f.prefix, <const char *> prefix, len(prefix) + 1)
    f.prefix_n = <uint8_t> len(prefix)
    return 0


cdef int name_by_text(NameForms *f, bytes own, bytes key) except -1:
    """Shared statements are called by their text; ``own``: of this worker alone.

    ``own`` has a dot, which is no letter of the others.
    """
    if len(key) != KEY_BYTES or len(own) > NAME_OWN_MAX or b"." not in own:
        raise ValueError("names of statements need a key of 16 bytes, and a dot")
    memcpy(&f.key, <const char *> key, KEY_BYTES)
    memcpy(f.own, <const char *> own, len(own) + 1)
    f.by_text = True
    return 0


cdef uint8_t put_counted_name(
    const NameForms *f, uint32_t number, char *name
) noexcept nogil:
    """The name of the statement with this number; its length.

    In:      room for SERVER_NAME_BYTES
    """
    return <uint8_t> snprintf(
        name, SERVER_NAME_BYTES, b"%s%s%u", f.prefix, f.own, number
    )


cdef Digest digest_of(
    const NameForms *f, const ParamTable *params, const ParamSet *context,
    uint8_t kind, const uint8_t *text, size_t n,
) noexcept nogil:
    """Of all that makes a statement what it is, each with what it is of."""
    cdef Digest found
    cdef int i
    found.low = found.high = 0
    for i in range(params.count):
        if context.value[i] != NULL:
            found = digest_behind(
                f.key, found, <uint64_t> (OF_NAME + i),
                <const uint8_t *> params.name[i], params.name_n[i],
            )
            found = digest_behind(
                f.key, found, <uint64_t> (OF_VALUE + i),
                context.value[i].text, context.value[i].n,
            )
    return digest_behind(f.key, found, <uint64_t> (OF_TEXT + kind), text, n)


cdef uint8_t put_text_name(
    const NameForms *f, const ParamTable *params, const ParamSet *context,
    uint8_t kind, const uint8_t *text, size_t n, char *name,
) noexcept nogil:
    """The name of the statement with this text, read under these parameters.

    In:      ``context``: parameters that are not known are none of its meaning
    Out:     its length; room: SERVER_NAME_BYTES
    Cost:    O(n) and O(tracked parameters)
    """
    cdef Digest digest = digest_of(f, params, context, kind, text, n)
    cdef char *at = name + f.prefix_n
    cdef int i
    memcpy(name, f.prefix, f.prefix_n)
    for i in range(LETTERS_OF_HALF):
        at[i] = LETTERS[digest.low & 63]
        at[LETTERS_OF_HALF + i] = LETTERS[digest.high & 63]
        digest.low >>= 6
        digest.high >>= 6
    at[2 * LETTERS_OF_HALF] = 0
    return <uint8_t> (f.prefix_n + 2 * LETTERS_OF_HALF)


cdef bint is_name_of_a_pooler(const uint8_t *name, size_t n) noexcept nogil:
    """Whether these bytes may be a name as they are made here: it stands in SQL."""
    cdef size_t i
    if not 0 < n < SERVER_NAME_BYTES:
        return False
    for i in range(n):
        if not (
            c"a" <= name[i] | 0x20 <= c"z" or c"0" <= name[i] <= c"9"
            or name[i] == c"-" or name[i] == c"_" or name[i] == c"."
        ):
            return False
    return True
