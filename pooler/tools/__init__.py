# SPDX-License-Identifier: MIT
"""Commands beside the pooler itself: look at files, talk to the console."""
