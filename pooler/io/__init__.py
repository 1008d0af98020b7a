# SPDX-License-Identifier: MIT
"""Sockets, readiness, time: carries out what the relay decides."""
