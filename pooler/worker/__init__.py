# SPDX-License-Identifier: MIT
"""A worker process: clients from accept to admission, servers, cancel requests."""
