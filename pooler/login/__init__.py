# SPDX-License-Identifier: MIT
"""Logins: of clients to us and of us to servers. Login layer, sans-IO.

``packets`` holds the few messages of the start-up phase, ``startup`` reads a
client's first packet, ``md5`` and ``scram`` hold the arithmetic, ``client``
and ``server`` the two state machines. Bytes go in, bytes and outcomes come
out: no socket, no clock, no log. A peer that breaks a rule gets a
``LoginError``, whatever it sent; nothing here grows beyond its bounds.
"""
