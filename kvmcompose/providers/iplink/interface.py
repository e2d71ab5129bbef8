"""Network interfaces of one host."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from ipaddress import IPv4Network
from typing import Protocol

import msgspec

from kvmcompose.core.deployable import VethPair


class Attached(msgspec.Struct, frozen=True):
    """A subnet or gateway to which a host is attached, and the interface."""

    subnet: IPv4Network
    interface: str


class FoundLink(msgspec.Struct, frozen=True, kw_only=True):
    """A network interface, as Linux has it. ``mtu`` is in bytes.

    ``peer`` is the other end of a veth pair, None for another kind of interface. ``master`` is the bridge
    that it is a port of; that of an interface in Open vSwitch's kernel datapath is ``ovs-system``.
    ``attached`` is whether a switch has this very interface open. A port whose interface is not attached is
    dead: Open vSwitch keeps an interface open that was removed and created again meanwhile.
    """

    up: bool
    mtu: int
    peer: str | None = None
    master: str | None = None
    attached: bool = False


class Links(Protocol):
    """Network interfaces of one host (ip-link)."""

    async def attached(self) -> Sequence[Attached]:
        """Return the IPv4 subnets and gateways of the host's interfaces."""

    async def observe(self, names: Collection[str]) -> Mapping[str, FoundLink]:
        """Return those of these interfaces that exist, in one command, whatever the number."""

    async def apply(self, veths: Sequence[VethPair], *, up: Sequence[str], mtu: int) -> None:
        """Create the pairs, attach their Linux ends to their bridges, set everything up; in one batch.

        Of pairs that exist, what differs is set: MTU in bytes, the bridge of the Linux end.
        ``up``: other interfaces (bridges, NICs) to set up as well.
        """

    async def remove(self, names: Sequence[str]) -> None:
        """Remove interfaces; removing one end of a pair removes the other."""

    async def arp_answering(self, names: Collection[str]) -> Sequence[str]:
        """Return at which of these interfaces the host itself answers ARP requests: see ``hosts.arp``."""

    async def leave_arp(self, names: Sequence[str]) -> None:
        """Have the host answer no ARP request at these interfaces."""
