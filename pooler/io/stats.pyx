# SPDX-License-Identifier: MIT
"""Counters and addresses as Python objects; see ``stats.pxd``."""

import socket

from pooler.io.conn cimport ClientConn, Loop, Peer, ServerConn
from pooler.session.pool cimport pool_servers_wanted
from pooler.session.records cimport Pool
from pooler.io.syscalls cimport AF_INET, AF_INET6
from pooler.wire.buffers cimport queues_bytes


cdef dict loop_counters(const Loop *L):
    """What the loop has done so far, for tests and diagnosis."""
    return {
        **L.counters,
        "clients": L.client_count,
        "logins": L.login_count,
        "servers": L.server_count,
        "links": L.link_count,
        "parting": L.parting_count,
        "client_record_bytes": sizeof(ClientConn),
        "server_record_bytes": sizeof(ServerConn),
        "receive_bytes": L.recv_bytes,
        "buffer_bytes": queues_bytes(),
        "parameter_values": L.relay.params.value_count,
        "parameter_sets": L.relay.params.set_count,
        "statements": L.relay.statements.count,
        "statement_bytes": L.relay.statements.bytes,
    }


cdef dict pool_counters(const Pool *p):
    """Counts and totals of one pool."""
    return {
        "max_servers": p.max_servers,
        "servers": p.server_count,
        "connecting": p.connecting_count,
        "refused": bool(p.refused),
        "wanted": pool_servers_wanted(p),
        "idle": p.idle_count,
        "active": p.active_count,
        "tested": p.tested_count,
        "waiting": p.waiting_count,
        "waiting_since_us": (
            0 if p.waiting_head == NULL else p.waiting_head.waiting_since_us
        ),
        "clients": p.client_count,
        "xacts": p.counters.xacts,
        "queries": p.counters.queries,
        "received_bytes": p.counters.received_bytes,
        "sent_bytes": p.counters.sent_bytes,
        "assignments": p.counters.assignments,
        "client_logins": p.counters.client_logins,
        "xact_us": p.counters.xact_us,
        "query_us": p.counters.query_us,
        "wait_us": p.counters.wait_us,
        "client_parses": p.counters.client_parses,
        "server_parses": p.counters.server_parses,
        "binds": p.counters.binds,
        "parse_hits": p.counters.parse_hits,
        "evictions": p.counters.evictions,
        "replays": p.counters.replays,
        "changed": p.counters.changed,
        "cleaned": p.counters.cleaned,
        "left": p.counters.left,
    }


cdef object peer_name(const Peer *peer):
    """(address, port); a Unix socket has ("unix", 0)."""
    if peer.family == AF_INET:
        return socket.inet_ntop(socket.AF_INET, peer.address[:4]), peer.port
    if peer.family == AF_INET6:
        return socket.inet_ntop(socket.AF_INET6, peer.address[:16]), peer.port
    return "unix", 0
