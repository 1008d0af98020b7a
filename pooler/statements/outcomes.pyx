# SPDX-License-Identifier: MIT
"""Texts of refusals; see ``outcomes.pxd``."""

from libc.stdint cimport uint8_t

# In the order of Refusal.
cdef const char *REFUSAL_TEXTS[6]
REFUSAL_TEXTS[:] = [
    b"",
    b"too many prepared statements in this session (max_client_prepared_statements)",
    b"prepared statements of this session are too long (max_client_prepared_bytes)",
    b"no memory left for prepared statements (max_prepared_memory)",
    b"name of a prepared statement or portal is too long",
    b"cached plan must not change result type",
]
cdef const char *REFUSAL_SQLSTATES[6]
REFUSAL_SQLSTATES[:] = [b"", b"53400", b"53400", b"53200", b"54000", b"0A000"]


cdef const char *refusal_text(uint8_t refusal) noexcept nogil:
    return REFUSAL_TEXTS[refusal]


cdef const char *refusal_sqlstate(uint8_t refusal) noexcept nogil:
    return REFUSAL_SQLSTATES[refusal]
