"""Network interfaces of a simulated host."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from ipaddress import IPv4Network

from kvmcompose.core.deployable import VethPair
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import FakeLink, Place
from kvmcompose.providers.iplink.interface import Attached, FoundLink


class FakeLinks:
    """See ``Links``."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def attached(self) -> Sequence[Attached]:
        await self._host.call("attached")
        return [Attached(IPv4Network(each), name) for each, name in self._host.world.subnets.items()]

    async def observe(self, names: Collection[str]) -> Mapping[str, FoundLink]:
        await self._host.call("observe_links")
        links = self._host.world.links
        return {name: _found(links[name]) for name in names if name in links}

    async def apply(self, veths: Sequence[VethPair], *, up: Sequence[str], mtu: int) -> None:
        await self._host.call("apply_links")
        links = self._host.world.links
        changed: list[Place] = [("links", name) for name in links.keys() & set(up)]
        for veth in veths:
            for name, peer in ((veth.left, veth.right), (veth.right, veth.left)):
                links.setdefault(name, FakeLink(peer)).mtu = mtu
                links[name].up = True
                changed.append(("links", name))
            if veth.right_is_linux:
                links[veth.right].master = veth.right_bridge
        for name in links.keys() & set(up):
            links[name].up = True
        if changed:
            self._host.keep(*changed)

    async def remove(self, names: Sequence[str]) -> None:
        await self._host.call("remove_links")
        links = self._host.world.links
        for name in names:
            if name in links:
                peer = links.pop(name).peer
                links.pop(peer, None)
                self._host.keep(("links", name), ("links", peer))

    async def arp_answering(self, names: Collection[str]) -> Sequence[str]:
        await self._host.call("arp_answering")
        return [
            each
            for domain in self._host.world.domains.values()
            for each in domain.answers_arp
            if each in names
        ]

    async def leave_arp(self, names: Sequence[str]) -> None:
        await self._host.call("leave_arp")
        for name, domain in self._host.world.domains.items():
            if not set(names).isdisjoint(domain.answers_arp):
                domain.answers_arp = [each for each in domain.answers_arp if each not in names]
                self._host.keep(("domains", name))


def _found(link: FakeLink) -> FoundLink:
    return FoundLink(
        up=link.up,
        mtu=link.mtu,
        peer=link.peer,
        master=link.master,
        attached=link.attached or link.master is not None,
    )
