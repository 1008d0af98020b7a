# SPDX-License-Identifier: MIT
"""A PostgreSQL connection pooler: thousands of clients, a handful of servers."""

__version__ = "0.1.0"

# What tools ask for, and compare: the console and the options are those of this one.
VERSION_TEXT = f"PgBouncer 1.25.2 (pooler {__version__})"
