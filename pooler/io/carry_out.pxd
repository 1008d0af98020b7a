# SPDX-License-Identifier: MIT
"""Carries out what a step has ordered: sends, closes, reads again, tells Python.

IO layer, hot.
"""

from pooler.io.conn cimport Loop

cdef void carry_out(Loop *L) noexcept nogil
cdef int fill_close_reasons(object rows) except -1
