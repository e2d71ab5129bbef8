"""The TCP sockets of this machine and the users that they belong to (proc(5), ``/proc/net/tcp``)."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: Sockets of this network namespace, by IPv4 and IPv6.
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
LISTENS = "0A"


class Endpoint(NamedTuple):
    """An address and a port."""

    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int


class TcpSocket(NamedTuple):
    """A socket: its two ends, its state as the kernel writes it, and the user who opened it."""

    local: Endpoint
    remote: Endpoint
    state: str
    uid: int


def tcp_sockets() -> Iterator[TcpSocket]:
    """Yield all sockets. Raises OSError."""
    for path in _TABLES:
        try:
            rows = path.read_text().splitlines()[1:]
        except FileNotFoundError:  # no IPv6
            continue
        for row in rows:
            words = row.split()
            yield TcpSocket(_endpoint(words[1]), _endpoint(words[2]), words[3], int(words[7]))


def endpoint(address: str, port: int) -> Endpoint:
    """Return an endpoint as ``tcp_sockets`` has it. Raises ValueError for what is no address."""
    return Endpoint(_plain(ipaddress.ip_address(address)), port)


def _endpoint(text: str) -> Endpoint:
    """Parse an address in the kernel's notation, words of 32 bits in native byte order, and a port."""
    place, _, number = text.partition(":")
    raw = bytes.fromhex(place)
    if sys.byteorder == "little":
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    return Endpoint(_plain(ipaddress.ip_address(raw)), int(number, 16))


def _plain(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return getattr(address, "ipv4_mapped", None) or address
