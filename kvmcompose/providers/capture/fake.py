"""Packets of a simulated host, as pcap (IETF draft-ietf-opsawg-pcap)."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncGenerator
from ipaddress import IPv4Address, ip_address

from kvmcompose.core.commands import MAX_SNAPLEN, Capture
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import FakeProbe, SimulatedHost
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
    """See ``Captures``. Guests ping each other while any is on; filters have no effect.

    What a guest is made to send arrives everywhere, and is answered, unless ``arrive:TAP:PROTOCOL:PORT`` is
    made to fail.
    """

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def check_filter(self, expression: str) -> str | None:
        await self._host.call("check_filter", expression)
        return None if expression.count("(") == expression.count(")") else "syntax error"

    async def interface(self, name: str, wanted: Capture) -> AsyncGenerator[bytes]:
        await self._host.call("capture", name)
        seen = len(self._host.probes)
        async for chunk in self._pings(wanted):
            yield chunk
            while seen < len(self._host.probes):
                yield await self._passing(name, self._host.probes[seen], seen)
                seen += 1

    async def _passing(self, name: str, probe: FakeProbe, number: int) -> bytes:
        """Return what an interface shows of a packet and its answer."""
        nics = (nic for domain in self._host.world.domains.values() for nic in domain.hardware.nics)
        mac = next((nic.mac for nic in nics if nic.tap == name), probe.mac)
        if mac != probe.mac:
            try:
                await self._host.call("arrive", f"{name}:{probe.protocol}:{probe.port}")
            except DriverError:
                return b""
        there, back = probe_frames(probe, mac, number)
        return _packet(there, time.time()) + _packet(back, time.time())

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
    return _packet(_ping(number), seconds, snaplen)


def _packet(packet: bytes, seconds: float, snaplen: int = MAX_SNAPLEN) -> bytes:
    kept = packet[:snaplen]
    whole, part = divmod(round(seconds * 1e6), 10**6)
    return struct.pack("<IIII", whole, part, len(kept), len(packet)) + kept


def probe_frames(probe: FakeProbe, mac: str, number: int) -> tuple[bytes, bytes]:
    """Return a packet as the guest with a MAC address gets it, and the answer of that guest; IPv4 only."""
    target = ip_address(probe.address).packed[:4]
    ports, reverse = struct.pack(">HH", 40000, probe.port), struct.pack(">HH", probe.port, 40000)
    match probe.protocol:
        case "tcp":
            flags = struct.pack(">BB", 0x50, 0x02), struct.pack(">BB", 0x50, 0x14)
            above = ports + struct.pack(">II", number, 0) + flags[0] + bytes(6)
            answer = reverse + struct.pack(">II", 0, number + 1) + flags[1] + bytes(6)
        case "udp":
            above, answer = ports + bytes(4) + probe.token.encode(), reverse + bytes(4)
        case _:
            echo = struct.pack(">HH", 1, 1) + probe.token.encode()
            above, answer = bytes([8, 0, 0, 0]) + echo, bytes([0, 0, 0, 0]) + echo
    protocol = {"tcp": 6, "udp": 17}.get(probe.protocol, _ICMP)
    source, ends = bytes([192, 0, 2, 9]), (_mac(mac), _mac(probe.mac))

    def made(eth: bytes, addresses: bytes, payload: bytes) -> bytes:
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
        return eth + struct.pack(">H", _IPV4) + header + addresses + payload

    return made(ends[0] + ends[1], source + target, above), made(ends[1] + ends[0], target + source, answer)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


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
