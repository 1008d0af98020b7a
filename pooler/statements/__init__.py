# SPDX-License-Identifier: MIT
"""Prepared statements: what each request means for the names of client and server."""
