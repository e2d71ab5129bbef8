"""Packets as expressions of ovn-sb(5) ("Expressions"): what ``ovn-trace`` takes, and their fields."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from kvmcompose.core.expectation import Traffic
from kvmcompose.reachability.logical_network import Address

#: A port that Linux assigns to clients.
CLIENT_PORT = 40000
_BROADCAST = "ff:ff:ff:ff:ff:ff"
_IPV6 = 6


class Packet(msgspec.Struct, frozen=True):
    """A packet that enters at a port of a switch or router. ``what`` are the fields above IP."""

    datapath: str
    inport: str
    eth_source: str
    eth_target: str
    source: Address
    target: Address
    what: str

    @property
    def ip(self) -> str:
        """The prefix of its address fields."""
        return f"ip{self.source.version}"

    @property
    def expression(self) -> str:
        """The microflow."""
        return (
            f'inport == "{self.inport}" && eth.src == {self.eth_source} && eth.dst == {self.eth_target} && '
            f"{self.ip}.src == {self.source} && {self.ip}.dst == {self.target} && ip.ttl == 64 && {self.what}"
        )

    @property
    def fields(self) -> Mapping[str, str]:
        """The fields that a trace may change."""
        return {
            "eth.src": self.eth_source,
            "eth.dst": self.eth_target,
            f"{self.ip}.src": str(self.source),
            f"{self.ip}.dst": str(self.target),
        }


def _icmp(version: int, kind: int) -> str:
    name = "icmp6" if version == _IPV6 else "icmp4"
    return f"{name}.type == {kind} && {name}.code == 0"


def request(probe: Traffic, version: int) -> str:
    """Return the fields of the first packet of a connection."""
    if probe.protocol == "icmp":
        kind = 128 if version == _IPV6 else 8
        return _icmp(version, kind)
    flags = " && tcp.flags == 2" if probe.protocol == "tcp" else ""
    return f"{probe.protocol}.src == {CLIENT_PORT} && {probe.protocol}.dst == {probe.port}{flags}"


def answer(probe: Traffic, version: int) -> str:
    """Return the fields of the packet that answers it."""
    if probe.protocol == "icmp":
        kind = 129 if version == _IPV6 else 0
        return _icmp(version, kind)
    flags = " && tcp.flags == 0x12" if probe.protocol == "tcp" else ""
    return f"{probe.protocol}.src == {probe.port} && {probe.protocol}.dst == {CLIENT_PORT}{flags}"


def arp_request(inport: str, mac: str, source: Address, target: Address) -> tuple[str, Mapping[str, str]]:
    """Return the question for the MAC address of a neighbour (RFC 826), and its fields."""
    expression = (
        f'inport == "{inport}" && eth.src == {mac} && eth.dst == {_BROADCAST} && arp.op == 1 && '
        f"arp.sha == {mac} && arp.spa == {source} && arp.tpa == {target}"
    )
    return expression, {"eth.src": mac, "eth.dst": _BROADCAST}


def arp_reply(
    inport: str, mac: str, address: Address, asker: str, asking: Address
) -> tuple[str, Mapping[str, str]]:
    """Return the answer of a guest to such a question, and its fields."""
    expression = (
        f'inport == "{inport}" && eth.src == {mac} && eth.dst == {asker} && arp.op == 2 && '
        f"arp.sha == {mac} && arp.spa == {address} && arp.tha == {asker} && arp.tpa == {asking}"
    )
    return expression, {"eth.src": mac, "eth.dst": asker}
