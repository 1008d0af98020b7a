# SPDX-License-Identifier: MIT
"""Records of clients, servers and pools, and who may change them."""
