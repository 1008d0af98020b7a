# SPDX-License-Identifier: MIT
"""A PostgreSQL connection pooler: thousands of clients, a handful of servers."""

__version__ = "0.1.0"
