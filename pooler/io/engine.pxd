# SPDX-License-Identifier: MIT
"""The engine: a readiness loop in C that Python sees as a selector's core.

IO layer. ``run`` serves every hot connection and comes back to Python only when a
descriptor that Python registered is ready, a notice is left for Python, a signal
arrived or the time is over.
"""

cimport cython

from pooler.io.engine_pools cimport EnginePools


@cython.final
cdef class Engine(EnginePools):
    pass
