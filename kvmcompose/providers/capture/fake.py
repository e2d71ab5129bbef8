"""Packets of a simulated host, as pcap (IETF draft-ietf-opsawg-pcap)."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncGenerator
from ipaddress import IPv4Address

from kvmcompose.core.commands import Capture
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import FakePort

_MAGIC = 0xA1B2C3D4  # times in microseconds
_ETHERNET = 1
_IPV4 = 0x0800
_ICMP = 1
_ECHO_REPLY, _ECHO_REQUEST = 0, 8
#: (MAC address, IP address)
_ENDS = tuple(
    (bytes.fromhex(f"52540000000{number}"), IPv4Address(f"192.0.2.{number}").packed) for number in (1, 2)
)
#: Seconds between two packets of fake guests.
_PING_SECONDS = 0.01


class FakeCaptures:
    """See ``Captures``. Guests ping each other while any is on; filters have no effect."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def check_filter(self, expression: str) -> str | None:
        await self._host.call("check_filter", expression)
        return None if expression.count("(") == expression.count(")") else "syntax error"

    async def interface(self, name: str, wanted: Capture) -> AsyncGenerator[bytes]:
        await self._host.call("capture", name)
        async for chunk in self._pings(wanted):
            yield chunk

    async def bridge(self, project: str, name: str, wanted: Capture) -> AsyncGenerator[bytes]:
        await self._host.call("mirror", name)
        port = f"cap-{id(wanted) & 0xFFFF:x}"
        ports = self._host.world.bridges[project][name].ports
        ports[port] = FakePort(capture=True)
        try:
            async for chunk in self._pings(wanted):
                yield chunk
        finally:
            del ports[port]

    async def _pings(self, wanted: Capture) -> AsyncGenerator[bytes]:
        yield file_header(wanted.snaplen)
        number = 0
        while number != wanted.count and any(each.started for each in self._host.world.domains.values()):
            yield record(number, wanted.snaplen, time.time())
            await asyncio.sleep(_PING_SECONDS)
            number += 1


def file_header(snaplen: int) -> bytes:
    """Return the header of a file."""
    return struct.pack("<IHHiIII", _MAGIC, 2, 4, 0, 0, snaplen, _ETHERNET)


def record(number: int, snaplen: int, seconds: float) -> bytes:
    """Return packet ``number``: even ones are requests, odd ones their replies."""
    packet = _ping(number)
    kept = packet[:snaplen]
    whole, part = divmod(round(seconds * 1e6), 10**6)
    return struct.pack("<IIII", whole, part, len(kept), len(packet)) + kept


def _ping(number: int) -> bytes:
    sequence, is_reply = divmod(number, 2)
    (source_mac, source), (target_mac, target) = reversed(_ENDS) if is_reply else _ENDS
    echo = struct.pack(">HH", 1, sequence & 0xFFFF) + bytes(range(56))
    kind = _ECHO_REPLY if is_reply else _ECHO_REQUEST
    message = struct.pack(">BBH", kind, 0, _checksum(bytes([kind, 0]) + echo)) + echo

    def header(checksum: int) -> bytes:
        fields = (0x45, 0, 20 + len(message), sequence & 0xFFFF, 0, 64, _ICMP, checksum)
        return struct.pack(">BBHHHBBH", *fields) + source + target

    return target_mac + source_mac + struct.pack(">H", _IPV4) + header(_checksum(header(0))) + message


def _checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:  # noqa: PLR2004 (16 bits)
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
