# SPDX-License-Identifier: MIT
"""The parts of ``benchmarks/compare.py``; each is usable and tested alone."""
