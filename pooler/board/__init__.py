# SPDX-License-Identifier: MIT
"""The page of accounts that all processes share."""
