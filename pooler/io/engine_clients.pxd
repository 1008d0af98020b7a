# SPDX-License-Identifier: MIT
"""Logins and clients, of what Python may ask of the engine."""

from pooler.io.engine_loop cimport EngineLoop


cdef class EngineClients(EngineLoop):
    pass
