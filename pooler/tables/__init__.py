# SPDX-License-Identifier: MIT
"""Tables of what sessions share: parameter values, texts of prepared statements."""
