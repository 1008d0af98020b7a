# SPDX-License-Identifier: MIT
"""What must be true of a world between two operations."""

from tests.fuzz._world cimport World

cdef void check_world(World *w) noexcept nogil
cdef void check_empty() noexcept nogil
