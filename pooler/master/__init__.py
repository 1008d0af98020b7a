# SPDX-License-Identifier: MIT
"""The master process: listening sockets, workers, signals."""
