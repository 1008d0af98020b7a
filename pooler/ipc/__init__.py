# SPDX-License-Identifier: MIT
"""What the processes of one pooler share: counters, messages, the start of a worker."""
