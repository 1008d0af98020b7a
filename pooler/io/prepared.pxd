# SPDX-License-Identifier: MIT
"""What the map of prepared statements holds, for those who look on. IO layer, cold.

A walk is made in pieces, as in ``io/listing``.
"""

from libc.stdint cimport uint32_t

from pooler.io.conn cimport Loop

cdef uint32_t count_holders(
    const Loop *L, uint32_t first, uint32_t most, dict holders
)
cdef uint32_t list_statements(
    const Loop *L, uint32_t first, uint32_t most, dict found
)
