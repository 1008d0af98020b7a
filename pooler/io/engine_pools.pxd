# SPDX-License-Identifier: MIT
"""Pools, of what Python may ask of the engine."""

from pooler.io.engine_clients cimport EngineClients


cdef class EnginePools(EngineClients):
    pass
