"""Addresses as files give them: those of ``ipaddress``, without zones.

Python takes any text for the zone of an IPv6 address (RFC 4007, section 11), blanks and line feeds included.
An address reaches command lines, scripts of ip(8) and rows of OVN, none of which has a use for one.
"""

from __future__ import annotations

import ipaddress


def ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """See ``ipaddress``. Raises ValueError."""
    return ipaddress.ip_address(_without_zone(text))


def ip_interface(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    """See ``ipaddress``. Raises ValueError."""
    return ipaddress.ip_interface(_without_zone(text))


def ip_network(text: str, *, strict: bool = True) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """See ``ipaddress``. Raises ValueError."""
    return ipaddress.ip_network(_without_zone(text), strict)


def _without_zone(text: str) -> str:
    if "%" in text:
        raise ValueError(f"{text!r} has a zone, which only means something on one host")
    return text
