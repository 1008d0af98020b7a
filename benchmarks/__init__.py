# SPDX-License-Identifier: MIT
"""Benchmarks: how much CPU, latency and memory the pooler costs beside its peers."""
