# SPDX-License-Identifier: MIT
"""The core alone, without sockets: time and instructions of what happens most."""
