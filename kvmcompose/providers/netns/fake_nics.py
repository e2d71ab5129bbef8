"""NICs of containers on a simulated host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import FakeContainer, FakeLink, Place
from kvmcompose.providers.netns.container_nics import ContainerNic, ContainerPlace, FoundNic


class FakeNics:
    """See ``ContainerNics``."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def observe(self, containers: Mapping[str, ContainerPlace]) -> Mapping[str, tuple[FoundNic, ...]]:
        await self._host.call("observe_nics")
        return {key: self._found(place) for key, place in containers.items()}

    async def apply(self, nics: Sequence[tuple[ContainerPlace, ContainerNic]]) -> None:
        await self._host.call("apply_nics")
        changed: list[Place] = []
        for place, nic in nics:
            name, container = self._container(place)
            container.nics[nic.end] = msgspec.to_builtins(nic)
            self._host.world.links[nic.end] = FakeLink(f"{name}/{nic.name}", mtu=nic.mtu)
            changed += [("links", nic.end), ("containers", name)]
        if changed:
            self._host.keep(*changed)

    async def remove(self, ends: Sequence[str]) -> None:
        await self._host.call("remove_nics")
        changed: list[Place] = []
        for end in ends:
            if self._host.world.links.pop(end, None) is not None:
                changed.append(("links", end))
            for name, container in self._host.world.containers.items():
                if container.nics.pop(end, None) is not None:
                    changed.append(("containers", name))
        if changed:
            self._host.keep(*changed)

    def _container(self, place: ContainerPlace) -> tuple[str, FakeContainer]:
        for name, container in self._host.world.containers.items():
            if container.id == place.id and container.pid == place.pid != 0:
                return name, container
        raise DriverError(f"the container {place.id[:12]} has ended: it has no network to join")

    def _found(self, place: ContainerPlace) -> tuple[FoundNic, ...]:
        try:
            _, container = self._container(place)
        except DriverError:
            return ()
        nics = (msgspec.convert(each, ContainerNic) for each in container.nics.values())
        return tuple(
            FoundNic(
                name=nic.name,
                end=nic.end,
                mac=nic.mac,
                mtu=nic.mtu,
                up=True,
                addresses=nic.addresses,
                gateways=nic.gateways,
                link=nic.link,
            )
            for nic in nics
            if nic.end in self._host.world.links
        )
