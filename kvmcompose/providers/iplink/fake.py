"""Network interfaces of a simulated host."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network

from kvmcompose.core.deployable import VethPair
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.providers.iplink.interface import Attached


class FakeLinks:
    """See ``Links``."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def attached(self) -> Sequence[Attached]:
        await self._host.call("attached")
        return [Attached(IPv4Network(each), name) for each, name in self._host.world.subnets.items()]

    async def present(self, names: Sequence[str]) -> frozenset[str]:
        await self._host.call("present")
        return frozenset(names) & frozenset(self._host.world.links)

    async def apply(self, veths: Sequence[VethPair], *, up: Sequence[str], mtu: int) -> None:  # noqa: ARG002
        await self._host.call("apply_links")
        for veth in veths:
            for name in (veth.left, veth.right):
                if name not in self._host.world.links:
                    self._host.world.links.append(name)
        self._host.keep()

    async def remove(self, names: Sequence[str]) -> None:
        await self._host.call("remove_links")
        links = self._host.world.links
        for name in names:
            if name in links:
                at = links.index(name)
                del links[at : at + 2]  # pairs are created together, the left end first
        self._host.keep()
