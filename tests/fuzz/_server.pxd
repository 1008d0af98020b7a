# SPDX-License-Identifier: MIT
"""What a real server could say: answers to what it owes, one for each choice.

Arbitrary bytes seldom are an answer, so without this no input would get far. A choice
is a byte; it decides between success and several errors, and which tag or status.
"""

from libc.stdint cimport uint8_t

from pooler.session.records cimport ServerSession

cdef enum:
    ANSWER_BYTES = 160  # for one choice

cdef size_t put_answers(
    uint8_t *p, ServerSession *s, const uint8_t *choices, size_t n
) noexcept nogil
