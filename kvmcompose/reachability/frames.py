"""Ethernet frames as captured: the fields by which a probe and its answer are recognised.

Formats: IEEE 802.3 (EtherType), RFC 826 (ARP), RFC 791 and 8200 (IP), RFC 792 and 4443 (ICMP), RFC 4861
(neighbour discovery), RFC 9293 (TCP), RFC 768 (UDP).
"""

from __future__ import annotations

import ipaddress
import struct
from enum import Enum, auto

import msgspec

_ETHERNET = 14
_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_ICMP, _TCP, _UDP, _ICMP6 = 1, 6, 17, 58
_IPV6_HEADER = 40
_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_MODULUS = 1 << 32
#: The most bytes of a payload that are compared: a capture may have cut off the rest.
_COMPARED = 64


class FrameKind(Enum):
    """What a frame is. ``ANSWER`` answers a TCP connection request: SYN-ACK or RST.

    ``WHO_HAS`` and ``IS_AT`` are ARP or neighbour discovery. ``ERROR`` is an ICMP error, with the addresses
    and ports of the packet that it is about.
    """

    SYN = auto()
    ANSWER = auto()
    UDP = auto()
    ECHO = auto()
    ECHO_REPLY = auto()
    WHO_HAS = auto()
    IS_AT = auto()
    ERROR = auto()


class ProbeFrame(msgspec.Struct, frozen=True, gc=False):
    """A frame. ``source`` and ``target`` are IP addresses, of ``WHO_HAS`` and ``IS_AT`` the one in question.

    ``mark`` is what no translation of addresses changes, and the answer repeats: of TCP the initial sequence
    number, of others the payload. ``is_reset`` is whether an ``ANSWER`` is a RST.
    """

    kind: FrameKind
    eth_source: str
    eth_target: str
    source: str
    target: str
    source_port: int = 0
    target_port: int = 0
    mark: bytes = b""
    is_reset: bool = False


def read_frame(data: bytes) -> ProbeFrame | None:
    """Return what a frame is, None if it is nothing that a probe causes, or is cut off."""
    try:
        return _read(data)
    except (struct.error, IndexError, ValueError):
        return None


def _read(data: bytes) -> ProbeFrame | None:
    eth = (_mac(data[6:12]), _mac(data[0:6]))
    (kind,) = struct.unpack_from(">H", data, 12)
    rest = data[_ETHERNET:]
    if kind == _ARP:
        (operation,) = struct.unpack_from(">H", rest, 6)
        is_question = operation == 1
        address = str(ipaddress.IPv4Address(rest[24:28] if is_question else rest[14:18]))
        return _neighbour(eth, address, is_question=is_question)
    if kind == _IPV4:
        (fragment,) = struct.unpack_from(">H", rest, 6)
        if fragment & 0x1FFF:
            return None
        ends = (str(ipaddress.IPv4Address(rest[12:16])), str(ipaddress.IPv4Address(rest[16:20])))
        return _above(eth, ends, rest[9], rest[(rest[0] & 0x0F) * 4 :])
    if kind == _IPV6:
        ends = (str(ipaddress.IPv6Address(rest[8:24])), str(ipaddress.IPv6Address(rest[24:40])))
        return _above(eth, ends, rest[6], rest[_IPV6_HEADER:])
    return None


def _above(eth: tuple[str, str], ends: tuple[str, str], protocol: int, rest: bytes) -> ProbeFrame | None:
    if protocol == _TCP:
        source, target, sequence, acknowledged = struct.unpack_from(">HHII", rest)
        flags = rest[13]
        if flags & (_SYN | _ACK | _RST) == _SYN:
            return ProbeFrame(FrameKind.SYN, *eth, *ends, source, target, sequence.to_bytes(4, "big"))
        if flags & _ACK and flags & (_SYN | _RST):
            mark = ((acknowledged - 1) % _MODULUS).to_bytes(4, "big")
            return ProbeFrame(FrameKind.ANSWER, *eth, *ends, source, target, mark, bool(flags & _RST))
        return None
    if protocol == _UDP:
        source, target = struct.unpack_from(">HH", rest)
        return ProbeFrame(FrameKind.UDP, *eth, *ends, source, target, rest[8:][:_COMPARED])
    if protocol in (_ICMP, _ICMP6):
        return _icmp(eth, ends, rest, is_6=protocol == _ICMP6)
    return None


def _icmp(eth: tuple[str, str], ends: tuple[str, str], rest: bytes, *, is_6: bool) -> ProbeFrame | None:
    echo, reply, errors = (128, 129, range(1, 5)) if is_6 else (8, 0, (3, 11))
    kind = rest[0]
    if kind in (echo, reply):
        # the sequence number and what follows it; the identifier is translated
        what = FrameKind.ECHO if kind == echo else FrameKind.ECHO_REPLY
        return ProbeFrame(what, *eth, *ends, mark=rest[6:][:_COMPARED])
    if kind in errors:
        return _error(eth, rest[8:])
    if is_6 and kind in (135, 136):
        return _neighbour(eth, str(ipaddress.IPv6Address(rest[8:24])), is_question=kind == 135)  # noqa: PLR2004
    return None


def _error(eth: tuple[str, str], about: bytes) -> ProbeFrame:
    """Return an ICMP error as the ends of the packet that it is about."""
    if about[0] >> 4 == 4:  # noqa: PLR2004 (the version of IP)
        ends = (str(ipaddress.IPv4Address(about[12:16])), str(ipaddress.IPv4Address(about[16:20])))
        protocol, rest = about[9], about[(about[0] & 0x0F) * 4 :]
    else:
        ends = (str(ipaddress.IPv6Address(about[8:24])), str(ipaddress.IPv6Address(about[24:40])))
        protocol, rest = about[6], about[_IPV6_HEADER:]
    ports = struct.unpack_from(">HH", rest) if protocol in (_TCP, _UDP) else (0, 0)
    return ProbeFrame(FrameKind.ERROR, *eth, *ends, *ports)


def _neighbour(eth: tuple[str, str], address: str, *, is_question: bool) -> ProbeFrame:
    return ProbeFrame(FrameKind.WHO_HAS if is_question else FrameKind.IS_AT, *eth, address, address)


def _mac(data: bytes) -> str:
    return data.hex(":")
