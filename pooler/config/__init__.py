# SPDX-License-Identifier: MIT
"""Settings, and the files that they come from."""
