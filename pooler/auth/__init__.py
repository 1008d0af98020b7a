# SPDX-License-Identifier: MIT
"""How a client proves who it is, in C. Auth layer, sans-IO."""
