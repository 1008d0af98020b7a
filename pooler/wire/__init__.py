# SPDX-License-Identifier: MIT
"""Bytes: messages of the protocol, framing, queues of what waits to be sent."""
