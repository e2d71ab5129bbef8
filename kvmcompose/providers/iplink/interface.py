"""Network interfaces of one host."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network
from typing import Protocol

import msgspec

from kvmcompose.core.deployable import VethPair


class Attached(msgspec.Struct, frozen=True):
    """A subnet or gateway to which a host is attached, and the interface."""

    subnet: IPv4Network
    interface: str


class Links(Protocol):
    """Network interfaces of one host (ip-link)."""

    async def attached(self) -> Sequence[Attached]:
        """Return the IPv4 subnets and gateways of the host's interfaces."""

    async def present(self, names: Sequence[str]) -> frozenset[str]:
        """Return which of these interfaces exist."""

    async def apply(self, veths: Sequence[VethPair], *, up: Sequence[str], mtu: int) -> None:
        """Create the pairs, attach their Linux ends to their bridges, set everything up; in one batch.

        ``up``: other interfaces (bridges, NICs) to set up as well.
        """

    async def remove(self, names: Sequence[str]) -> None:
        """Remove interfaces; removing one end of a pair removes the other."""
