# SPDX-License-Identifier: MIT
"""A throw-away PostgreSQL, and the pooler before it."""
