# SPDX-License-Identifier: MIT
"""What a text may change beside its answer: what later texts mean, and the session.

Statements layer, sans-IO, hot. Every text that is sent to a shared server is looked at
once: a simple Query when it passes by, a prepared statement when it is made. The
commands are told by their first words; functions that reach into the session
(``set_config``, ``pg_advisory_lock`` …) by their names, wherever these stand. What a
function of the user's own does cannot be seen.

Source: PostgreSQL documentation, "SET", "DISCARD", "Lexical Structure", "System
Administration Functions".
"""

from libc.stdint cimport uint8_t, uint64_t

from pooler.tables.params cimport ParamSet, ParamTable

cdef enum:
    CHANGES_OF_SESSION = 0xFFFFFFFFFFFF  # what is a Change
    CHANGE_DATABASES_SHIFT = 48  # and this bit: CREATE, ALTER or DROP DATABASE

cdef bint sql_is_plain(const uint8_t *text, size_t n) noexcept nogil
cdef uint64_t sql_changes(
    const uint8_t *text, size_t n, const ParamTable *params, const ParamSet *reported,
    uint8_t flags,
) noexcept nogil
cdef uint64_t sql_changes_of_plan(
    const uint8_t *text, size_t n, const ParamTable *params, const ParamSet *reported,
    uint8_t flags,
) noexcept nogil
