# SPDX-License-Identifier: MIT
"""What happens to the bytes of clients and servers: every decision, no socket."""
