# SPDX-License-Identifier: MIT
"""Rows of clients and servers, for those who look on. IO layer, cold.

A list is made in pieces, of so many places of the table of connections each, so that a
worker with many connections serves them in between.
"""

from libc.stdint cimport uint32_t

from pooler.io.conn cimport Loop

cdef object list_clients(const Loop *L, uint32_t first, uint32_t most)
cdef object list_servers(const Loop *L, uint32_t first, uint32_t most)
