# SPDX-License-Identifier: MIT
"""The console: one process that speaks PostgreSQL and runs the operator's commands."""
