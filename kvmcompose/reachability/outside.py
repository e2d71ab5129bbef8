"""Addresses that represent what is outside a testbed."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from kvmcompose.reachability.logical_network import Address, Network

#: Addresses reserved for documentation (RFC 5737, RFC 3849, RFC 9637): no real network is meant.
_OUTSIDE = ("203.0.113.1", "198.51.100.1", "192.0.2.1", "2001:db8:ffff:ffff::1", "3fff:ffff::1")


def addresses_outside(subnets: Collection[Network]) -> dict[int, Address]:
    """Return an address of each family (4, 6) that is in none of the subnets, if there is one."""
    found: dict[int, Address] = {}
    for address in map(ipaddress.ip_address, _OUTSIDE):
        if not any(address in subnet for subnet in subnets):
            found.setdefault(address.version, address)
    return found
