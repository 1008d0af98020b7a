# SPDX-License-Identifier: MIT
"""``POOLER_DEBUG`` as a C constant: ``if POOLER_DEBUG:`` costs nothing when it is 0."""

cdef extern from *:
    """
    #ifndef POOLER_DEBUG
    #define POOLER_DEBUG 0
    #endif
    """
    const int POOLER_DEBUG
