"""Network interfaces of one host."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network
from typing import Protocol

import msgspec

from kvmcompose.core.deployable import VethPair


class Attached(msgspec.Struct, frozen=True):
    """A subnet that a host is in itself, or a gateway that it sends to, and through which interface."""

    subnet: IPv4Network
    interface: str


class Links(Protocol):
    """Network interfaces of one host (ip-link)."""

    async def attached(self) -> Sequence[Attached]:
        """The IPv4 subnets and gateways of its interfaces."""

    async def present(self, names: Sequence[str]) -> frozenset[str]:
        """Which of these interfaces are there."""

    async def apply(self, veths: Sequence[VethPair], *, up: Sequence[str], mtu: int) -> None:
        """Make the pairs, join their Linux ends to their bridges, set everything up; in one batch.

        ``up``: other interfaces (bridges, NICs) to set up as well.
        """

    async def remove(self, names: Sequence[str]) -> None:
        """Remove interfaces; with one end of a pair goes the other."""
