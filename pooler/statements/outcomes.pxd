# SPDX-License-Identifier: MIT
"""What becomes of a client's request: results, refusals and their texts.

Sans-IO.
"""

from libc.stdint cimport uint8_t

cdef enum PrepareResult:  # what becomes of a client's message
    PREPARE_FORWARD  # nothing to do with it: the caller tracks and forwards it
    PREPARE_DONE  # tracked; its first bytes are used up, the rest goes on as it is
    PREPARE_HOLD  # its names are not complete
    PREPARE_WAIT  # what its names mean is not known before earlier batches are settled
    PREPARE_NO_MEMORY

cdef enum Refusal:  # why a client may not prepare something
    REFUSED_NOT
    REFUSED_COUNT
    REFUSED_CLIENT_BYTES
    REFUSED_MEMORY
    REFUSED_NAME
    REFUSED_STALE  # the server's rows are not those that the client was told of

cdef const char *refusal_sqlstate(uint8_t refusal) noexcept nogil
cdef const char *refusal_text(uint8_t refusal) noexcept nogil
